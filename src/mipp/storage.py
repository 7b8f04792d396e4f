"""Saving and loading without pickles: plan.json, model.safetensors, report.html."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mipp.errors import MippError, PlanMismatchError
from mipp.plan import PruningPlan, load_plan
from mipp.report import Report
from mipp.surgery import apply

PLAN, WEIGHTS, PAGE, REPORT = "plan.json", "model.safetensors", "report.html", "report.json"


def save(folder: str | Path, plan: PruningPlan, model: nn.Module, report: Report) -> None:
    """Writes a pruned model to a new folder, all of it or nothing.

    Raises:
        MippError: The folder exists and is not empty, or cannot be written.
    """
    with new_folder(folder) as part:
        (part / PLAN).write_text(plan.to_json(), encoding="utf-8")
        save_file(_separate(model.state_dict()), part / WEIGHTS, {"format": "pt"})
        (part / REPORT).write_text(json.dumps(report.to_dict(), indent=1), encoding="utf-8")
        report.to_html(part / PAGE)


def load(folder: str | Path, model: nn.Module | Callable[[], nn.Module]) -> nn.Module:
    """Rebuilds a saved model: cuts a dense one by the saved plan and fills in the saved weights.

    Args:
        folder: What `save` wrote.
        model: A dense instance (not changed) or a function that makes one.

    Raises:
        PlanMismatchError: The folder is missing, damaged or incomplete, or belongs to another model.
    """
    folder = Path(folder)
    plan = load_plan(folder / PLAN)
    small = apply(plan, model if isinstance(model, nn.Module) else model())
    weights = _weights(folder / WEIGHTS)
    _add_biases(small, weights)
    kinds = {t.dtype for t in weights.values() if t.is_floating_point()}
    small = small.to(kinds.pop()) if len(kinds) == 1 else small
    own = small.state_dict()
    for name in sorted(own.keys() | weights.keys()):
        found = tuple(weights[name].shape) if name in weights else None
        expected = tuple(own[name].shape) if name in own else None
        if found != expected:
            raise PlanMismatchError(
                f"{folder / WEIGHTS} and the plan beside it do not fit: '{name}' has shape {found} in the file and "
                f"{expected} in the cut model (None: not there). The two files come from different runs."
            )
    small.load_state_dict({name: t.to(own[name].dtype) for name, t in weights.items()})
    return small


@contextmanager
def new_folder(folder: str | Path) -> Iterator[Path]:
    """Yields a temporary folder that becomes `folder` when the block succeeds, and vanishes when it does not."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise MippError(f"{folder} exists already; nothing is overwritten. Choose another folder or remove this one.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise MippError(f"{folder} cannot be written ({error.strerror}); choose a folder you may write to.") from error
    try:
        yield part
        part.chmod(0o755)
        part.replace(folder)
    except OSError as error:
        raise MippError(f"Writing {folder} failed ({error.strerror or error}); nothing was left behind.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


class Checkpoint:
    """A folder that holds the plan of an interrupted run, under a fingerprint of everything it depends on."""

    def __init__(self, folder: str | Path, fingerprint: str) -> None:
        self.path, self.fingerprint = Path(folder) / "checkpoint.json", fingerprint
        self._state = Path(folder) / "state.safetensors"

    def load(self) -> tuple[PruningPlan, dict[str, Tensor] | None] | None:
        """Plan (and weights, if the method changed them) of an earlier run with the same fingerprint, if there is one.

        Raises:
            PlanMismatchError: The folder belongs to a run on another model, other data or other options.
        """
        if not self.path.exists():
            return None
        data = _checked(self.path, self.fingerprint, "plan", "changed")
        return PruningPlan.from_dict(data["plan"]), _weights(self._state) if data["changed"] else None

    def steps(self) -> "FinishedSteps":
        """Steps that an interrupted run with the same fingerprint has finished."""
        return FinishedSteps(self.path.parent, self.fingerprint)

    def save(self, plan: PruningPlan, state: Mapping[str, Tensor] | None) -> None:
        """Writes plan and weights; the plan comes last and atomically, so that a half-written checkpoint is none."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if state is not None:
            save_file(_separate(state), self._state)
        part = self.path.with_suffix(".part")
        data = {"fingerprint": self.fingerprint, "plan": plan.to_dict(), "changed": state is not None}
        part.write_text(json.dumps(data), encoding="utf-8")
        part.replace(self.path)


class FinishedSteps(MutableMapping[str, Any]):
    """JSON-able results of the steps of a run, written to a checkpoint folder as they come.

    Raises:
        PlanMismatchError: The folder belongs to a run on another model, other data or other options.
    """

    def __init__(self, folder: str | Path, fingerprint: str) -> None:
        self._path, self._fingerprint = Path(folder) / "steps.json", fingerprint
        self._steps: dict[str, Any] = {}
        if self._path.exists():
            self._steps = _checked(self._path, fingerprint, "steps")["steps"]

    def __getitem__(self, key: str) -> Any:
        return self._steps[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._steps[key] = value
        self._write()

    def __delitem__(self, key: str) -> None:
        del self._steps[key]
        self._write()

    def __iter__(self) -> Iterator[str]:
        return iter(self._steps)

    def __len__(self) -> int:
        return len(self._steps)

    def _write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps({"fingerprint": self._fingerprint, "steps": self._steps}), encoding="utf-8")
        part.replace(self._path)


def _checked(path: Path, fingerprint: str, *names: str) -> dict[str, Any]:
    """The JSON object in a checkpoint file, if it has these entries and belongs to this run."""
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found = {name: data[name] for name in ("fingerprint", *names)}["fingerprint"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise PlanMismatchError(f"{path} is damaged ({error}); remove it to start anew.") from error
    if found != fingerprint:
        raise PlanMismatchError(
            f"{path} belongs to a run on another model, other calibration data or other options; use another "
            "checkpoint folder or remove this one."
        )
    return data


def fingerprint(tensors: Iterable[Tensor], *options: str) -> str:
    """SHA-256 of tensors and options, as hex."""
    digest = hashlib.sha256()
    for text in options:
        digest.update(text.encode() + b"\0")
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _separate(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that own their memory, as safetensors wants them; ties come back with the model that is loaded into."""
    return {name: t.detach().clone(memory_format=torch.contiguous_format).contiguous() for name, t in state.items()}


def _weights(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise PlanMismatchError(f"There is no {path}; expected the folder that save() wrote.") from error
    except (SafetensorError, OSError) as error:
        raise PlanMismatchError(
            f"{path} is not a readable safetensors file ({error}); it is truncated, damaged, or of another format. "
            "Pickled weights (.pt, .pth) are never read, for safety."
        ) from error


def _add_biases(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Makes room for the biases that `Refit(allow_bias=True)` added."""
    modules = dict(model.named_modules())
    for name, tensor in weights.items():
        path, _, attribute = name.rpartition(".")
        module = modules.get(path)
        if attribute == "bias" and module is not None and getattr(module, "bias", tensor) is None:
            module.bias = nn.Parameter(tensor.clone())
