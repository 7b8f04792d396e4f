"""Folders and files that appear whole or not at all, and the names of the files in a saved folder."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from mipp.errors import MippError
from mipp.runtime.paths import as_path

PLAN, WEIGHTS, PAGE, REPORT = "plan.json", "model.safetensors", "report.html", "report.json"
PRUNED_FORM = "pruned"
"""In the config.json of a Hugging Face folder: what the model is a pruned form of, shapes and sizes."""


@contextmanager
def new_folder(folder: str | Path) -> Iterator[Path]:
    """Yields a temporary folder that becomes `folder` when the block succeeds, and vanishes when it does not."""
    folder = as_path(folder)
    if folder.exists() and not _is_empty(folder):
        raise MippError(f"{folder} exists already; nothing is overwritten. Choose another folder or remove this one.")
    with _beside(folder.absolute()) as beside:  # the parent of "." is "." itself
        part = beside / folder.absolute().name
        part.mkdir()  # with the mode that folders get here; temporary ones are for their owner only
        yield part
        _share(part)
        try:
            part.replace(folder)
        except OSError:
            if not _is_empty(folder):
                raise
            _fill(folder, part)  # an empty folder in which somebody stands cannot be replaced


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _fill(folder: Path, part: Path) -> None:
    """Moves all files of one folder to another, or none."""
    moved: list[Path] = []
    try:
        for file in part.iterdir():
            moved.append(folder / file.name)
            file.replace(moved[-1])
    except BaseException:
        for file in moved:
            file.unlink(missing_ok=True)
        raise


@contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """Yields a temporary file that becomes `path` when the block succeeds, and vanishes when it does not."""
    path = as_path(path)
    if path.exists():
        raise MippError(f"{path} exists already; nothing is overwritten. Choose another name or remove the file.")
    with _beside(path) as folder:
        yield folder / path.name
        _share(folder)
        (folder / path.name).replace(path)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A temporary folder on the same disk as `path`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    except OSError as error:
        raise MippError(f"{path} cannot be written ({error.strerror}); choose a place you may write to.") from error
    try:
        yield part
    except (OSError, SafetensorError) as error:
        raise MippError(
            f"Writing {path} failed ({_reason(error)}); nothing was left behind. Choose a place with enough room that "
            "you may write to."
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _share(folder: Path) -> None:
    """Gives all files in a folder the mode that files get here; safetensors writes for the owner only."""
    usual = folder / ".mode"
    usual.touch()
    mode = usual.stat().st_mode
    usual.unlink()
    for file in folder.rglob("*"):
        if file.is_file() and file.stat().st_mode != mode:
            file.chmod(mode)


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
