"""Paths that a caller names, checked before they are used."""

import os
from pathlib import Path
from typing import Any

from mipp.errors import MippError, quote


def as_path(given: Any) -> Path:
    """A path that a file system can have, whether there is anything or not.

    Raises:
        MippError: It is no path, is too long, or leads to where nobody may look.
    """
    if not isinstance(given, str | os.PathLike) or not str(given):
        raise MippError(f"{quote(given)} is no path; expected the name of a file or folder, such as 'runs/first'.")
    try:
        path = Path(given)
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return path
    except (OSError, ValueError, TypeError) as error:  # too long, forbidden; a null byte; bytes
        reason = error.strerror if isinstance(error, OSError) else error
        raise MippError(f"{quote(str(given))} cannot be used as a path: {reason}. Choose another one.") from error
    return path
