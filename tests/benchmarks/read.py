"""Reading a store from one end to the other, as records and as batches with their columns.

SQLite's batches are `fetchmany` of 1,000 rows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TYPE_CHECKING

import kafkalite
from tests.benchmarks.commit import SQLITE_BATCH, VALUES, prototype_step
from tests.benchmarks.measure import BATCH_RECORDS, Effort, Figures, Row, Subject, Turn, Work, rate
from tests.benchmarks.peers import SQLITE_ROWS, Prototypes, sqlite

if TYPE_CHECKING:
    from pathlib import Path

RECORDS = Row("as records", "M records/s")
BATCHES = Row("as batches", "M records/s")

# The two ways to read one store, made anew for every pass.
Scans = tuple[Callable[[], Iterable[object]], Callable[[], Iterable[Sized]]]


def subjects(prototypes: Prototypes | None) -> list[Subject]:
    turns: dict[str, Turn] = {"kafkalite": _scanned(_kafkalite)}
    if prototypes:
        turns["prototypes"] = _scanned(lambda place, count: _prototype(prototypes, place, count))
    turns["SQLite"] = _scanned(_sqlite)
    return [Subject("read", "Reading, 100-byte values", (RECORDS, BATCHES), turns)]


def _scanned(opened: Callable[[Path, int], contextlib.AbstractContextManager[Scans]]) -> Turn:
    def turn(directory: Path, effort: Effort) -> Figures:
        count = effort.stored_records
        with opened(directory, count) as (records, batches):
            # The first pass maps and faults; what is measured is what a reader that goes on pays.
            _expect(count, _count_records(records()))
            by_record = Work(lambda: _expect(count, _count_records(records())), count)
            by_batch = Work(lambda: _expect(count, sum(len(batch) for batch in batches())), count)
            return {
                RECORDS.name: rate(by_record, effort) / 1e6,
                BATCHES.name: rate(by_batch, effort) / 1e6,
            }

    return turn


def _count_records(records: Iterable[object]) -> int:
    count = 0
    for _ in records:
        count += 1
    return count


def _expect(count: int, found: int) -> None:
    if found != count:
        raise ValueError(f"read {found} records of {count}: a figure for a wrong answer is worth nothing")


@contextlib.contextmanager
def _kafkalite(directory: Path, count: int) -> Iterator[Scans]:
    with kafkalite.connect(directory / "store", durability="none") as store:
        topic = store.topic("records")
        for _ in range(count // BATCH_RECORDS):
            topic.append_many(VALUES)
        yield topic.read, lambda: (batch.values for batch in topic.batches())


@contextlib.contextmanager
def _prototype(prototypes: Prototypes, directory: Path, count: int) -> Iterator[Scans]:
    with prototypes.store(directory) as store:
        step = prototype_step(store)
        for _ in range(count // BATCH_RECORDS):
            step()
        yield lambda: store.records(0, 0), lambda: (values for values, _ in prototypes.batches(store))


@contextlib.contextmanager
def _sqlite(directory: Path, count: int) -> Iterator[Scans]:
    with sqlite(directory) as peer:
        for _ in range(count // SQLITE_ROWS):
            peer.insert_many(SQLITE_BATCH)
        yield peer.scan, peer.chunks
