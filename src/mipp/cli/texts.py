"""Texts: read from a file or a column of a table, turned into pieces of tokens by the tokenizer of the model."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mipp.cli.console import first_line
from mipp.cli.errors import CommandError
from mipp.cli.models import ModelSource, require
from mipp.errors import CalibrationError

_BATCH, _EVALUATED = 8, 64


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
        home = next((t.device for t in model.parameters()), torch.device("cpu"))
        with torch.no_grad():
            for chunk in self.tokens[-self._held_out :].split(_BATCH):
                logits = model(input_ids=chunk.to(home)).logits[:, :-1].float().flatten(0, 1)
                wanted = chunk[:, 1:].to(home).flatten()
                total += float(nn.functional.cross_entropy(logits, wanted, reduction="sum"))
                count += len(wanted)
        return {"perplexity": float(torch.tensor(total / count).exp())}


def open_text(path: Path, source: ModelSource, tokenizer: str | None, length: int, column: str | None) -> Pieces:
    """The text in a file as pieces of tokens.

    Args:
        path: A text file; or a table (.jsonl, .parquet, a folder of `datasets`) with a column of texts.
        source: The model, whose own tokenizer is used if it is from Hugging Face.
        tokenizer: Another one, by folder or name.
        length: Tokens in a piece.
        column: The column of a table.
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
    ids = made("\n".join(_texts(path, column)), add_special_tokens=False, verbose=False)["input_ids"]
    if len(ids) < length:
        raise CalibrationError(f"{path} has {len(ids):,} tokens; expected at least one piece of --length {length}.")
    return Pieces(torch.tensor(ids[: len(ids) // length * length]).reshape(-1, length))


def _texts(path: Path, column: str | None) -> list[str]:
    try:
        if path.suffix == ".jsonl":
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
            return _column(path, column, rows[0] if rows else {}, lambda name: [row[name] for row in rows])
        if path.suffix == ".parquet" or path.is_dir():
            datasets = require("datasets", str(path))
            table = datasets.load_from_disk(str(path)) if path.is_dir() else datasets.Dataset.from_parquet(str(path))
            return _column(path, column, dict.fromkeys(table.column_names), lambda name: list(table[name]))
        return [path.read_text(encoding="utf-8")]
    except FileNotFoundError as error:
        raise CalibrationError(f"There is no file {path} to read text from.") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError) as error:
        raise CalibrationError(f"{path} cannot be read as text ({first_line(error)}).") from error


def _column(path: Path, column: str | None, first: Mapping[str, Any], read: Any) -> list[str]:
    if column is None or column not in first:
        found = ", ".join(first) or "none"
        raise CommandError(f"{path} has the columns {found}; expected one of them by --column.")
    return [str(value) for value in read(column)]
