"""Parts of tensors, copied in the ways that torch is fast at: whole rows, or columns, of one matrix."""

import torch
from torch import Tensor


def take(tensor: Tensor, dim: int, places: Tensor) -> Tensor:
    """Some positions along a dimension; if it is the last, out of rows of a matrix, which takes a tenth of the time."""
    if 1 < dim == tensor.ndim - 1:
        rows = tensor.reshape(-1, tensor.shape[-1])
        return rows.index_select(1, places).reshape(*tensor.shape[:-1], len(places))
    return tensor.index_select(dim, places)


def take_rows(samples: Tensor, places: Tensor) -> Tensor:
    """Rows of samples [samples, positions, channels] at places [samples, places], as rows of one matrix.

    torch copies rows of a matrix with all its threads, and those of the second of three dimensions with one.
    """
    first = torch.arange(len(samples))[:, None] * samples.shape[1]
    rows = samples.reshape(-1, samples.shape[2]).index_select(0, (first + places).flatten().to(samples.device))
    return rows.view(*places.shape, samples.shape[2])
