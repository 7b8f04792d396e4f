"""`mipp demo`: a small network, trained, pruned to a half and to a fifth, and fine-tuned, in about half a minute."""

import copy
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console, Group
from rich.progress import Progress
from rich.table import Table
from rich.text import Text
from torch import nn

import mipp
from mipp.cli.console import note, show, table
from mipp.cli.errors import CommandError
from mipp.report import figures
from mipp.storage.folder import read_report
from mipp.storage.places import PAGE, PLAN, REPORT, WEIGHTS, new_folder

HALF, FIFTH = 0.5, 0.2
FIFTH_FOLDER = "20"
FINE_TUNED = "fine-tuned"
_FINE_TUNE_EPOCHS, _FINE_TUNE_RATE = 2, 0.01
_SAMPLES, _BATCH = 1024, 128


def run(out: Path, *, seed: int, epochs: int, json: bool, quiet: bool) -> None:
    """Trains, prunes, fine-tunes, saves and prints."""
    _check(out)
    with _one_thread():
        results = _results(seed, epochs, quiet=quiet)
    _save(results, out)
    reports = {share: result.report for share, result in results.items()}
    record = {f"{100 * share:.0f}": report.to_dict() for share, report in reports.items()}
    show({"reports": record, "out": str(out)}, Group(_measure(reports), "", _information(reports)), json=json)
    note(_what_next(out), quiet=quiet or json)


def _results(seed: int, epochs: int, *, quiet: bool) -> dict[float, mipp.Result]:
    train, test = mipp.zoo.load("digits", "train"), mipp.zoo.load("digits", "test")

    def accuracy(model: nn.Module) -> Mapping[str, float]:
        return {"accuracy": mipp.zoo.accuracy(model, test)}

    torch.manual_seed(seed)
    dense = mipp.zoo.DigitsCNN()
    with _step(
        f"Training DigitsCNN on {len(train):,} images of digits, {figures.plural(epochs, 'epoch')}", quiet
    ) as progress:
        mipp.zoo.fit(dense, train, epochs=epochs, seed=seed, progress=progress)
    generator = torch.Generator().manual_seed(seed)
    images = [images for images, _ in train.batches(_BATCH, limit=_SAMPLES, generator=generator)]
    results = {}
    for share in (HALF, FIFTH):
        # mipp.prune shows its own progress, and two at once cannot be shown
        with _step(f"Pruning it to {100 * share:.0f} % of its MACs, without labels or training", quiet, bar=False):
            result = mipp.prune(
                dense, images, mipp.Budget(macs=share), evaluate=accuracy, seed=seed, progress=not quiet
            )
        tuned = copy.deepcopy(result.model)
        with _step(f"Fine-tuning a copy, {figures.plural(_FINE_TUNE_EPOCHS, 'epoch')}", quiet) as progress:
            mipp.zoo.fit(
                tuned, train, epochs=_FINE_TUNE_EPOCHS, learning_rate=_FINE_TUNE_RATE, seed=seed, progress=progress
            )
        stage = replace(result.report.after, metrics=dict(accuracy(tuned)))
        results[share] = replace(result, report=result.report.with_stage(FINE_TUNED, stage))
    return results


def _measure(reports: Mapping[float, mipp.report.Report]) -> Group:
    shown = table(("", "accuracy", FINE_TUNED, "parameters", "MACs", "latency"))
    dense = [report.before for report in reports.values()]
    fastest = min(dense, key=lambda measures: measures.latency_ms or 0.0)  # the dense model was measured each time
    shown.add_row("dense", *_cells(fastest, None))
    for share, report in reports.items():
        shown.add_row(f"{100 * share:.0f} %", *_cells(report.after, report.stages[FINE_TUNED]))
    return _with_caption(
        shown, f"accuracy on the test images; latency of {_BATCH} images on one thread of this machine"
    )


def _cells(measures: mipp.report.Measures, tuned: mipp.report.Measures | None) -> list[str]:
    latency = figures.ABSENT if measures.latency_ms is None else figures.milliseconds(measures.latency_ms)
    later = figures.ABSENT if tuned is None else f"{tuned.metrics['accuracy']:.1f} %"
    size = [figures.count(measures.params), figures.count(measures.macs)]
    return [f"{measures.metrics['accuracy']:.1f} %", later, *size, latency]


def _information(reports: Mapping[float, mipp.report.Report]) -> Group:
    headings = [f"{100 * share:.0f} %: {what}" for share in reports for what in ("nodes", "nats kept")]
    shown = table(("group", *headings))
    for lines in zip(*(report.groups for report in reports.values()), strict=True):
        shown.add_row(lines[0].name, *(cell for line in lines for cell in (f"{line.kept} of {line.size}", _nats(line))))
    return _with_caption(shown, "nats: what a group tells the nodes that read it and are kept")


def _nats(line: mipp.report.GroupLine) -> str:
    if line.nats is None or line.total_nats is None:
        return figures.ABSENT
    return f"{line.total_nats - line.nats:.1f} of {line.total_nats:.1f}"


def _with_caption(table: Table, caption: str) -> Group:
    return Group(table, Text(caption, style="dim"))


def _what_next(out: Path) -> str:
    shape = "mipp.zoo:DigitsCNN --input 1,1,8,8"
    return (
        f"\nThe networks as they were right after pruning are in {out} (50 %) and {out / FIFTH_FOLDER} (20 %).\n"
        f"Open {out / PAGE} in a browser, or try\n"
        f"  mipp inspect {shape} --weights {out}    what is left, and what could still go\n"
        f"  mipp prune mipp.zoo:DigitsCNN --weights {out} --data digits --params 0.5"
    )


@contextmanager
def _step(what: str, quiet: bool, *, bar: bool = True) -> Iterator[Callable[[int, int, float], None] | None]:  # noqa: FBT001
    """Says on stderr what is done and how long it took; a terminal sees a bar meanwhile."""
    if quiet:
        yield None
        return
    started, console = time.perf_counter(), Console(stderr=True, highlight=False)
    console.print(f"{what} ...", markup=False)
    with Progress(console=console, transient=True, disable=not (bar and console.is_terminal)) as progress:
        task = progress.add_task("")
        yield (lambda step, steps, loss: progress.update(task, completed=step, total=steps)) if bar else None
    console.print(f"  {time.perf_counter() - started:.1f} s", style="dim")


@contextmanager
def _one_thread() -> Iterator[None]:
    """The network is so small that a second thread waits more than it works."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check(out: Path) -> None:
    """Refuses a folder that holds anything but what an earlier demo wrote."""
    if not out.exists() and not out.is_symlink():
        return
    if out.is_symlink() or not out.is_dir():
        raise CommandError(f"--out {out} is no folder; choose another place for the results.")
    if any(out.iterdir()) and not _is_demo(out):
        raise CommandError(
            f"{out} holds files that are not, or not only, the results of an earlier demo; nothing of it is removed. "
            "Choose another folder with --out, or move this one away."
        )


def _is_demo(out: Path) -> bool:
    files = {PLAN, WEIGHTS, REPORT, PAGE}
    if {p.name for p in out.iterdir()} != files | {FIFTH_FOLDER} or not (out / FIFTH_FOLDER).is_dir():
        return False
    if {p.name for p in (out / FIFTH_FOLDER).iterdir()} != files:
        return False
    return all(map(_has_demo_report, (out, out / FIFTH_FOLDER)))


def _has_demo_report(folder: Path) -> bool:
    try:
        report = read_report(folder)
    except mipp.MippError:
        return False
    return report.model == mipp.zoo.DigitsCNN.__name__ and FINE_TUNED in report.stages


def _save(results: Mapping[float, mipp.Result], out: Path) -> None:
    """Removes an earlier demo, then writes both results, all or nothing."""
    _check(out)
    if out.exists():
        shutil.rmtree(out)
    with new_folder(out) as part:
        results[HALF].save(part)
        results[FIFTH].save(part / FIFTH_FOLDER)
