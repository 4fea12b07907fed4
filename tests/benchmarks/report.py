"""Outcomes as tables (rich where it is installed, plain text otherwise) and as JSON.

Every line is one contestant in one row: median, spread, and how many times faster kafkalite was than it (for
a cost: how many times cheaper), as the median and spread of the rounds' own ratios. Beside the prototypes a
ratio below two thirds is marked: losing more than that to structure is a defect.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
from typing import TYPE_CHECKING, Any

import kafkalite

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.benchmarks.measure import Outcome, Row

SELF = "kafkalite"
FLOORS = {"prototypes": 2 / 3}
HEADINGS = ("", "contestant", "median", "min .. max", "kafkalite, times as good")
BELOW_FLOOR = "below 2/3"
PIPED_COLUMNS = 120

Line = tuple[str, str, str, str, str]


def machine() -> dict[str, Any]:
    """What a figure depends on and a reader cannot see."""
    return {
        "kafkalite": kafkalite.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "processor_count": os.cpu_count(),
    }


def document(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Everything as plain data: the machine, then by subject and row each contestant's samples and ratios."""
    return {"machine": machine(), "subjects": {one.subject.name: _subject(one) for one in outcomes}}


def _subject(outcome: Outcome) -> dict[str, Any]:
    rows = {}
    for row, contestants in _measured(outcome):
        rows[row.name] = {
            "unit": row.unit,
            "contestants": {name: {**_spread(samples), "samples": samples} for name, samples in contestants.items()},
            "kafkalite_ratio": {
                name: _spread(ratios) for name in contestants if (ratios := _ratios(row, contestants, name))
            },
        }
    return {"title": outcome.subject.title, "rows": rows}


def _measured(outcome: Outcome) -> Iterator[tuple[Row, dict[str, list[float]]]]:
    for row in outcome.subject.rows:
        if row.name in outcome.samples:
            order = [name for name in outcome.subject.contestants if name in outcome.samples[row.name]]
            yield row, {name: outcome.samples[row.name][name] for name in order}


def _spread(samples: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(samples), "min": min(samples), "max": max(samples)}


def _ratios(row: Row, contestants: dict[str, list[float]], name: str) -> list[float]:
    """kafkalite against `name`, round by round; empty for itself, or where it did not take part."""
    if name == SELF or SELF not in contestants or row.is_condition:
        return []
    pairs = zip(contestants[SELF], contestants[name], strict=True)
    return [_quotient(other, own) if row.is_cost else _quotient(own, other) for own, other in pairs]


def _quotient(dividend: float, divisor: float) -> float:
    # A difference of two interpreter starts can come out at nothing.
    return dividend / divisor if divisor else float("inf")


def lines(outcome: Outcome) -> Iterator[Line]:
    """The table's lines as text."""
    for row, contestants in _measured(outcome):
        for number, (name, samples) in enumerate(contestants.items()):
            spread = _spread(samples)
            label = f"{row.name} [{row.unit}]" if number == 0 else ""
            yield (
                label,
                name,
                _number(spread["median"]),
                f"{_number(spread['min'])} .. {_number(spread['max'])}" if len(samples) > 1 else "",
                _ratio_text(name, _ratios(row, contestants, name)),
            )


def _ratio_text(name: str, ratios: list[float]) -> str:
    if not ratios:
        return ""
    spread = _spread(ratios)
    text = f"{spread['median']:.2f}"
    if len(ratios) > 1:
        text += f" ({spread['min']:.2f} .. {spread['max']:.2f})"
    return f"{text} {BELOW_FLOOR}" if spread["median"] < FLOORS.get(name, 0) else text


def _number(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 20 else f"{value:.2f}"


def show(outcome: Outcome) -> None:
    """Prints one subject's table."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        sys.stdout.write(plain(outcome))
        return
    table = Table(title=outcome.subject.title, title_justify="left", title_style="bold")
    for heading, justify in zip(HEADINGS, ("left", "left", "right", "right", "right"), strict=True):
        table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for line in lines(outcome):
        style = "red" if line[-1].endswith(BELOW_FLOOR) else None
        # A label's unit stands in brackets, which rich would take for markup.
        table.add_row(*(cell.replace("[", r"\[") for cell in line), style=style)
    # Into a file or a pipe rich would assume 80 columns and cut the figures.
    console = Console(width=None if sys.stdout.isatty() else PIPED_COLUMNS)
    console.print(table)
    for note in outcome.subject.notes:
        console.print(f"  {note}", style="dim")


def plain(outcome: Outcome) -> str:
    """The same table in plain text."""
    table = [HEADINGS, *lines(outcome)]
    widths = [max(len(line[column]) for line in table) for column in range(len(HEADINGS))]
    text = [f"\n{outcome.subject.title}"]
    for line in table:
        left = (cell.ljust(width) for cell, width in zip(line[:2], widths[:2], strict=True))
        right = (cell.rjust(width) for cell, width in zip(line[2:], widths[2:], strict=True))
        text.append("  ".join((*left, *right)).rstrip())
    text += [f"  {note}" for note in outcome.subject.notes]
    return "\n".join(text) + "\n"
