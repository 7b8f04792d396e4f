"""The entries of tensors that nodes consist of."""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from mipp.graph.nodes import NodeGroup, ParamSlice


def weights_by_node(group: NodeGroup, tensors: Mapping[str, Tensor], *, reads: bool | None) -> Iterator[Tensor]:
    """The weights of each node of a group, slice by slice, in float64 on the CPU, shape [nodes, entries].

    Args:
        group: The group.
        tensors: Values by name of the parameter; names not in it are left out.
        reads: Only the weights that read the nodes (True), only those that produce them (False), or both (None).
    """
    for s in group.slices:
        if s.tensor in tensors and reads in (None, s.reads):
            tensor = tensors[s.tensor].detach()
            tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor  # the new axis comes last
            rows = tensor.double().cpu().movedim(s.axis, 0)
            yield rows.reshape(len(rows), -1)[torch.from_numpy(s.positions)].flatten(1)


def sum_by_node(
    group: NodeGroup, tensors: Mapping[str, Tensor], score: Callable[[Tensor], Tensor], *, reads: bool | None
) -> Tensor:
    """The sum over the slices of a score of the weights of each node, shape [nodes]; 0 where there are none."""
    parts = map(score, weights_by_node(group, tensors, reads=reads))
    return sum(parts, torch.zeros(group.size, dtype=torch.float64))


def axis_factor(part: ParamSlice, values: Tensor, tensor: Tensor) -> Tensor:
    """Values of nodes (shape [nodes]) at their positions in one axis of a tensor, 1 elsewhere; broadcasts to it."""
    positions = torch.from_numpy(part.positions).to(tensor.device)
    factors = values.to(tensor).repeat_interleave(positions.shape[1])
    along = torch.ones(tensor.shape[part.axis], dtype=tensor.dtype, device=tensor.device)
    along = along.index_put((positions.flatten(),), factors)
    return along.reshape([-1 if axis == part.axis else 1 for axis in range(tensor.ndim)])
