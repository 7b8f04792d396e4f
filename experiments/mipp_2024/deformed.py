"""The deformed MNIST of Figure 1: each image is deformed once, in one way, and stays so."""

from dataclasses import replace

import torch

from mipp.errors import MissingRequirementError
from mipp.zoo import ImageData

WAYS = ("none", "rotation", "scale", "shear", "perspective", "elastic")
"""In which an image is deformed, with equal probability. The paper shows them, but names neither them nor their
strengths: these are ours."""


def deformed(data: ImageData, seed: int = 0) -> ImageData:
    """The same images, each deformed in one of `WAYS`: the same for the same seed, whatever torch drew before.

    Args:
        data: Images of one channel or several.
        seed: Of the ways and their strengths; the split enters too, so that train and test differ.

    Raises:
        MissingRequirementError: kornia is not installed.
    """
    try:
        from kornia import augmentation as kornia
    except ImportError as error:
        raise MissingRequirementError(
            "the deformed MNIST is made with kornia, which cannot be imported; expected it to be installed: "
            'pip install "torch-mipp[experiments]"'
        ) from error
    how = {
        "rotation": kornia.RandomRotation(45.0, p=1.0),
        "scale": kornia.RandomAffine(0.0, translate=(0.15, 0.15), scale=(0.6, 1.0), p=1.0),
        "shear": kornia.RandomAffine(0.0, shear=(-30.0, 30.0), p=1.0),
        "perspective": kornia.RandomPerspective(0.5, p=1.0),
        "elastic": kornia.RandomElasticTransform((15, 15), (3.0, 3.0), (1.5, 1.5), p=1.0),
    }
    images = data.images.cpu().clone()  # so that they are the same whatever the device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2 * seed + (data.split == "test"))
        way = torch.randint(len(WAYS), (len(data),))
        for name, transform in how.items():
            for chosen in (way == WAYS.index(name)).nonzero().flatten().split(1024):
                changed = transform(images[chosen].float() / 255)
                images[chosen] = (changed * 255).round().clamp(0, 255).to(torch.uint8)
    return replace(data, images=images.to(data.images.device), name=f"{data.name}-deformed")
