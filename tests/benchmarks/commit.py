"""Commits that nobody flushes: one record, and batches of 600, in a store with `durability="none"`.

SQLite commits at NORMAL, where a commit is not flushed either, in transactions of 1,000 rows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import kafkalite
from tests.benchmarks.measure import (
    BATCH_RECORDS,
    TOUCH,
    VALUE,
    Effort,
    Figures,
    Row,
    Subject,
    Turn,
    Work,
    latencies,
    latency_figures,
    on_other_pages,
    on_released_pages,
    timed,
    warm_up,
)
from tests.benchmarks.peers import SQLITE_ROWS, Prototypes, Sqlite, sqlite

if TYPE_CHECKING:
    from pathlib import Path

MEAN = Row("one record, mean", "µs", is_cost=True)
MEDIAN = Row("one record, median", "µs", is_cost=True)
BATCH = Row("batches", "M records/s")

VALUES = [VALUE] * BATCH_RECORDS
SQLITE_ROW = (None, 1, VALUE)
SQLITE_BATCH = [SQLITE_ROW] * SQLITE_ROWS

Step = contextlib.AbstractContextManager[Callable[[], object]]


def subjects(prototypes: Prototypes | None) -> list[Subject]:
    one: dict[str, Turn] = {"kafkalite": _each(_append)}
    batch: dict[str, Turn] = {"kafkalite": timed(_append_many)}
    if prototypes:
        one["prototypes"] = _each(lambda place: _prototype_one(prototypes, place))
        batch["prototypes"] = timed(lambda place: _prototype_batch(prototypes, place))
    one["SQLite"] = _each(_sqlite_one)
    batch["SQLite executemany"] = timed(lambda place: _sqlite_batch(place, Sqlite.insert_many))
    batch["SQLite execute"] = timed(lambda place: _sqlite_batch(place, Sqlite.insert_each))
    title = "600-record batches without flush"
    return [
        Subject("commit", "One-record commits without flush", (MEAN, MEDIAN), one),
        Subject("batch-warm", f"{title}, warm pages", (BATCH, TOUCH), _each_turn(on_released_pages, batch)),
        Subject(
            "batch-cold",
            f"{title}, cold pages",
            (BATCH, TOUCH),
            _each_turn(on_other_pages, batch),
            notes=("cold only if a page's first touch costs clearly more here than in batch-warm",),
        ),
    ]


def _each_turn(wrap: Callable[[Turn], Turn], turns: Mapping[str, Turn]) -> dict[str, Turn]:
    return {name: wrap(turn) for name, turn in turns.items()}


def _each(opened: Callable[[Path], Step]) -> Turn:
    """A turn that times every single commit."""

    def turn(directory: Path, effort: Effort) -> Figures:
        with opened(directory) as step:
            warm_up(step)
            return latency_figures(latencies(step, effort.seconds), MEAN.name, MEDIAN.name)

    return turn


@contextlib.contextmanager
def _append(directory: Path) -> Iterator[Callable[[], object]]:
    with kafkalite.connect(directory / "store", durability="none") as store:
        topic = store.topic("records")
        yield lambda: topic.append(VALUE)


@contextlib.contextmanager
def _append_many(directory: Path) -> Iterator[Mapping[str, Work]]:
    with kafkalite.connect(directory / "store", durability="none") as store:
        topic = store.topic("records")
        topic.append(VALUE)
        yield {BATCH.name: Work(lambda: topic.append_many(VALUES), BATCH_RECORDS)}


@contextlib.contextmanager
def _prototype_one(prototypes: Prototypes, directory: Path) -> Iterator[Callable[[], object]]:
    with prototypes.store(directory) as store:
        yield lambda: store.commit([(0, 1, store.pack(([VALUE], None)))])


@contextlib.contextmanager
def _prototype_batch(prototypes: Prototypes, directory: Path) -> Iterator[Mapping[str, Work]]:
    with prototypes.store(directory) as store:
        store.commit([(0, 1, store.pack(([VALUE], None)))])
        yield {BATCH.name: Work(prototype_step(store), BATCH_RECORDS)}


def prototype_step(store: Any) -> Callable[[], object]:
    """One 600-record batch into a prototype's log."""
    return lambda: store.commit([(0, BATCH_RECORDS, store.pack((VALUES, None)))])


@contextlib.contextmanager
def _sqlite_one(directory: Path) -> Iterator[Callable[[], object]]:
    with sqlite(directory) as peer:
        yield lambda: peer.insert(SQLITE_ROW)


@contextlib.contextmanager
def _sqlite_batch(
    directory: Path, insert: Callable[[Sqlite, list[tuple[None, int, bytes]]], None]
) -> Iterator[Mapping[str, Work]]:
    with sqlite(directory) as peer:
        yield {BATCH.name: Work(lambda: insert(peer, SQLITE_BATCH), SQLITE_ROWS)}
