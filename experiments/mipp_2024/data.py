"""The data sets of the paper by name; each reader checks that there is as much as was published."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from experiments.mipp_2024.deformed import deformed
from experiments.mipp_2024.epochs import Data
from experiments.mipp_2024.imagenet import imagenet

from mipp import zoo
from mipp.zoo import DataSetError

_OTHERS: dict[str, Callable[[str | Path | None, str], Data]] = {
    "mnist-deformed": lambda data_dir, split: deformed(zoo.mnist(data_dir, split)),
    "imagenet": imagenet,
    "cifar100-10000": lambda data_dir, split: replace(
        zoo.readers.cifar100(data_dir, split, num_images=10_000), name="cifar100, 10,000 images"
    ),
}
DATA_SETS = (*zoo.DATA_SETS, *_OTHERS)


def load(name: str, split: str, data_dir: str | Path | None = None) -> Data:
    """A split of the data set called `name`, one of `DATA_SETS`.

    Args:
        name: "digits" (which needs no files), "mnist", "mnist-deformed", "cifar10", "cifar100" or "imagenet";
            "cifar100-10000" is CIFAR-100 with a train.bin of its first 10,000 images.
        split: "train" or "test".
        data_dir: The folder of the data sets; None reads the environment variable MIPP_DATA_DIR.

    Raises:
        DataSetError: The name or the split is unknown, or files are missing or damaged.
        MissingRequirementError: scikit-learn is not installed, for the digits, or kornia, for the deformation.
    """
    if name not in DATA_SETS:
        raise DataSetError(f"no data set is called {name!r}; expected one of {', '.join(DATA_SETS)}")
    return _OTHERS[name](data_dir, split) if name in _OTHERS else zoo.load(name, split, data_dir)
