"""Noise on the targets, drawn as if it had been measured: what a test of the targets and their noise needs.

The covariance of noise can be added to that of the targets as it is, which is exact for information. A test compares
what features explain with what chance explains, and chance is missing from a covariance that nobody measured: such a
test rejects next to nothing. Noise that is drawn has it.
"""

from dataclasses import replace

import torch

from mipp.estimators.base import Samples


def with_drawn_noise(samples: Samples, generator: torch.Generator) -> Samples:
    """The same samples with their noise in the targets, and none beside them; classes stay as they are."""
    if not samples.y.is_floating_point():
        return samples
    y = samples.y.cpu().double()
    spread = (samples.noise.cpu().double() * y.var(0, correction=0)).sqrt()
    return replace(
        samples,
        y=y + spread * torch.randn(y.shape, generator=generator, dtype=y.dtype),
        noise=torch.zeros_like(samples.noise),
    )
