"""Files of tensors, of anybody."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mipp.errors import clip
from mipp.runtime.typed import FormError


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file of anybody.

    Raises:
        OSError: The file cannot be read.
        FormError: It is no safetensors file, or holds types that torch does not know.
    """
    try:
        return load_file(path)
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise FormError(clip(" ".join(str(error).split()))) from error
