"""Checkpoints: what a run has finished, so that it can be killed at any moment and started again."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor, nn

from mipp.errors import MippError, PlanMismatchError
from mipp.modules.copies import fill, state_of
from mipp.plan.plan import PruningPlan
from mipp.storage.folder import add_biases, read_weights, write_weights

JOURNAL = "journal.jsonl"


class Checkpoint:
    """A folder in which a run notes what it has finished, so that the same run goes on from there when it was killed.

    The journal holds one JSON value per line and only grows; a line that was cut short by a kill is dropped. Weights
    are in files beside it, written before the line that names them.

    Args:
        folder: Made if it is not there.
        fingerprint: Hashes of everything the results depend on, by what they are about.

    Attributes:
        resumed: Whether an earlier run with this fingerprint left its journal.
        finished: The results of steps, JSON-able, by name; what is put here is on disk at once.

    Raises:
        PlanMismatchError: The folder belongs to another run, or is damaged.
        MippError: The folder cannot be written.
    """

    def __init__(self, folder: str | Path, fingerprint: Mapping[str, str]) -> None:
        self._folder, self._journal = Path(folder), Path(folder) / JOURNAL
        self.resumed = self._journal.exists()
        self.finished = _Finished(self._append)
        if self.resumed:
            dict.update(self.finished, self._read(fingerprint))
            return
        with self._writing():
            self._folder.mkdir(parents=True, exist_ok=True)
            part = self._journal.with_suffix(".part")
            part.write_text(json.dumps({"fingerprint": dict(fingerprint)}) + "\n", encoding="utf-8")
            part.replace(self._journal)

    def plan(self) -> tuple[PruningPlan, dict[str, Tensor] | None, list[str]] | None:
        """The plan of an earlier run, the weights if the method changed them, and its notes; None before."""
        if "plan" not in self.finished:
            return None
        known = self.finished["plan"]
        state = read_weights(self._weights("plan")) if known["changed"] else None
        return PruningPlan.from_dict(known["plan"]), state, known["notes"]

    def save_plan(self, plan: PruningPlan, state: Mapping[str, Tensor] | None, notes: Sequence[str]) -> None:
        """Notes a plan."""
        if state is not None:
            self._save("plan", state)
        self.finished["plan"] = {"plan": plan.to_dict(), "changed": state is not None, "notes": list(notes)}

    def fill(self, step: str, model: nn.Module) -> list[str] | None:
        """Gives a model the weights it had after a step of an earlier run; returns its notes, None before."""
        if step not in self.finished:
            return None
        weights = read_weights(self._weights(step))
        add_biases(model, weights)
        fill(model, weights)  # tensors only: extra state stays as it is
        notes: list[str] = self.finished[step]
        return notes

    def save_model(self, step: str, model: nn.Module, notes: Sequence[str]) -> None:
        """Notes the weights of a model after a step."""
        self.save_weights(step, state_of(model), notes)

    def save_weights(self, step: str, weights: Mapping[str, Tensor], notes: Sequence[str] = ()) -> None:
        """Notes some weights after a step; `fill` gives them back, and leaves all others as they are."""
        self._save(step, weights)
        self.finished[step] = list(notes)

    def _read(self, fingerprint: Mapping[str, str]) -> dict[str, Any]:
        """The journal, cut back to its last whole line."""
        content = self._journal.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        try:
            head, *entries = [json.loads(line) for line in whole.splitlines()]
            found, known = dict(head["fingerprint"]), {entry["step"]: entry["value"] for entry in entries}
        except (ValueError, KeyError, TypeError) as error:
            raise PlanMismatchError(
                f"{self._journal} is damaged ({type(error).__name__}: {error}); remove the folder to start anew."
            ) from error
        other = [name for name, value in fingerprint.items() if found.get(name) != value]
        if other:
            raise PlanMismatchError(
                f"The checkpoint {self._folder} belongs to another run: not the same {' and '.join(other)}. Give the "
                "same to go on with it; else choose another checkpoint folder, or remove this one."
            )
        if len(whole) < len(content):
            with self._writing():
                os.truncate(self._journal, len(whole))
        return known

    def _append(self, step: str, value: Any) -> None:
        with self._writing(), self._journal.open("a", encoding="utf-8") as journal:
            journal.write(json.dumps({"step": step, "value": value}) + "\n")
            journal.flush()
            os.fsync(journal.fileno())

    def _save(self, step: str, state: Mapping[str, Tensor]) -> None:
        with self._writing():
            part = self._folder / f"{step}.part"
            write_weights(state, part)
            part.replace(self._weights(step))

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


class _Finished(dict[str, Any]):
    """Steps by name; each is handed to `append` when it is set."""

    def __init__(self, append: Callable[[str, Any], None]) -> None:
        super().__init__()
        self._append = append

    def __setitem__(self, step: str, value: Any) -> None:
        self._append(step, value)
        super().__setitem__(step, value)
