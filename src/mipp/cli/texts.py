"""Texts: read from a file or a column of a table, turned into pieces of tokens by the tokenizer of the model."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mipp.cli.console import first_line, note
from mipp.cli.errors import CommandError
from mipp.cli.options import ModelSource
from mipp.errors import CalibrationError
from mipp.modules.placement import device_of
from mipp.runtime.requirements import require
from mipp.runtime.typed import FormError, as_type, parse_json

_BATCH, _EVALUATED = 8, 64
_LOOKED_AT = 100
"""Rows whose names are the columns of a table."""


@dataclass(frozen=True)
class Pieces:
    """Tokens in pieces of one length, shape [pieces, length]; the last tenth is held out."""

    tokens: Tensor

    @property
    def _held_out(self) -> int:
        return min(_EVALUATED, max(1, len(self.tokens) // 10))

    def batches(self, seed: int) -> Iterator[Mapping[str, Tensor]]:
        """Batches to calibrate on, shuffled."""
        own = self.tokens[: len(self.tokens) - self._held_out] if len(self.tokens) > 1 else self.tokens
        order = torch.randperm(len(own), generator=torch.Generator().manual_seed(seed))
        for chunk in order.split(_BATCH):
            yield {"input_ids": own[chunk]}

    def perplexity(self, model: nn.Module) -> dict[str, float]:
        """Perplexity of a language model on what is held out."""
        total = count = 0.0
        home = device_of(model)
        with torch.no_grad():
            for chunk in self.tokens[-self._held_out :].split(_BATCH):
                logits = model(input_ids=chunk.to(home)).logits[:, :-1].float().flatten(0, 1)
                wanted = chunk[:, 1:].to(home).flatten()
                total += float(nn.functional.cross_entropy(logits, wanted, reduction="sum"))
                count += len(wanted)
        return {"perplexity": float(torch.tensor(total / count).exp())}


@dataclass(frozen=True)
class Table:
    """Texts in a file.

    Attributes:
        path: A text file; or a table (.jsonl, .parquet, a folder of `datasets`) with a column of texts.
        column: The column of a table.
        skip_bad: Leave out rows that hold no text, and say so.
    """

    path: Path
    column: str | None
    skip_bad: bool = False

    def texts(self) -> list[str]:
        """The texts.

        Raises:
            CalibrationError: The file cannot be read, or a row holds no text.
            CommandError: There is no such column, or the file is no table that can be read.
        """
        try:
            if self.path.suffix == ".jsonl":
                lines = self.path.read_text(encoding="utf-8").split("\n")
                return self._check([_row(line) for line in lines if line.strip()])
            if self.path.suffix == ".parquet" or self.path.is_dir():
                return self._check(_load_table(self.path))
            if self.column is not None or self.path.suffix in (".csv", ".tsv"):
                raise CommandError(
                    f"{self.path} is read as text, without columns; expected a table as .jsonl, .parquet or a folder "
                    "of `datasets`, or text and no --column."
                )
            return [self.path.read_text(encoding="utf-8")]
        except FileNotFoundError as error:
            raise CalibrationError(f"There is no file {self.path} to read text from.") from error
        except (OSError, UnicodeDecodeError, ValueError) as error:
            raise CalibrationError(f"{self.path} cannot be read as text ({first_line(error)}).") from error

    def _check(self, rows: Sequence[Mapping[str, Any] | None]) -> list[str]:
        names = list(dict.fromkeys(name for row in rows[:_LOOKED_AT] for name in row or {}))
        if self.column not in names:
            found = ", ".join(names) or "none"
            raise CommandError(f"{self.path} has the columns {found}; expected one of them by --column.")
        texts = [None if row is None else row.get(self.column) for row in rows]
        bad = [number for number, text in enumerate(texts, 1) if not isinstance(text, str)]
        if bad and not self.skip_bad:
            raise CalibrationError(
                f"Row {bad[0]} of {self.path} holds no text in the column {self.column}; --skip-bad leaves such rows "
                f"out ({len(bad)} of {len(texts)})."
            )
        if bad:
            note(f"Left out: {len(bad)} of {len(texts)} rows of {self.path}, the first is row {bad[0]}.", quiet=False)
        return [text for text in texts if isinstance(text, str)]


def _row(line: str) -> Mapping[str, Any] | None:
    """A row of a .jsonl file; None for what is none."""
    try:
        found: Mapping[str, Any] = as_type(dict[str, object], parse_json(line))
    except FormError:
        return None
    return found


def _load_table(path: Path) -> Sequence[Mapping[str, Any]]:
    datasets = require("datasets", str(path))
    table = datasets.load_from_disk(str(path)) if path.is_dir() else datasets.Dataset.from_parquet(str(path))
    if isinstance(table, dict):  # splits
        table = table["train"] if "train" in table else next(iter(table.values()))
    rows: list[Mapping[str, Any]] = table.to_list()
    return rows


def open_text(table: Table, source: ModelSource, tokenizer: str | None, length: int) -> Pieces:
    """The text in a file as pieces of tokens.

    Args:
        table: The file.
        source: The model, whose own tokenizer is used if it is from Hugging Face.
        tokenizer: Another one, by folder or name.
        length: Tokens in a piece.
    """
    transformers = require("transformers", "--text")
    name = tokenizer or (source.within if source.library == "hf" else None)
    if name is None:
        raise CommandError(
            "--text needs a tokenizer; expected --tokenizer FOLDER_OR_NAME, or a model hf:FOLDER_OR_NAME."
        )
    try:
        made = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=source.trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise CommandError(f"The tokenizer {name} cannot be loaded: {first_line(error)}") from error
    ids = made("\n".join(table.texts()), add_special_tokens=False, verbose=False)["input_ids"]
    if len(ids) < length:
        raise CalibrationError(
            f"{table.path} has {len(ids):,} tokens; expected at least one piece of --length {length}."
        )
    return Pieces(torch.tensor(ids[: len(ids) // length * length]).reshape(-1, length))
