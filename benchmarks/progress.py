"""Progress: the time that a call says remains, against the time that did remain.

    MIPP_DATA_DIR=... python -m benchmarks.progress --weights FOLDER [--network NAME]

For each phase of at least ten steps and a twentieth of the time: of the time after its first tenth, the share in which
the estimate was within a factor of two. Seconds are those of the processor, so that other work on the machine does not
count.
"""

import argparse
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import mipp
from benchmarks.passes import JOBS, Job
from benchmarks.record import Record, Row
from mipp.runtime.progress import Bars, seconds_left

NETWORKS = ("resnet20", "vit")
FEWEST, SHARE = 10, 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="folder of the trained .safetensors files")
    parser.add_argument("--network", choices=JOBS, action="append", help="a ResNet-20 and a small ViT by default")
    options = parser.parse_args()
    record = Record("progress", fewest=FEWEST, share=SHARE)
    for name in options.network or NETWORKS:
        record.measure({"network": name}, partial(measure, JOBS[name](options.weights)))


def measure(job: Job) -> Row:
    """By phase, the number of steps, seconds, and the share of the time in which the estimate was right."""
    watched: list[Watched] = []

    def watch(_: Bars, items: Iterable[Any], what: str, total: Any = None, costs: Any = None) -> Iterator[Any]:
        phase = Watched(what, costs)
        watched.append(phase)
        for item in items:
            yield item
            phase.ends.append(time.process_time())

    with patch.object(Bars, "__call__", watch):
        mipp.prune(job.model, job.batches, job.budget, exclude=job.exclude)
    whole = sum(phase.seconds for phase in watched)
    long = [phase for phase in watched if len(phase.ends) > FEWEST and phase.seconds > SHARE * whole]
    return {"phases": [phase.row() for phase in long]}


class Watched:
    """A phase, with the times at which its steps ended; the first is that of its beginning."""

    def __init__(self, what: str, costs: Sequence[float] | None) -> None:
        self.what, self.costs = what, costs
        self.ends = [time.process_time()]

    @property
    def seconds(self) -> float:
        """Time of all steps."""
        return self.ends[-1] - self.ends[0]

    def row(self) -> Row:
        """The share of the time after the first tenth in which the estimate was right."""
        steps = len(self.ends) - 1
        costs = self.costs or [1.0] * steps
        right = told = 0.0
        for done, (now, then) in enumerate(pairwise(self.ends[1:]), 1):
            left = seconds_left(sum(costs[:done]), sum(costs), now - self.ends[0])
            if left is not None:
                told += then - now
                right += (then - now) * (0.5 <= left / max(self.ends[-1] - now, 1e-9) <= 2)
        return {
            "phase": self.what,
            "steps": steps,
            "seconds": round(self.seconds, 2),
            "right": round(right / max(told, 1e-9), 2),
        }


if __name__ == "__main__":
    main()
