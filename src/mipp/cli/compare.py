"""`mipp compare`."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from filelock import Timeout
from rich.console import Console
from rich.measure import Measurement
from rich.progress import track
from rich.table import Table
from rich.text import Text

import mipp
from mipp.cli import arguments, console
from mipp.cli.errors import CommandError, unknown
from mipp.cli.models import make_model
from mipp.cli.options import Compared, ModelSource, Trained
from mipp.grid.summary import cells, headings

TABLE = "table.md"


def run(compared: Compared, trained: Trained, out: Path, *, json: bool, quiet: bool) -> None:
    """Does the runs that are not in the folder yet, and prints and draws all of them."""
    todo = mipp.grid.runs(
        arguments.methods(compared.methods), arguments.budgets(compared.budgets), arguments.seeds(compared.seeds)
    )
    work = _workload(compared, trained)
    if compared.weights is None and not trained.before_epochs:
        console.note("No --weights and no --before-epochs: models are pruned as their factory made them.", quiet=quiet)
    mipp.grid.collect(out / "runs", work)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise CommandError(f"--out {out} is no folder; choose another place.") from error
    folder = (out / "runs").resolve()
    jobs = [*mipp.grid.trainings(todo, work, folder), *(mipp.grid.job(one, work, folder) for one in todo)]
    there = sum(job.path.exists() for job in jobs)
    if there:
        console.note(f"Goes on: {there} of {len(jobs)} trainings and runs are in {out} already.", quiet=quiet)
    with console.only_results_on_stdout():
        done = _perform(todo, work, folder)
        for _ in track(done, "comparing", len(todo), console=Console(stderr=True), transient=True, disable=quiet):
            pass
    rows = mipp.grid.collect(out / "runs")
    summaries = mipp.grid.summarise(rows)
    (out / TABLE).write_text(mipp.grid.markdown(summaries) + "\n", encoding="utf-8")
    pictures = mipp.grid.draw(rows, out)
    if json:
        console.show({"rows": rows, "resumed": bool(there), "out": str(out)}, "", json=True)
        return
    screen, table = Console(), table_of(summaries)
    needed = Measurement.get(screen, screen.options.update(max_width=1000), table).maximum
    Console(width=max(screen.width, needed)).print(table)
    for message in dict.fromkeys(row["error"] for row in rows if "error" in row):
        console.note(message, quiet=quiet)
    console.note(f"In {out}: {TABLE}, {', '.join(p.name for p in pictures)}; each run in {out / 'runs'}.", quiet=quiet)


def _perform(todo: Sequence[mipp.grid.Run], work: mipp.grid.Workload, folder: Path) -> Iterator[mipp.grid.Row]:
    """Does the runs and yields their results; those that other processes are at come last."""
    theirs = []
    for one in todo:
        try:
            mipp.grid.once(mipp.grid.job(one, work, folder), wait=False)
        except Timeout:
            theirs.append(one)
        else:
            yield mipp.grid.perform(one, work, folder)
    yield from (mipp.grid.perform(one, work, folder) for one in theirs)


def _workload(compared: Compared, trained: Trained) -> mipp.grid.Workload:
    if compared.data not in mipp.zoo.DATA_SETS:
        raise unknown("data set with a test split", compared.data, mipp.zoo.DATA_SETS)
    if compared.weights is not None and trained.before_epochs:
        raise CommandError("--weights and --before-epochs both say what is pruned; give one of them.")
    named = compared.model if compared.weights is None else f"{compared.model} {compared.weights}"
    return mipp.grid.Workload(
        named,
        partial(make_model, ModelSource(compared.model, compared.weights)),
        mipp.zoo.load(compared.data, "train", compared.data_dir),
        mipp.zoo.load(compared.data, "test", compared.data_dir),
        before=mipp.grid.Recipe(trained.before_epochs, trained.learning_rate),
        after=mipp.grid.Recipe(trained.after_epochs, trained.after_learning_rate),
        whole=mipp.grid.Recipe(trained.whole_epochs, trained.learning_rate),
        samples=compared.max_samples,
        exclude=tuple(compared.exclude or ()),
        compensate=compared.compensate,
    )


def table_of(summaries: Sequence[mipp.grid.Summary]) -> Table:
    """The summaries as a table, a line each."""
    table = console.table(headings(summaries), names=2)
    for summary in summaries:
        table.add_row(*map(Text, cells(summary, summaries)))
    return table
