"""The settings of a training that its result does not depend on: device, files and progress."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.fabric import Fabric
from lightning.fabric.loggers.logger import Logger
from lightning.fabric.plugins import MixedPrecision
from rich import progress as rich_progress
from rich.console import Console
from rich.text import Text

from mipp.errors import MippError, MissingRequirementError


def check_device(device: str) -> None:
    """Raises MippError if there is no such device."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise MippError(
            f"device {device!r} cannot be used: {reason}; expected cpu, or cuda where torch has it"
        ) from error


@dataclass(frozen=True)
class Setting:
    """Device, files and progress of a training.

    Attributes:
        checkpoints: Folder in which a training that was interrupted finds where it was; None: it begins again.
        every: Steps between checkpoints.
        tensorboard: Folder for TensorBoard; None: nothing is written.
        deterministic: The same bits each time, wherever torch has such operations; slower on GPUs.
        progress: Show a bar, if somebody looks.
    """

    checkpoints: Path | None = None
    every: int = 500
    tensorboard: Path | None = None
    deterministic: bool = False
    progress: bool = True

    def fabric(self, device: torch.device, *, bf16: bool) -> Fabric:
        """Fabric for a training on that device, or with torchrun on one of that kind for each process."""
        loggers: list[Logger] = []
        if self.tensorboard is not None:
            from lightning.fabric.loggers.tensorboard import TensorBoardLogger

            try:  # without a version, so that a training that goes on writes where it was
                loggers.append(TensorBoardLogger(self.tensorboard, name=None, version=""))
            except ModuleNotFoundError as error:
                raise MissingRequirementError(
                    "the log is written with tensorboard, which cannot be imported; expected it to be installed: "
                    'pip install "torch-mipp[experiments]"'
                ) from error
        several = int(os.environ.get("WORLD_SIZE", "1")) > 1
        alone = 1 if device.index is None else [device.index]
        fabric = Fabric(
            accelerator=device.type,
            strategy="ddp" if several else "auto",
            devices=int(os.environ["LOCAL_WORLD_SIZE"]) if several else alone,
            num_nodes=int(os.environ["GROUP_WORLD_SIZE"]) if several else 1,
            plugins=[MixedPrecision("bf16-mixed", device.type)] if bf16 else [],  # by name it is announced each time
            loggers=loggers,
        )
        fabric.launch()
        return fabric

    @contextmanager
    def switches(self) -> Iterator[None]:
        """torch's global switches as this training wants them, and afterwards as they were."""
        strict, benchmark = torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark
        if self.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS refuses
            torch.set_deterministic_debug_mode("warn")
        torch.backends.cudnn.benchmark = not self.deterministic
        try:
            yield
        finally:
            torch.set_deterministic_debug_mode(strict)
            torch.backends.cudnn.benchmark = benchmark


class Bar:
    """A bar that counts images and says how many pass in a second and how long it will take."""

    def __init__(self, total: int, done: int, *, shown: bool) -> None:
        console = Console(stderr=True)
        columns = (
            rich_progress.TextColumn("{task.description}"),
            rich_progress.BarColumn(),
            rich_progress.TaskProgressColumn(),
            _Throughput(),
            rich_progress.TimeRemainingColumn(),
        )
        self._shown = shown and console.is_terminal
        self._progress = rich_progress.Progress(*columns, console=console, transient=True, disable=not self._shown)
        self._task = self._progress.add_task("training", total=total, completed=done)

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self, images: int) -> None:
        """Counts images."""
        if self._shown:
            self._progress.advance(self._task, images)

    def tell(self, loss: float) -> None:
        """Shows the loss."""
        self._progress.update(self._task, description=f"loss {loss:.3f}")


class _Throughput(rich_progress.ProgressColumn):
    def render(self, task: rich_progress.Task) -> Text:
        return Text(f"{task.speed:,.0f} images/s" if task.speed else "")
