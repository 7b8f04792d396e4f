"""Augmentation of whole batches where they lie; every function is told what was drawn and draws nothing itself."""

import torch
import torch.nn.functional as F
from torch import Tensor


def crop_flip(images: Tensor, down: Tensor, right: Tensor, mirrored: Tensor, margin: int) -> Tensor:
    """Images shifted, with black where nothing was, and then mirrored.

    Args:
        images: `[B, C, H, W]`.
        down: int64 `[B]`: the row, from 0 to `2 * margin`, of the padded image at which the crop begins.
        right: int64 `[B]`: the column, likewise.
        mirrored: bool `[B]`: which ones are mirrored.
        margin: pixels of padding on each side.

    Returns:
        As the images, but with the channels last in memory.
    """
    height, width = images.shape[2:]
    padded = F.pad(images, (margin, margin, margin, margin)).permute(0, 2, 3, 1)
    columns = torch.arange(width, device=images.device).expand(len(images), width)
    columns = right[:, None] + torch.where(mirrored[:, None], columns.flip(1), columns)
    rows = down[:, None] + torch.arange(height, device=images.device)
    image = torch.arange(len(images), device=images.device)[:, None, None]
    return padded[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def cutout(images: Tensor, row: Tensor, column: Tensor, side: int) -> Tensor:
    """Images with a square of zeros, part of which may lie outside (DeVries and Taylor, 2017).

    Args:
        images: `[B, C, H, W]`, normalised, so that zero is the mean.
        row: int64 `[B]`: the row of the square's centre, from 0 to H - 1.
        column: int64 `[B]`: its column.
        side: of the square, in pixels.
    """
    hole = _inside(row, images.shape[2], side)[:, None, :, None] & _inside(column, images.shape[3], side)[:, None, None]
    return images.masked_fill(hole, 0)


def mixup(images: Tensor, partners: Tensor, share: Tensor) -> Tensor:
    """Each image mixed with its partner (Zhang et al., ICLR 2018).

    Args:
        images: `[B, C, H, W]`.
        partners: Likewise. A batch is drawn at random, so it may be the same backwards.
        share: `[]`: of the image itself, in [0, 1].
    """
    return partners.lerp(images, share)


def _inside(centre: Tensor, size: int, side: int) -> Tensor:
    first = centre[:, None] - side // 2
    place = torch.arange(size, device=centre.device)
    return (place >= first) & (place < first + side)
