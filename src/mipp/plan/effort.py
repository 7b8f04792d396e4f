"""Levels of effort: numbers of samples, of steps towards a budget, and of rows that a layer is refitted to."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, log2

from mipp.errors import MippError, quote

MOST_SAMPLES = 1024
"""Of more samples no fewer positions are taken, so that more of them bring more rows."""


@dataclass(frozen=True)
class Effort:
    """Numbers for where `Calibration`, `MIPP` and `Refit` say none. The proof of a cut does not depend on them.

    Attributes:
        samples: Calibration samples to read.
        steps: Steps in which `MIPP` reaches a budget in chains; elsewhere one for each halving, and no more.
        rows_per_input: A layer is refitted to so many rows for each of its inputs,
        fewest: and to so many at least,
        most: and at most; more than 1,024 samples bring more.
        chosen_by_per_input: The nodes that a layer reads are chosen by so many rows for each of its inputs,
        chosen_by: and by so many at least, as far as `MIPP.positions` allows.
        seen_by: Where fewer samples bring these rows, so many are looked at.
        rounds: Rounds in which a weight that reads what it wrote is fitted, the first to what the dense one reads.
        through_time: Rounds of least squares through all steps of a recurrence.
        variations: So many times more are images read, shifted and mirrored, where rows are scarce.
    """

    samples: int = 1024
    steps: int = 4
    rows_per_input: int = 128
    fewest: int = 4096
    most: int = 65536
    chosen_by_per_input: int = 16
    chosen_by: int = 8192
    seen_by: int = 256
    rounds: int = 3
    through_time: int = 2
    variations: int = 1

    def steps_for(self, fall: float, *, in_chain: bool) -> int:
        """Steps to a budget that the dense network exceeds by this factor."""
        return self.steps if in_chain else min(self.steps, max(1, ceil(log2(max(fall, 1.0)) - 1e-9)))

    def rows_for(self, inputs: int) -> int:
        """Rows that a layer of so many inputs is refitted to."""
        return min(self.most, max(self.fewest, self.rows_per_input * inputs))

    def positions_for(self, inputs: int, samples: int, stride: int = 1) -> int:
        """Positions of each sample looked at by which the nodes that a layer of so many inputs reads are chosen."""
        return ceil(self._chosen_by(inputs) * stride / max(1, min(samples, MOST_SAMPLES)))

    def stride_for(self, inputs: int, positions: float, samples: int) -> int:
        """Of how many samples one is looked at to choose the nodes that a layer reads, at so many positions at most."""
        needed = max(self.seen_by, self._chosen_by(inputs) / max(positions, 1))
        return max(1, int(min(samples, MOST_SAMPLES) / needed))

    def _chosen_by(self, inputs: int) -> int:
        return max(self.chosen_by, self.chosen_by_per_input * inputs)


DEFAULT = Effort()
EFFORTS: Mapping[str, Effort] = {
    "fast": Effort(samples=256, most=16384, rounds=2, through_time=0, variations=0),
    "default": DEFAULT,
    "best": Effort(samples=4096, variations=3),
}


def effort_of(name: object) -> Effort:
    """The level of that name.

    Raises:
        MippError: There is none.
    """
    if not isinstance(name, str) or name not in EFFORTS:
        raise MippError(f"effort={quote(name)} is unknown; expected {', '.join(map(repr, EFFORTS))}.")
    return EFFORTS[name]
