"""Subjects, contestants, rounds: how a figure comes about.

A *subject* has rows (what is measured, in which unit) and contestants. A contestant's *turn* gets an empty
directory and returns one figure per row that it can serve. Rounds run every contestant once, each round
beginning with another one, so that a slow minute of the machine hits all of them; ratios are taken inside a
round.

Most turns are a context manager that yields `Work` by row and are driven by `timed`, so that all contestants
are measured by the very same loop.
"""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

VALUE = os.urandom(100)
BATCH_RECORDS = 600
PAGE = mmap.PAGESIZE
TOUCHED_BYTES = 256 << 20
PROBED_BYTES = 8 << 20
WARM_UP_STEPS = 3

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Effort:
    """How long everything may take; `QUICK` only shows that it works."""

    rounds: int = 5
    seconds: float = 0.3
    records: int = 1_000_000
    stored_records: int = 300_000
    processes: tuple[int, ...] = (1, 4, 16)
    partitions: int = 100_000


FULL = Effort()
QUICK = Effort(rounds=1, seconds=0.02, records=20_000, stored_records=6_000, processes=(1, 2), partitions=500)


@dataclass(frozen=True, slots=True)
class Row:
    """One measured thing; `is_cost` when less is better, `is_condition` when it says how the machine was."""

    name: str
    unit: str
    is_cost: bool = False
    is_condition: bool = False


TOUCH = Row("first touch of a page", "µs", is_cost=True, is_condition=True)


@dataclass(frozen=True, slots=True)
class Work:
    """`step` handles `records` records; `finish`, a flush of what is still open, is measured too."""

    step: Callable[[], object]
    records: int = 1
    finish: Callable[[], object] | None = None


Opened = Callable[[Path], contextlib.AbstractContextManager[Mapping[str, Work]]]
Turn = Callable[[Path, Effort], Figures]


@dataclass(frozen=True, slots=True)
class Subject:
    """`rounds` overrides the effort's where a turn is very cheap or very dear."""

    name: str
    title: str
    rows: tuple[Row, ...]
    contestants: Mapping[str, Turn]
    rounds: int | None = None
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class Outcome:
    """Samples by row and contestant, in the order of the rounds."""

    subject: Subject
    samples: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, contestant: str, figures: Figures) -> None:
        for row, figure in figures.items():
            self.samples.setdefault(row, {}).setdefault(contestant, []).append(figure)


def run(subject: Subject, effort: Effort, directory: Path | None = None) -> Outcome:
    """All rounds of a subject, each turn in a fresh directory below `directory` (None: the temporary one)."""
    outcome = Outcome(subject)
    names = list(subject.contestants)
    rounds = subject.rounds if subject.rounds and effort.rounds > 1 else effort.rounds
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            with tempfile.TemporaryDirectory(prefix="kafkalite-benchmark-", dir=directory) as place:
                gc.collect()
                outcome.add(name, subject.contestants[name](Path(place), effort))
    return outcome


def timed(opened: Opened) -> Turn:
    """The turn of a contestant that yields its work: M records/s by row."""

    def turn(directory: Path, effort: Effort) -> Figures:
        figures: Figures = {}
        with opened(directory) as works:
            for row, work in works.items():
                figures[row] = rate(work, effort) / 1e6
        return figures

    return turn


def rate(work: Work, effort: Effort) -> float:
    """Records per second over steps until the effort's seconds or records are used up, at least one step."""
    now, step = time.perf_counter, work.step
    begin = now()
    end, steps, most_steps = begin + effort.seconds, 0, max(1, effort.records // work.records)
    while steps < most_steps and (not steps or now() < end):
        step()
        steps += 1
    if work.finish:
        work.finish()
    return steps * work.records / (now() - begin)


def warm_up(step: Callable[[], object]) -> None:
    """A few calls that open what is opened late."""
    for _ in range(WARM_UP_STEPS):
        step()


def latencies(step: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of each call, at least one; only the last call ends after `seconds` are over."""
    now = time.perf_counter
    taken: list[float] = []
    begin = now()
    end = begin + seconds
    while not taken or begin < end:
        step()
        done = now()
        taken.append(done - begin)
        begin = done
    return taken


def latencies_of(step: Callable[[], object], count: int) -> list[float]:
    """Seconds of each of `count` calls."""
    now = time.perf_counter
    taken: list[float] = []
    for _ in range(count):
        begin = now()
        step()
        taken.append(now() - begin)
    return taken


def percentile(values: list[float], share: float) -> float:
    """The value that `share` (0 to 1) of the values do not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def latency_figures(taken: list[float], mean: str, median: str) -> Figures:
    """Mean and median in µs under the names of their two rows."""
    return {mean: statistics.fmean(taken) * 1e6, median: statistics.median(taken) * 1e6}


@contextlib.contextmanager
def touched_memory(size: int = TOUCHED_BYTES) -> Iterator[float]:
    """Holds memory whose every page was written; yields the µs that a page's first touch took.

    On a virtual machine the first touch of a page that the host has to provide costs more than the copy into
    it, so appends run at a quarter of their speed on such pages. *Holding* touched memory makes appends take
    other pages; having *released* it gives the append warm ones. Whether the held-back turn really met cold
    pages only the probe tells: the kernel may have gigabytes of warm ones left.
    """
    with mmap.mmap(-1, size) as memory:
        begin = time.perf_counter()
        for position in range(0, size, PAGE):
            memory[position] = 1
        yield (time.perf_counter() - begin) / (size // PAGE) * 1e6


def _probed(turn: Turn, directory: Path, effort: Effort) -> Figures:
    with touched_memory(PROBED_BYTES) as touch:
        pass
    return {TOUCH.name: touch, **turn(directory, effort)}


def on_released_pages(turn: Turn) -> Turn:
    """The turn, after pages were touched and released."""

    def released(directory: Path, effort: Effort) -> Figures:
        with touched_memory():
            pass
        return _probed(turn, directory, effort)

    return released


def on_other_pages(turn: Turn) -> Turn:
    """The turn, while touched pages are held back from it."""

    def other(directory: Path, effort: Effort) -> Figures:
        with touched_memory():
            return _probed(turn, directory, effort)

    return other
