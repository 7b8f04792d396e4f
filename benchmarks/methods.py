"""All methods and their rivals on two workloads, in pieces that resume.

    MIPP_DATA_DIR=... python -m benchmarks.methods PIECE [--weights FOLDER] [--minutes 120] [--smoke]

Pieces: `lenet-before` and `lenet-after` (LeNet-5 on MNIST, pruned before or after 5 epochs of training, and trained for
1 and for 5 more), `lenet-refit` (pruned after training and refitted, not trained further: more seeds of the best two,
and MIPP with widths and nodes by trial; most trials at a tenth of the nodes), `resnet` (ResNet-20 on CIFAR-10, trained;
straight after, refitted, and after one epoch; one seed; also the time of each method, and Torch-Pruning and, where it
is installed, NVIDIA Model Optimizer). A piece stops between runs when its minutes are over; called again it goes on
from what its result file holds, and called several times at once, its processes share the runs. `--smoke` takes few
images and methods, and writes elsewhere.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from filelock import FileLock

from benchmarks.cifar import EXCLUDED
from benchmarks.record import RESULTS, Record
from benchmarks.rivals import installed, rivals
from benchmarks.workloads import MATCHED, SEEDS, SPARSE, folder, lenet, peers, resnet20
from mipp import grid
from mipp.methods import MIPP, Method, needs_of
from mipp.plan.budget import Budget

LENET = [*MATCHED, *SPARSE]
RESNET = [Budget(macs=0.5)]
REFIT_SEEDS = range(5)
TRIALS, MANY = 24, 400
NEAREST = "osscar"
"""The first of the other methods at a tenth of the nodes of `lenet-after`, refitted."""
SMOKE = ("mipp", "l1", "taylor", "snip", "imp", "oto")
Clock = Callable[[], bool]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("piece", choices=["lenet-before", "lenet-after", "lenet-refit", "resnet"])
    parser.add_argument("--weights", type=Path, help="folder of the pretrained .safetensors files")
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    stop = time.monotonic() + 60 * options.minutes
    pieces = {"resnet": resnet, "lenet-refit": lenet_refit}
    piece = pieces.get(options.piece) or partial(_lenet, options.piece)
    piece(options.weights, lambda: time.monotonic() < stop, smoke=options.smoke)


def _lenet(piece: str, weights: Path | None, on_time: Clock, *, smoke: bool) -> None:
    """LeNet-5 on MNIST: all methods, four budgets, three seeds."""
    work = lenet(trained=piece == "lenet-after", images=2048 if smoke else None)
    budgets, seeds = (LENET[:1], [0]) if smoke else (LENET, SEEDS)
    _grid(piece, work, grid.runs(_peers(smoke=smoke), budgets, seeds), on_time, smoke=smoke)


def lenet_refit(weights: Path | None, on_time: Clock, *, smoke: bool) -> None:
    """LeNet-5 on MNIST, trained: MIPP and the best of the others, four budgets, five seeds, closed form."""
    work = lenet(trained=True, further=False, images=2048 if smoke else None)
    methods = {name: peers()[name] for name in ("mipp", NEAREST)} | {f"mipp, trials={TRIALS}": MIPP(trials=TRIALS)}
    seeds = [0] if smoke else REFIT_SEEDS
    todo = grid.runs(methods, LENET[-1:] if smoke else LENET, seeds)
    todo += [] if smoke else grid.runs({f"mipp, trials={MANY}": MIPP(trials=MANY)}, LENET[-1:], seeds)
    _grid("lenet-refit", work, todo, on_time, smoke=smoke)


def resnet(weights: Path | None, on_time: Clock, *, smoke: bool) -> None:
    """ResNet-20 on CIFAR-10, trained: every method that prunes after training, those of other libraries, their time."""
    assert weights is not None, "--weights FOLDER holds the pretrained networks"
    work = resnet20(weights, images=1024 if smoke else None)
    methods = {name: m for name, m in _peers(smoke=smoke).items() if not needs_of(m).training} | rivals(EXCLUDED)
    _grid("resnet", work, grid.runs(methods, RESNET, [0]), on_time, smoke=smoke)


def _peers(*, smoke: bool) -> dict[str, Method]:
    return {name: method for name, method in peers().items() if not smoke or name in SMOKE}


def _grid(name: str, work: grid.Workload, todo: list[grid.Run], on_time: Clock, *, smoke: bool) -> None:
    """Does what is left of a grid, and writes one result file of what there is.

    Runs of libraries that are not installed are not done; those that the file holds stay.
    """
    place = folder(name, smoke=smoke)
    record = Record("methods_" + name.replace("-", "_") + ("_smoke" if smoke else ""), workload=work.options())
    grid.restore(_kept(record.path), place)
    jobs = [*grid.trainings(todo, work, place), *(grid.job(r, work, place) for r in todo if installed(r.method))]
    grid.sweep(jobs, on_time, lambda job: print(job.name, flush=True))
    rows = grid.read_results(todo, work, place)
    if grid.at_work(jobs) or not rows:
        return
    record.rows = [{k: v for k, v in row.items() if k != "workload"} for row in rows]
    with FileLock(f"{record.path}.lock"):
        record.save()
        for picture in grid.draw(record.rows, place.parent):
            picture.rename(picture.with_name(f"{name}-{picture.name}"))
    print(f"{len(rows)} of {len(todo)} runs are done: {record.path.relative_to(RESULTS.parents[1])}")
    print(f"The others take about {grid.remaining(todo, work, place) / 60:.0f} minutes in one process.")


def _kept(path: Path) -> list[grid.Row]:
    """The runs that a result file holds: whoever has the file goes on from there."""
    if not path.exists():
        return []
    found = json.loads(path.read_text())
    shared = {"machine": found["machine"], "workload": found["settings"]["workload"]}
    return [{**shared, **row} for row in found["rows"]]


if __name__ == "__main__":
    main()
