"""Small images for the tests of the zoo's data."""

import numpy as np
import torch
from numpy.typing import NDArray

from mipp.zoo import ImageData

Bytes = NDArray[np.uint8]


def tiny(count: int = 10, channels: int = 2) -> ImageData:
    images = torch.randint(0, 256, (count, channels, 4, 4), generator=torch.Generator().manual_seed(0))
    mean, std = (0.5, 0.25)[:channels], (0.2, 0.3)[:channels]
    return ImageData(images.to(torch.uint8), torch.arange(count) % 5, 5, mean, std, "tiny", "train")
