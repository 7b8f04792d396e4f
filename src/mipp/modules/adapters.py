"""Facts about types of layers that neither their tensors nor their ops show. CONTRIBUTING.md says when to add one.

A subclass has the adapter of the nearest class above it that has one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any

from torch import Tensor, nn

Sizes = Callable[[Any, Tensor], dict[str, Any]]


@dataclass(frozen=True)
class Adapter:
    """The facts about one type of layer.

    Attributes:
        sizes: Its size attributes, from the layer and the tensor that tells them.
        tensor: Names of that tensor; the first that is there counts.
        counting: An attribute that counts nodes while the layer runs, such as `groups`; "" for none.
        open: Lets a layer, changed in place, take its sizes from its weights, where it takes them from elsewhere.
        refresh: Called after its tensors were cut, in place.
    """

    sizes: Sizes = lambda _, __: {}
    tensor: tuple[str, ...] = ("weight",)
    counting: str = ""
    open: Callable[[Any], object] | None = None
    refresh: Callable[[Any], None] = lambda _: None


ADAPTERS: dict[type[nn.Module], Adapter] = {}
"""The adapters by the class of the layer; those of twins stand beside these."""


def adapter_of(module: nn.Module) -> Adapter:
    """The adapter of a layer; one that tells nothing for layers of which nothing has to be told."""
    return next((ADAPTERS[kind] for kind in type(module).__mro__ if kind in ADAPTERS), Adapter())


def layer_sizes(module: nn.Module) -> dict[str, Any]:
    """The size attributes of a standard layer, read off its tensors."""
    adapter = adapter_of(module)
    for name in adapter.tensor:
        owner, _, attribute = name.rpartition(".")
        tensor = getattr(attrgetter(owner)(module) if owner else module, attribute, None)
        if isinstance(tensor, Tensor):
            return adapter.sizes(module, tensor)
    return {}


def open_layers(model: nn.Module) -> nn.Module:
    """Lets all layers of a model, changed in place, take their sizes from their weights."""
    for module in model.modules():
        opener = adapter_of(module).open
        if opener is not None:
            opener(module)
    return model


def _recurrent(module: Any, weight: Tensor) -> dict[str, Any]:
    gates = {"LSTM": 4, "GRU": 3}.get(getattr(module, "mode", type(module).__name__.removesuffix("Cell")), 1)
    sizes = {"input_size": weight.shape[1], "hidden_size": weight.shape[0] // gates}
    if getattr(module, "proj_size", 0):
        sizes["proj_size"] = module.weight_hr_l0.shape[0]
    return sizes


def _list_weights(module: Any) -> None:
    """torch's recurrent layers list their weights a second time."""
    module._flat_weights = [getattr(module, name, None) for name in module._flat_weights_names]


_conv, _norm, _instance = nn.modules.conv, nn.modules.batchnorm, nn.modules.instancenorm
_norms = partial(Adapter, lambda _, w: {"num_features": len(w)}, ("weight", "running_mean"))
_shaped = Adapter(lambda _, w: {"normalized_shape": tuple(w.shape)}, counting="normalized_shape")
ADAPTERS |= {
    nn.Linear: Adapter(lambda _, w: {"out_features": w.shape[0], "in_features": w.shape[1]}),
    _conv._ConvNd: Adapter(
        lambda m, w: {"out_channels": w.shape[0], "in_channels": w.shape[1] * m.groups}, counting="groups"
    ),
    _conv._ConvTransposeNd: Adapter(
        lambda m, w: {"in_channels": w.shape[0], "out_channels": w.shape[1] * m.groups}, counting="groups"
    ),
    _norm._NormBase: _norms(),
    _instance._InstanceNorm: _norms(counting="num_features"),
    nn.LayerNorm: _shaped,
    nn.RMSNorm: _shaped,
    nn.GroupNorm: Adapter(lambda _, w: {"num_channels": len(w)}, counting="num_groups"),
    nn.Embedding: Adapter(lambda _, w: {"num_embeddings": w.shape[0], "embedding_dim": w.shape[1]}),
    nn.PReLU: Adapter(lambda _, w: {"num_parameters": len(w)}),
    nn.RNNBase: Adapter(_recurrent, ("weight_ih_l0",), refresh=_list_weights),
    nn.RNNCellBase: Adapter(_recurrent, ("weight_ih",)),
}
