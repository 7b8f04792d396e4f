"""Formats numbers and untrusted names, the same in the text and on the page."""

import math
from collections.abc import Callable

from mipp.runtime.tensor_store import format_bytes

ABSENT = "–"
_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def count(number: float) -> str:
    """Write a count: exactly below ten thousand, else with four digits and a unit, such as `126.5 M`."""
    if abs(number) < 10_000:
        return f"{number:,.0f}".replace("-", "−")
    unit, letter = next((unit, letter) for unit, letter in _UNITS if abs(number) >= 0.99995 * unit)
    return f"{figure(number / unit)} {letter}"


def figure(number: float) -> str:
    """Write a real number with about four digits."""
    size = abs(number)
    if not math.isfinite(number) or 0 < size < 1e-3 or size >= 1e15:
        written = f"{number:.3g}"
    elif size >= 10_000:
        return count(number)
    else:
        written = f"{number:,.{_decimals(size)}f}"
    return written.replace("-", "−")


def _decimals(size: float) -> int:
    return next((places for bound, places in ((1, 4), (10, 3), (100, 2), (1000, 1)) if size < 0.99995 * bound), 0)


def milliseconds(number: float) -> str:
    """Write a duration in milliseconds."""
    return f"{figure(number)} ms"


def percent(fraction: float | None) -> str:
    """Write a fraction as a percentage; only exactly all and exactly nothing are written without a decimal."""
    if fraction is None:
        return ABSENT
    return f"{100 * fraction:.0f} %" if fraction in (0, 1) else f"{100 * fraction:.1f} %".replace("-", "−")


def slack(fraction: float) -> str:
    """Write the distance to a limit of the budget, given as a fraction of the dense model."""
    size = f"{100 * abs(fraction):.2g} %" if abs(fraction) < 0.1 else percent(abs(fraction))
    return f"{size} of dense unused" if fraction >= 0 else f"exceeded by {size} of dense"


def ratio(after: float | None, before: float | None) -> float | None:
    """Return after / before, or None where that is no number."""
    if after is None or before is None or before == 0 or not math.isfinite(after / before):
        return None
    return after / before


def times(factor: float | None) -> str:
    """Write a ratio as a factor, such as `× 0.491`."""
    if factor is None:
        return ABSENT
    if 0 < factor < 0.01:
        return f"× {factor:.3g}"
    return f"× {factor:.3f}" if factor < 10 else f"× {figure(factor)}"


def difference(after: float, before: float) -> str:
    """Write the signed difference of two metrics with the digits in which both are written."""
    change, sizes = after - before, (abs(after), abs(before))
    if not math.isfinite(change):
        return ABSENT
    if not 1e-3 <= max(sizes) < 10_000:
        return f"{'−' if change < 0 else '+'}{figure(abs(change))}"
    return f"{change:+,.{max(map(_decimals, sizes))}f}".replace("-", "−")


def plural(number: int, noun: str) -> str:
    """Write a number with its noun, such as `3 layers`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def printable(text: str) -> str:
    """Replace what could steer a terminal or turn a line around (control and format characters) by U+FFFD."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "\ufffd" for letter in text)


def shorten(text: str, width: int) -> str:
    """Write a name in one line of at most `width` terminal cells.

    The leading parts of a module path give way first, as in `e.l.11.attention.query`: numbers and the end tell layers
    apart. What is still too long is cut in the middle.
    """
    from rich.cells import cell_len, set_cell_size

    text = printable(text).replace("\n", "\ufffd")
    parts = text.split(".")
    for i, part in enumerate(parts[:-1]):
        if cell_len(".".join(parts)) <= width:
            break
        parts[i] = part if part.isdecimal() else part[:1]
    text = ".".join(parts)
    if cell_len(text) <= width:
        return text
    tail = (width - 1) * 3 // 5
    head = width - 1 - tail
    return f"{set_cell_size(text, head).rstrip()}…{set_cell_size(text[::-1], tail)[::-1].lstrip()}"


BY_UNIT: dict[str, Callable[[float], str]] = {"": count, "ms": milliseconds, "bytes": format_bytes}
"""Writes an amount of a constraint, by its unit."""
