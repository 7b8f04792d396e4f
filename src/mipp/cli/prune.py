"""`mipp prune`."""

import json as _json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

import mipp
from mipp.cli import arguments, console, sources
from mipp.cli.errors import CommandError
from mipp.cli.models import ModelSource
from mipp.storage.places import PAGE


@dataclass(frozen=True)
class Budgeted:
    """The options of the budget, as text where a float and an int differ."""

    amounts: Mapping[str, str | None]
    width: Sequence[str]
    min_keep: int
    round_to: int
    uniform: bool
    runtime: Any

    def budget(self) -> mipp.Budget:
        """The budget itself."""
        amounts: dict[str, Any] = {
            name: arguments.amount(name, text) for name, text in self.amounts.items() if text is not None
        }
        return mipp.Budget(
            **amounts,
            widths=arguments.widths(self.width),
            min_keep=self.min_keep,
            round_to=self.round_to,
            uniform=self.uniform,
            runtime=self.runtime,
        )


@dataclass(frozen=True)
class Chosen:
    """The method, and how `mipp.prune` is to run."""

    method: str
    settings: Sequence[str]
    exclude: Sequence[str]
    compensate: bool
    recover: str | None
    evaluate: bool | None
    device: str | None
    checkpoint: Path | None
    memory_limit: str | None


def run(
    source: sources.Source, budgeted: Budgeted, chosen: Chosen, out: Path | None, *, json: bool, quiet: bool
) -> None:
    """Prunes, saves and prints the report."""
    if out is not None and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise CommandError(
            f"--out {out} exists already; nothing is overwritten. Choose another folder or remove this one."
        )
    with console.only_results_on_stdout():
        result = _prune(source, budgeted.budget(), chosen, quiet=quiet)
    if out is not None and source.model.library == "hf":
        from mipp.cli.pretrained import save

        save(result, source.model, source.data.words, out)
    elif out is not None:
        result.save(out)
    if json:
        record = {"report": result.report.to_dict(), "kept": result.plan.kept, "resumed": result.resumed}
        typer.echo(_json.dumps({**record, "out": None if out is None else str(out)}))
    else:
        Console().print(result.report)
    console.note(_what_next(out, source.model, resumed=result.resumed), quiet=quiet)


def _prune(source: sources.Source, budget: mipp.Budget, chosen: Chosen, *, quiet: bool) -> mipp.Result:
    method, device = arguments.method(chosen.method, chosen.settings), sources.device(chosen.device)
    model, data = source.open()
    if mipp.methods.needs_of(method).training:
        raise CommandError(
            f"{chosen.method} trains the network, and no option says how; expected a method that does not. `mipp "
            "compare` trains, and so does mipp.prune(train=...) in Python."
        )
    if not budget.has_target and getattr(method, "confidence", None) is None:
        raise CommandError(
            "Nothing says how small the network is to be; expected --macs 0.5, --params, --nodes, --latency-ms, "
            "--width, or --set confidence=0.95."
        )
    if chosen.evaluate and data.evaluate is None:
        raise CommandError(
            "--evaluate needs data with labels or of a language model: a data set by name, images in class folders, or "
            "--text for a causal language model."
        )
    if source.model.weights is None and not source.model.library:
        console.note("No --weights: the model is pruned as its factory made it.", quiet=quiet)
    return mipp.prune(
        model,
        mipp.Calibration(data.batches, source.max_samples),
        budget,
        method,
        exclude=chosen.exclude,
        compensate=chosen.compensate,
        recover=chosen.recover,  # type: ignore[arg-type]
        evaluate=None if chosen.evaluate is False else data.evaluate,
        loss_fn=data.loss_fn,
        device=device,
        seed=source.seed,
        progress=not quiet,
        checkpoint=chosen.checkpoint,
        memory_limit=chosen.memory_limit,
    )


def _what_next(out: Path | None, source: ModelSource, *, resumed: bool) -> str:
    went_on = "Went on from the checkpoint. " if resumed else ""
    if out is None:
        return f"{went_on}Nothing was written; --out FOLDER saves plan, weights and report."
    if source.library == "hf":
        return f"{went_on}Saved in {out}: open {out / PAGE}, or load it with mipp.from_pretrained({str(out)!r})."
    weights = source.weights
    # the model given was pruned before: the new plan applies to it, not to its dense model
    model = f"mipp.load({str(weights)!r}, model)" if weights is not None and weights.is_dir() else "model"
    return f"{went_on}Saved in {out}: open {out / PAGE}, or load it with mipp.load({str(out)!r}, {model})."
