"""The numbers of a report in the trackers of experiments: TensorBoard, MLflow, trackio, Weights & Biases."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from mipp.errors import MippError
from mipp.report import Report

_STRANGE = re.compile(r"[^\w.\- :]")


def log_report(report: Report, writer: Any, step: int = 0) -> None:
    """Logs the numbers of a report: every measure before, after and in later stages, and the nodes kept by group.

    >>> class Printer:
    ...     def log(self, numbers, step):
    ...         print(step, sorted(numbers)[:2])
    >>> empty = Measures(params=0, macs=0, nodes=0, latency_ms=None, metrics={})
    >>> log_report(Report("M", "L1()", "", {}, empty, empty, {}, (), (), (), (), {}, {}, {}), Printer())
    0 ['dense/macs', 'dense/nodes']

    Args:
        report: `result.report`.
        writer: A `SummaryWriter` (`add_scalar`); the module or a client bound to a run with `log_metrics`, as `mlflow`;
            or what has `log`, as `trackio`, `wandb` or one of their runs.
        step: The step they are logged under, such as the round of pruning.

    Raises:
        MippError: The report is something else, or the writer has none of these functions.
    """
    if not isinstance(report, Report):
        raise MippError(f"report is a {type(report).__name__}; expected result.report.")
    numbers = dict(_numbers(report))
    if hasattr(writer, "add_scalar"):
        for name, value in numbers.items():
            writer.add_scalar(name, value, step)
    elif hasattr(writer, "log_metrics"):
        writer.log_metrics(_with_plain_names(numbers), step=step)
    elif hasattr(writer, "log"):
        writer.log(numbers, step=step)
    else:
        raise MippError(
            f"writer is a {type(writer).__name__}; expected add_scalar (TensorBoard), log_metrics (MLflow) or log "
            "(trackio, wandb)."
        )


def _numbers(report: Report) -> Iterator[tuple[str, float]]:
    for stage, measures in {"dense": report.before, "pruned": report.after, **report.stages}.items():
        sizes = {name: value for name, value in vars(measures).items() if name != "metrics" and value is not None}
        yield from ((f"{stage}/{name}", value) for name, value in {**sizes, **measures.metrics}.items())
    for line in report.groups:
        yield f"kept/{line.name}", line.kept
        if line.information_kept is not None:
            yield f"information/{line.name}", line.information_kept


def _with_plain_names(numbers: Mapping[str, float]) -> dict[str, float]:
    """The numbers under names that MLflow takes: letters, digits and some signs, one slash, at most 250 characters."""
    found: dict[str, float] = {}
    for name, value in numbers.items():
        stage, _, rest = name.partition("/")
        plain = "/".join(_STRANGE.sub("_", part) for part in (stage, rest))[:240]
        while plain in found:
            plain += "_"
        found[plain] = value
    return found
