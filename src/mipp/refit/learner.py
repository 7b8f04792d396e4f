"""The pruned model as it learns: a copy in the types and layouts that train best, with emptied groups kept silent."""

import timeit
from collections.abc import Mapping
from functools import cache, partial

import torch
from torch import Tensor, nn

from mipp.graph.call import Call
from mipp.modules.copies import cast, full_copy
from mipp.plan.plan import PruningPlan
from mipp.surgery.cut import apply

_SIDE = 256


@torch.no_grad()
def audible_factors(plan: PruningPlan, dense: nn.Module) -> dict[str, Tensor]:
    """Factors of the cut model's weights: 0 for those that read nodes which stand in for emptied groups, 1 for others.

    Parameters without any 0 are left out.
    """
    ones = full_copy(dense)
    for parameter in ones.parameters():
        parameter.fill_(1)
    return {name: factors for name, factors in apply(plan, ones).named_parameters() if not factors.all()}


def multiplies_bfloat16(device: torch.device) -> bool:
    """True if a device has instructions for products in bfloat16, and they are faster than those in float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported() and _bfloat16_is_faster()


@cache
def _bfloat16_is_faster() -> bool:
    """Measured once in a process: of processors with the same instructions, some take half of the time, some twice."""
    matrices = [torch.ones(_SIDE, _SIDE, dtype=dtype, device="cpu") for dtype in (torch.bfloat16, torch.float32)]
    narrow, wide = (min(timeit.repeat(partial(torch.mm, m, m), number=1, repeat=9)) for m in matrices)
    return narrow < wide


def learning_copy(model: nn.Module, *, images: bool) -> nn.Module:
    """A copy in eval mode; float16 becomes float32, as the smallest gradients are none of its numbers."""
    copied = full_copy(model)
    copied.eval()
    cast(copied, lambda _, tensor: torch.float32 if tensor.dtype == torch.float16 else tensor.dtype)
    for tensor in [*copied.parameters(), *copied.buffers()]:
        if images and tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return copied


def widen(call: Call) -> Call:
    return call.map(lambda tensor: tensor.float() if tensor.dtype == torch.float16 else tensor)


def silence(model: nn.Module, factors: Mapping[str, Tensor]) -> None:
    """Sets weights that read nodes which stand in for emptied groups to zero again."""
    for name, parameter in model.named_parameters():
        if name in factors:
            parameter.mul_(factors[name].to(parameter))


def narrow_products(device: torch.device) -> torch.autocast:
    """Autocast to bfloat16 where the processor multiplies it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=multiplies_bfloat16(device))
