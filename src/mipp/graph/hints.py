"""Hints at what is wrong with inputs, where there is evidence for it."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

_SPREAD, _SHIFT = 4.0, 3.0
"""Median factor between variances, and median shift of means in standard deviations, that no similar data show."""
_ROWS = 32
"""Values per channel below which a variance says little."""


_CODE = {
    "does not require grad": " It takes gradients, and pruning runs the model without; give it the module that is "
    "differentiated, by itself.",
    "HigherOrderOperator": " Pruning cannot look into that operator; where the model lets its attention be chosen, "
    'choose "sdpa" or "eager".',
}
"""By what torch says of a forward pass that cannot be followed."""


def hint_at_code(error: BaseException) -> str:
    """A sentence on a forward pass that takes gradients, as for the forces of an energy, or calls flex_attention."""
    return next((hint for words, hint in _CODE.items() if words in str(error)), "")


def hint_at_inputs(model: nn.Module, inputs: Sequence[Tensor]) -> str:
    """A sentence on bytes, or on channels that come last, for a model that does not run on them; else nothing."""
    if any(tensor.dtype == torch.uint8 for tensor in inputs):
        return (
            " The input holds bytes (uint8); expected floats, normalised as in training, such as (images / 255 - mean) "
            "/ std."
        )
    convolution = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    images = next((tensor for tensor in inputs if tensor.ndim == 4), None)
    if convolution is None or images is None or images.shape[1] == convolution.in_channels:
        return ""
    if images.shape[3] == convolution.in_channels:
        return (
            " The input looks like [samples, height, width, channels]; expected [samples, channels, height, width], "
            "as images.permute(0, 3, 1, 2) makes it."
        )
    return ""


class PassEnded(BaseException):
    """Ends a forward pass of which nothing more is wanted; no code of the model's handles it."""


class BatchNormInput:
    """Compares what the first batch norm of a pass reads with what it read in training: its running statistics.

    Used as a hook before all batch norms; it ends the pass.
    """

    def __init__(self, names: dict[nn.Module, str]) -> None:
        self._names = names
        self.sentence = ""

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self._compare(module, args[0])
        raise PassEnded

    def _compare(self, module: nn.Module, read: Tensor) -> None:
        x = read.detach().double().transpose(0, 1).flatten(1)
        mean, variance = module.running_mean, module.running_var
        assert isinstance(mean, Tensor)
        assert isinstance(variance, Tensor)
        live = variance > 1e-8
        if x.shape[1] < _ROWS or not bool(live.any()):
            return
        mean, variance, x = mean.double()[live], variance.double()[live], x[live]
        shift = float(((x.mean(1) - mean).abs() / variance.sqrt()).median())
        spread = float((x.var(1) / variance).median())
        if math.isnan(shift) or math.isnan(spread):  # no number is said to be none where it is read
            return
        if shift > _SHIFT or not 1 / _SPREAD <= spread <= _SPREAD:
            self.sentence = (
                f"Batch norm '{self._names[module]}' reads values whose variance is {spread:.3g} times what it was in "
                f"training, and whose mean is {shift:.3g} deviations away (medians over channels). Are the calibration "
                "data normalised as in training?"
            )


def trained_batch_norms(model: nn.Module) -> dict[nn.Module, str]:
    """Batch norms whose running statistics are not those they begin with, by name; weights may lack the counters."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    return {m: name for name, m in model.named_modules() if isinstance(m, kinds) and _was_trained(m)}


def _was_trained(norm: nn.Module) -> bool:
    mean, variance = norm.running_mean, norm.running_var
    if not isinstance(mean, Tensor) or not isinstance(variance, Tensor):
        return False
    return bool((mean != 0).any() or (variance != 1).any())
