"""Settings of what follows the cut: the refit, and the distillation."""

from dataclasses import dataclass
from typing import Literal

from mipp.runtime.settings import check_settings


@dataclass(frozen=True)
class Refit:
    """Options of the refit of the weights downstream of removed nodes.

    Attributes:
        ridge: Penalty on the distance to the cut weights, relative to the mean second moment of the inputs. None
            chooses it for every weight by the error on calibration samples held out.
        positions: At most this many positions of each sample enter the statistics of one layer. None is as many as
            make 128 rows per input of the layer (4,096 at least, 65,536 at most; 16,384 with `effort="fast"`) of
            1,024 samples, or of all if they are fewer.
        variations: Images are read this many times more, shifted and half of them mirrored, each time at fewer
            positions. None is 1 (3 with `effort="best"`) if some convolution would be fitted to fewer than 4 rows per
            input, and 0 otherwise, and with `effort="fast"`. Only images are affected.
        allow_bias: Give layers without bias and without a following batch norm a bias, as far as a budget of parameters
            allows. Adds parameters.
    """

    ridge: float | None = None
    positions: int | None = None
    variations: int | None = None
    allow_bias: bool = False

    def __post_init__(self) -> None:
        check_settings(self, ridge="(0, inf]", positions="[1, inf)", variations="[0, inf)")


@dataclass(frozen=True)
class Distillation:
    """Duration, learning rate and reach of the distillation.

    Attributes:
        seconds: Time limit; training stops early enough for the final check.
        epochs: Stops after this many passes over the calibration data.
        batch_size: Samples in a step, at most.
        learning_rate: Peak learning rate of Adam. It rises over the first tenth of the time or passes, whichever is
            further along, and falls to zero along a half cosine. If a check finds the network worse than before,
            training goes on from the best weights at three tenths of this rate.
        by: "network" trains all weights together. "blocks" trains region after region of the network (a residual block,
            half a transformer layer) from what the pruned network feeds it to what the dense one wrote, with the
            gradients and the optimiser of one region in memory at a time; seconds and epochs are then those of all
            regions and of each. None takes blocks in transformers (layers lead to values that are normalised row by
            row), in chains such as a VGG (nothing goes around a layer), and where the memory limit does not hold the
            gradients and activations of the whole network.
    """

    seconds: float = 60.0
    epochs: int = 100
    batch_size: int = 32
    learning_rate: float = 3e-3
    by: Literal["network", "blocks"] | None = None

    def __post_init__(self) -> None:
        check_settings(self, seconds="(0, inf]", epochs="[0, inf)", batch_size="[1, inf)", learning_rate="(0, inf]")
