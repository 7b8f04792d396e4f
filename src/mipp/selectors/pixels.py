"""Selection of inputs: which pixels inform about the first layer, as nodes do about the layer that reads them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import mipp
from mipp.data.calibration import Batch, Calibration, read
from mipp.errors import CalibrationError, MippError, MissingRequirementError, UnsupportedModelError, quote
from mipp.estimators import Samples
from mipp.graph.builder import Draft
from mipp.graph.nodes import PruningGraph, Site
from mipp.modules.placement import device_of, place_model
from mipp.modules.wrappers import unwrap
from mipp.pipeline.checks import check_method, check_option, check_seed
from mipp.plan.elimination import Progress, backward_elimination, terc
from mipp.runtime.default_device import own_default_device
from mipp.runtime.mistakes import admit_mistakes
from mipp.runtime.random_states import own_random_states
from mipp.runtime.requirements import DEMO, require
from mipp.selectors.number import count_features
from mipp.statistics.layer_samples import Reading, observe_sites

DEFAULT_METHOD = mipp.methods.MIPP.paper(estimator="gaussian", order="greedy")


@dataclass(frozen=True)
class InputSelection:
    """The inputs of a model that carry information, and those that are kept.

    Attributes:
        shape: Shape of one input; of an image, without its channels: all channels of a pixel stay or go together.
        kept: The inputs that stay, counted row by row, ascending.
        information: I(X_i; first layer) of every input by itself, in nats.
        method: `repr` of the method that chose them.
    """

    shape: tuple[int, ...]
    kept: tuple[int, ...]
    information: tuple[float, ...]
    method: str

    @property
    def mask(self) -> NDArray[np.bool_]:
        """True for each input that stays, in the shape of one input."""
        return np.isin(np.arange(len(self.information)), self.kept).reshape(self.shape)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able data."""
        return {
            "shape": list(self.shape),
            "kept": list(self.kept),
            "information": list(self.information),
            "method": self.method,
        }

    def picture(self, path: str | Path) -> None:
        """Draws the selected inputs; the format is that of the suffix, such as .png or .svg.

        Raises:
            MissingRequirementError: matplotlib is not installed.
        """
        figure = require("matplotlib.figure", "The picture", DEMO).Figure(figsize=(4, 4), layout="constrained")
        axes = figure.add_subplot()
        axes.imshow(np.atleast_2d(self.mask), cmap="Blues", vmin=0, vmax=1.3, interpolation="nearest")
        axes.set(xticks=[], yticks=[], title=f"{len(self.kept)} of {len(self.information)} inputs selected")
        figure.savefig(path)


@admit_mistakes()
@own_default_device()
@own_random_states()
@torch.no_grad()
def select_inputs(
    model: nn.Module,
    calibration: Calibration | Iterable[Any],
    method: mipp.methods.MIPP | None = None,
    *,
    num_features: int | float | None = None,
    seed: int = 0,
    progress: Progress = iter,
) -> InputSelection:
    """Selects the inputs that inform about the nodes of the first layer.

    Pass a pruned model to select for the nodes it kept (arXiv 2411.00147, appendix E.1).

    Args:
        model: Its first tensor argument is the input, [samples, features] or [samples, channels, height, width].
        calibration: As for `mipp.prune`.
        method: The test, its estimator and its order; the paper's by default, in the closed form and the order
            "greedy", which keeps one of two inputs that say the same. Maps are always collapsed.
        num_features: Keep this many inputs, or this fraction of them (a float), instead of those that pass the test.
        seed: Seed of estimators that draw random numbers.
        progress: Wraps the steps to show how far it is.

    Raises:
        CalibrationError: There are too few samples, or they are not of one shape.
        MissingRequirementError: Neither a confidence nor a number is given.
    """
    model, method = unwrap(model), DEFAULT_METHOD if method is None else method
    check_option("method", method, mipp.methods.MIPP, "mipp.methods.MIPP(), whose test is used")
    check_method(method)
    check_option("num_features", num_features, Real, "a number of inputs, or a fraction of them")
    check_seed(seed)
    if num_features is None and method.confidence is None:
        raise MissingRequirementError(
            "select_inputs needs to know how many inputs to keep: pass num_features=100, or a method with a "
            "confidence, such as mipp.methods.MIPP(confidence=0.95)."
        )
    model = place_model(model)
    data = Calibration.of(calibration)
    if data.sharded:
        raise MippError("select_inputs reads all data in one process; expected a Calibration without sharded=True.")
    batches = read(data, device_of(model))
    samples, shape = _samples(model, batches, method)
    number = None if num_features is None else count_features(num_features, len(samples.blocks))
    if num_features is not None and number is None:
        raise CalibrationError(
            f"num_features is {quote(num_features)}; the model has {len(samples.blocks)} inputs, expected as many at "
            "most, or "
            "a fraction of them such as 0.5."
        )
    information = method.estimate(samples, torch.Generator().manual_seed(int(seed)))
    marginal = tuple(information.marginal().tolist())
    if number is not None:
        kept = backward_elimination(information, method.order, progress).kept(number)
    else:
        assert method.confidence is not None
        kept = terc(information, method.confidence, method.order, margin=method.margin, progress=progress)
    return InputSelection(shape, kept, marginal, repr(method))


def _samples(model: nn.Module, batches: Sequence[Batch], method: mipp.methods.MIPP) -> tuple[Samples, tuple[int, ...]]:
    graph = Draft(model, batches[0].call).graph()
    reading = Reading(method.collapse or "l1", method.activation, method.positions)
    observed = observe_sites(model, graph, _first_sites(graph, model), batches, reading)
    inputs = [batch.call.tensors[0] for batch in batches]
    shapes = {tuple(x.shape[1:]) for x in inputs}
    if len(shapes) > 1:
        raise CalibrationError(f"The inputs have shapes {sorted(shapes)}; pixels can be selected from one shape only.")
    x = torch.cat(inputs)
    y = torch.cat([torch.cat(site.outputs) for site in observed.values()], 1)
    channels, *size = x.shape[1:] if x.ndim > 2 else (1, *x.shape[1:])
    blocks = torch.arange(x[0].numel()).reshape(channels, -1).mT
    noise = torch.full((y.shape[1],), method.usual_noise)
    return Samples(x.flatten(1), y, blocks, torch.arange(len(x), device=x.device), noise), tuple(size)


def _first_sites(graph: PruningGraph, model: nn.Module) -> list[Site]:
    """Layers that read the input through no other layer."""
    program, late = graph.program, set[int]()
    sites = {site.op: site for site in graph.sites}
    early = set(program.inputs[:1])
    first = []
    for op in program.ops:
        if any(value in late for value in op.inputs):
            late.update(op.outputs)
        elif any(value in early for value in op.inputs):
            (late if op.index in sites else early).update(op.outputs)
            first.extend([sites[op.index]] if op.index in sites else [])
    if not first:
        raise UnsupportedModelError(f"No layer of {type(model).__name__} reads its input through a weight.")
    return first
