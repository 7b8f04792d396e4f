"""`mipp prune`."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

import mipp
from mipp.cli import arguments, console, sources
from mipp.cli.errors import CommandError
from mipp.cli.options import Budgeted, Chosen, ModelSource, Source
from mipp.storage.places import PAGE, PLAN


def run(
    source: Source,
    budgeted: Budgeted,
    chosen: Chosen,
    checkpoint: Path | None,
    out: Path | None,
    *,
    json: bool,
    quiet: bool,
) -> None:
    """Prunes, saves and prints the report."""
    refuse_existing(out)
    with console.only_results_on_stdout():
        call = prepare(source, [_budget(budgeted)], chosen, quiet=quiet)
        result = mipp.prune(
            call.model, call.calibration, call.budgets[0], call.method, checkpoint=checkpoint, **call.options
        )
    (result,) = since_dense([result], source.model, quiet=quiet)
    if out is not None:
        saver(source)(result, out, out)
    record = {"report": result.report.to_dict(), "kept": result.plan.kept, "resumed": result.resumed}
    console.show({**record, "out": None if out is None else str(out)}, result.report, json=json)
    console.note(_what_next(out, source.model, resumed=result.resumed), quiet=quiet)


def _budget(given: Budgeted) -> mipp.Budget:
    amounts = {name: arguments.amount(name, text) for name, text in given.amounts.items() if text is not None}
    runtime: Any = given.runtime
    return mipp.Budget(
        **amounts,
        widths=arguments.widths(given.width or ()),
        min_keep=given.min_keep,
        round_to=given.round_to,
        uniform=given.uniform,
        runtime=runtime,
    )


@dataclass(frozen=True)
class Call:
    """The arguments of `mipp.prune`."""

    model: nn.Module
    calibration: mipp.Calibration | Iterable[Any]
    budgets: Sequence[mipp.Budget]
    method: mipp.methods.Method
    options: dict[str, Any]


def prepare(source: Source, budgets: Sequence[mipp.Budget], chosen: Chosen, *, quiet: bool) -> Call:
    """Opens the model and the data, and refuses what cannot be pruned from the command line."""
    method, device = arguments.method(chosen.method, chosen.settings or []), sources.device(chosen.device)
    model, data = sources.open_source(source, hold_out=bool(chosen.evaluate))
    if mipp.methods.needs_of(method).training:
        raise CommandError(
            f"{chosen.method} trains the network, and no option says how; expected a method that does not. `mipp "
            "compare` trains, and so does mipp.prune(train=...) in Python."
        )
    if mipp.methods.needs_of(method).labels and data.loss_fn is None:
        raise CommandError(
            f"{chosen.method} needs labels; expected a data set by name, --labels FILE.npy beside a .npy file, a "
            ".safetensors file with 'labels', or --images with a folder for each class."
        )
    if not all(budget.has_target for budget in budgets) and getattr(method, "confidence", None) is None:
        raise CommandError(
            "Nothing says how small the network is to be; expected --macs 0.5, --params, --nodes, --latency-ms, "
            "--width, or --set confidence=0.95."
        )
    if chosen.evaluate and data.evaluate is None:
        raise CommandError(
            "--evaluate needs data with labels or of a language model: a data set by name, images in class folders, or "
            "--text for a causal language model."
        )
    if source.model.weights is None and not source.model.library:
        console.note("No --weights: the model is pruned as its factory made it.", quiet=quiet)
    options: dict[str, Any] = {
        "exclude": chosen.exclude or [],
        "compensate": chosen.compensate,
        "recover": chosen.recover,
        "evaluate": None if chosen.evaluate is False else data.evaluate,
        "loss_fn": data.loss_fn,
        "device": device,
        "seed": source.seed,
        "progress": not quiet,
        "memory_limit": chosen.memory_limit,
        "effort": chosen.effort,
    }
    return Call(model, data.calibration(source.max_samples), budgets, method, options)


def since_dense(results: list[mipp.Result], model: ModelSource, *, quiet: bool) -> list[mipp.Result]:
    """The results with plans for the dense model, where the model given was pruned before."""
    folder = model.weights if model.weights is not None else Path(model.within) if model.library else None
    if folder is None or not (folder / PLAN).is_file():
        return results
    try:
        earlier = mipp.load_plan(folder / PLAN)
        return [replace(result, plan=earlier.then(result.plan)) for result in results]
    except mipp.PlanMismatchError as error:
        console.note(f"The plan is for the model in {folder}, not for its dense model: {error}", quiet=quiet)
        return results


def refuse_existing(out: Path | None) -> None:
    """Refuses a folder that holds something."""
    if out is not None and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise CommandError(
            f"--out {out} exists already; nothing is overwritten. Choose another folder or remove this one."
        )


def saver(source: Source) -> Callable[[mipp.Result, Path, Path], object]:
    """A function `save(result, folder, name)`; of a Hugging Face model, it makes a folder of that kind.

    The name is that of the folder in the end, for the card of the model.
    """
    if source.model.library != "hf":
        return lambda result, out, _: result.save(out)
    from mipp.cli import pretrained

    processor = pretrained.processor(source.model)
    return lambda result, out, named: pretrained.save(result, source.model, processor, source.data.words, out, named)


def _what_next(out: Path | None, source: ModelSource, *, resumed: bool) -> str:
    went_on = "Went on from the checkpoint. " if resumed else ""
    if out is None:
        return f"{went_on}Nothing was written; --out FOLDER saves plan, weights and report."
    load = f"mipp.from_pretrained({str(out)!r})" if source.library == "hf" else f"mipp.load({str(out)!r}, model)"
    return f"{went_on}Saved in {out}: open {out / PAGE}, or load it with {load}."
