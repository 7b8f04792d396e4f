"""Weight norm: a weight that is kept as a direction and a length, under the names that torch gives the two."""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.weight_norm import WeightNorm


def lengths_of(model: nn.Module) -> dict[str, str]:
    """The names of the lengths, by those of the directions that they belong to."""
    found: dict[str, str] = {}
    for path, module in model.named_modules():
        start = f"{path}." if path else ""
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm):
                found[f"{start}{hook.name}_v"] = f"{start}{hook.name}_g"
        for name, chain in module.parametrizations.items() if parametrize.is_parametrized(module) else ():
            if isinstance(chain[0], parametrizations._WeightNorm):
                originals = f"{start}parametrizations.{name}.original"
                found[f"{originals}1"] = f"{originals}0"
    held = dict(model.named_parameters())
    return {direction: length for direction, length in found.items() if direction in held and length in held}


def effective(model: nn.Module) -> dict[str, Tensor]:
    """Parameters as layers compute with them: weights under the names of their directions, without the lengths."""
    lengths, held = lengths_of(model), dict(model.named_parameters())
    weights: dict[str, Tensor] = {name: tensor for name, tensor in held.items() if name not in lengths.values()}
    for name, length in lengths.items():
        v, g = held[name].detach().double(), held[length].detach().double()
        weights[name] = g * v / torch.linalg.vector_norm(v, dim=_over(v, g), keepdim=True).clamp_min(1e-300)
    return weights


@torch.no_grad()
def settle(model: nn.Module) -> None:
    """Makes lengths zero and directions one where a direction is all zero: torch would divide zero by zero."""
    held = dict(model.named_parameters())
    for name, length in lengths_of(model).items():
        v, g = held[name], held[length]
        gone = ~v.bool().any(dim=_over(v, g), keepdim=True)
        v.masked_fill_(gone, 1)
        g.masked_fill_(gone.view_as(g), 0)


def _over(v: Tensor, g: Tensor) -> tuple[int, ...]:
    """The dimensions of a direction that its length is one number for."""
    return tuple(dim for dim in range(v.ndim) if g.ndim == 0 or g.shape[dim] == 1)
