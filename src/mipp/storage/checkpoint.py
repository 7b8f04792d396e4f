"""Checkpoints: what a run has finished, so that it can be killed at any moment and started again."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from safetensors import SafetensorError
from torch import Tensor, nn

from mipp.errors import CheckpointError, MippError, PlanMismatchError
from mipp.modules.copies import fill, state_of
from mipp.plan.plan import PruningPlan
from mipp.runtime.typed import FormError, as_type
from mipp.storage.fingerprint import fingerprint
from mipp.storage.folder import add_biases, read_weights, tensors_of, write_weights
from mipp.storage.identity import Identity, describe
from mipp.storage.lock import Lock

JOURNAL = "journal.jsonl"
_LINE = re.compile(rb'\{"sha256": "([0-9a-f]{64})", "entry": (.*)\}')


@dataclass(frozen=True)
class _NotedPlan:
    """A plan and its notes in the journal; `PruningPlan.from_dict` reads the plan."""

    plan: object
    notes: tuple[str, ...]


class Checkpoint:
    """A folder in which a run notes what it has finished, so that the same run goes on from there when it was killed.

    The journal holds one JSON value per line, with its checksum, and only grows; a line that was cut short by a kill is
    dropped. Weights are in files beside it, written before the line that names them and their checksum. The folder is
    locked until it is closed.

    Args:
        folder: Made if it is not there.
        identity: Everything the results depend on.

    Attributes:
        resumed: Whether an earlier run of this identity left its journal.
        finished: The results of steps, JSON-able, by name; what is put here is on disk at once.

    Raises:
        CheckpointError: The folder belongs to another run, is in use, or is damaged.
        MippError: The folder cannot be written.
    """

    def __init__(self, folder: str | Path, identity: Identity) -> None:
        self._folder, self._journal = Path(folder), Path(folder) / JOURNAL
        self._sums: dict[str, str] = {}
        self.finished = _Finished(self._append)
        with self._writing():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock = Lock(self._folder)
        try:
            self.resumed = self._journal.exists()
            if self.resumed:
                self._read(identity)
            else:
                with self._writing(), _part(self._journal) as part:
                    part.write_bytes(_line({"identity": asdict(identity)}))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets others use the folder."""
        self._lock.release()

    def plan(self) -> tuple[PruningPlan, dict[str, Tensor] | None, list[str]] | None:
        """The plan of an earlier run, the weights if the method changed them, and its notes; None before."""
        if "plan" not in self.finished:
            return None
        known: _NotedPlan = self._as(_NotedPlan, "plan")
        state = self._load("plan") if "plan" in self._sums else None
        return PruningPlan.from_dict(known.plan), state, list(known.notes)

    def save_plan(self, plan: PruningPlan, state: Mapping[str, Tensor] | None, notes: Sequence[str]) -> None:
        """Notes a plan."""
        if state is not None:
            self._save("plan", state)
        self.finished["plan"] = {"plan": plan.to_dict(), "notes": list(notes)}

    def fill(self, step: str, model: nn.Module) -> list[str] | None:
        """Gives a model the weights it had after a step of an earlier run; returns its notes, None before."""
        if step not in self.finished:
            return None
        notes = self._as(tuple[str, ...], step)
        weights = self._load(step)
        add_biases(model, weights)
        fill(model, weights)  # tensors only: extra state stays as it is
        return list(notes)

    def _as(self, kind: Any, step: str) -> Any:
        """The result of a step as a type.

        Raises:
            CheckpointError: It is something else.
        """
        try:
            return as_type(kind, self.finished[step], step)
        except FormError as error:
            raise CheckpointError(
                f"{self._journal} is damaged ({type(error).__name__}: {error}); remove the folder to start anew."
            ) from error

    def save_model(self, step: str, model: nn.Module, notes: Sequence[str]) -> None:
        """Notes the weights of a model after a step."""
        self.save_weights(step, state_of(model), notes)

    def save_weights(self, step: str, weights: Mapping[str, Tensor], notes: Sequence[str] = ()) -> None:
        """Notes some weights after a step; `fill` gives them back, and leaves all others as they are."""
        self._save(step, weights)
        self.finished[step] = list(notes)

    def _read(self, identity: Identity) -> None:
        """Takes over what an earlier run noted, and cuts the journal back to its last whole line."""
        content = self._journal.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if b'"fingerprint"' in whole[:16]:
            raise CheckpointError(
                f"The checkpoint {self._folder} was written by an earlier version, without checksums; remove the "
                "folder to start anew."
            )
        try:
            head, *entries = map(_entry, whole.splitlines())
            found: Identity = as_type(Identity, head["identity"], "identity")
            for entry in entries:
                dict.__setitem__(self.finished, entry["step"], entry["value"])
                self._sums.update({entry["step"]: entry["weights"]} if "weights" in entry else {})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(
                f"{self._journal} is damaged ({type(error).__name__}: {error}); remove the folder to start anew."
            ) from error
        if other := identity.differences(found):
            raise CheckpointError(
                f"The checkpoint {self._folder} belongs to another run: not the same {' and '.join(other)}."
                f"{describe(other)} Give the same to go on with it; else choose another checkpoint folder, or remove "
                "this one."
            )
        if len(whole) < len(content):
            with self._writing():
                os.truncate(self._journal, len(whole))

    def _append(self, step: str, value: Any) -> None:
        entry = {"step": step, "value": value}
        if step in self._sums:
            entry["weights"] = self._sums[step]
        with self._writing(), self._journal.open("ab") as journal:
            journal.write(_line(entry))
            journal.flush()
            os.fsync(journal.fileno())

    def _save(self, step: str, state: Mapping[str, Tensor]) -> None:
        with self._writing(), _part(self._weights(step)) as part:
            write_weights(state, part)
        self._sums[step] = _sum(tensors_of(state))

    def _load(self, step: str) -> dict[str, Tensor]:
        """Weights that were noted after a step.

        Raises:
            CheckpointError: They are not those that were noted.
        """
        path = self._weights(step)
        try:
            weights = read_weights(path)
            if _sum(weights) != self._sums.get(step):
                raise PlanMismatchError("others are in it")
        except PlanMismatchError as error:
            raise CheckpointError(
                f"{path} does not hold the weights that the journal beside it names ({error}). Remove the checkpoint "
                "folder to start anew."
            ) from error
        return weights

    def _weights(self, step: str) -> Path:
        return self._folder / f"{step}.safetensors"

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, SafetensorError) as error:
            raise MippError(
                f"The checkpoint folder {self._folder} cannot be written ({error}); choose a folder you may write to, "
                "with enough room, and start again: what was noted before is not lost."
            ) from error


def _line(entry: Mapping[str, Any]) -> bytes:
    """A line of the journal."""
    text = json.dumps(entry).encode()
    return b'{"sha256": "%s", "entry": %s}\n' % (hashlib.sha256(text).hexdigest().encode(), text)


def _entry(line: bytes) -> dict[str, Any]:
    """The content of a line of the journal, which is read only where it has its checksum.

    Raises:
        ValueError: It has not.
    """
    match = _LINE.fullmatch(line)
    if match is None or hashlib.sha256(match[2]).hexdigest().encode() != match[1]:
        raise ValueError("a line does not have the checksum that stands in it")
    entry: dict[str, Any] = json.loads(match[2])
    return entry


def _sum(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of named tensors."""
    names = sorted(weights)
    return fingerprint((weights[name] for name in names), *names)


@contextmanager
def _part(path: Path) -> Iterator[Path]:
    """Yields a file that becomes `path` when it is whole and on the disk; it vanishes when the block fails."""
    part = path.with_suffix(".part")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


class _Finished(dict[str, Any]):
    """Steps by name; each is handed to `append` when it is set."""

    def __init__(self, append: Callable[[str, Any], None]) -> None:
        super().__init__()
        self._append = append

    def __setitem__(self, step: str, value: Any) -> None:
        self._append(step, value)
        super().__setitem__(step, value)
