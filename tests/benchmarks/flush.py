"""Commits that wait for the disk: 600-record batches, and single records from 1, 4 and 16 processes.

All processes write to one store and each to a partition of its own, as the prototype's logs are; SQLite's
(WAL, FULL) share a table. They open their store and warm up, wait for each other at a barrier, then commit in
one common window. p50 is the median process's and p99 the worst one's: a process that starves is seen, as it
is not in a pool of commits that others made. The prototype shares flushes as kafkalite does: who waits sleeps
half of the last flush's time.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import queue
import statistics
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import kafkalite
from tests.benchmarks.commit import SQLITE_BATCH, SQLITE_ROW, VALUES, prototype_step
from tests.benchmarks.measure import (
    BATCH_RECORDS,
    FULL,
    PAGE,
    VALUE,
    Effort,
    Figures,
    Row,
    Subject,
    Turn,
    Work,
    latencies,
    latencies_of,
    percentile,
    timed,
    warm_up,
)
from tests.benchmarks.peers import Prototypes, sqlite

BATCH = Row("batches, a flush each", "M records/s")
DISK = Row("flush of a bare file", "µs", is_cost=True, is_condition=True)
PROBED_FLUSHES = 20
DISK_NOTE = "where the flush of a bare file differs or spreads widely, the disk was busy: these ratios say little"
# Sharing shows itself only once a few flushes have gone by with everyone in.
PROCESS_SECONDS_FACTOR = 2
ANSWER_SECONDS = 120
PROTOTYPE_MODE = "P0.5"


class Answer(NamedTuple):
    """What one process did: commits, and its latencies in seconds."""

    commits: int
    p50: float
    p99: float


# (directory, number of the process, seconds, queue for the answer, barrier)
Worker = Callable[[Path, int, float, Any, Any], None]


def subjects(prototypes: Prototypes | None) -> list[Subject]:
    batch: dict[str, Turn] = {"kafkalite": timed(_append_many)}
    workers: dict[str, tuple[Callable[[Path], None], Worker]] = {"kafkalite": (_create, _append_worker)}
    if prototypes:
        batch["prototypes"] = timed(lambda place: _prototype_batch(prototypes, place))
        workers["prototypes"] = (
            functools.partial(_create_prototype, prototypes),
            functools.partial(_prototype_worker, prototypes),
        )
    batch["SQLite FULL"] = timed(_sqlite_batch)
    workers["SQLite FULL"] = (_create_sqlite, _sqlite_worker)
    durable: dict[str, Turn] = {name: _processes(*pair) for name, pair in workers.items()}
    return [
        Subject("flush", "600-record batches with a flush each", (BATCH, DISK), _probed(batch), notes=(DISK_NOTE,)),
        Subject(
            "durable",
            "Durable one-record commits",
            (*_rows(FULL.processes), DISK),
            _probed(durable),
            rounds=3,
            notes=(DISK_NOTE,),
        ),
    ]


def _probed(turns: Mapping[str, Turn]) -> dict[str, Turn]:
    """The turns, each after a look at how fast the disk is just then."""

    def probed(turn: Turn) -> Turn:
        return lambda directory, effort: {DISK.name: _bare_flush_us(directory), **turn(directory, effort)}

    return {name: probed(turn) for name, turn in turns.items()}


def _bare_flush_us(directory: Path) -> float:
    """Median µs to flush one page of a file whose pages all exist."""
    with (directory / "probe").open("wb", buffering=0) as file:
        file.write(bytes(PROBED_FLUSHES * PAGE))
        os.fsync(file.fileno())
        file.seek(0)

        def step() -> None:
            file.write(VALUE.ljust(PAGE))
            os.fdatasync(file.fileno())

        return statistics.median(latencies_of(step, PROBED_FLUSHES)) * 1e6


def _rows(counts: tuple[int, ...]) -> tuple[Row, ...]:
    return tuple(row for count in counts for row in _process_rows(count))


def _process_rows(count: int) -> tuple[Row, Row, Row]:
    processes = f"{count} process{'es' if count > 1 else ''}"
    return (
        Row(processes, "commits/s"),
        Row(f"{processes}, p50", "µs", is_cost=True),
        Row(f"{processes}, p99", "µs", is_cost=True),
    )


@contextlib.contextmanager
def _append_many(directory: Path) -> Iterator[Mapping[str, Work]]:
    with kafkalite.connect(directory / "store", durability="commit") as store:
        topic = store.topic("records")
        topic.append(VALUE)
        yield {BATCH.name: Work(lambda: topic.append_many(VALUES), BATCH_RECORDS)}


@contextlib.contextmanager
def _prototype_batch(prototypes: Prototypes, directory: Path) -> Iterator[Mapping[str, Work]]:
    with prototypes.store(directory, sync=True) as store:
        store.commit([(0, 1, store.pack(([VALUE], None)))])
        yield {BATCH.name: Work(prototype_step(store), BATCH_RECORDS)}


@contextlib.contextmanager
def _sqlite_batch(directory: Path) -> Iterator[Mapping[str, Work]]:
    with sqlite(directory, "full") as peer:
        yield {BATCH.name: Work(lambda: peer.insert_many(SQLITE_BATCH[:BATCH_RECORDS]), BATCH_RECORDS)}


def _processes(create: Callable[[Path], None], worker: Worker) -> Turn:
    """A turn that runs the worker in each number of processes, every time on a store of its own."""

    def turn(directory: Path, effort: Effort) -> Figures:
        figures: Figures = {}
        for count in effort.processes:
            place = directory / str(count)
            place.mkdir()
            create(place)
            answers = _answers(worker, place, count, effort.seconds * PROCESS_SECONDS_FACTOR)
            total, p50, p99 = (row.name for row in _process_rows(count))
            figures[total] = sum(answer.commits for answer in answers) / (effort.seconds * PROCESS_SECONDS_FACTOR)
            figures[p50] = statistics.median(answer.p50 for answer in answers) * 1e6
            figures[p99] = max(answer.p99 for answer in answers) * 1e6
        return figures

    return turn


def _answers(worker: Worker, place: Path, count: int, seconds: float) -> list[Answer]:
    # Forked, not spawned: sixteen interpreters would import for longer than the measurement takes.
    context = multiprocessing.get_context("fork")
    answers: Any = context.Queue()
    barrier = context.Barrier(count)
    children = [
        context.Process(target=worker, args=(place, number, seconds, answers, barrier)) for number in range(count)
    ]
    for child in children:
        child.start()
    try:
        return [Answer(*answers.get(timeout=ANSWER_SECONDS)) for _ in children]
    except queue.Empty:
        codes = [child.exitcode for child in children]
        raise RuntimeError(f"no answer from {worker} in {ANSWER_SECONDS} s, exit codes {codes}") from None
    finally:
        for child in children:
            child.join(ANSWER_SECONDS)


def _answer(step: Callable[[], object], seconds: float, answers: Any, barrier: Any) -> None:
    # Before the barrier: who starves while warming up would else begin, and count, when others are done.
    warm_up(step)
    barrier.wait()
    taken = latencies(step, seconds)
    # The last commit ended after the window: its time is a latency, but it is none of the window's commits.
    answers.put((len(taken) - 1, statistics.median(taken), percentile(taken, 0.99)))


def _create(place: Path) -> None:
    with kafkalite.connect(place / "store", durability="commit") as store:
        store.topic("records", partitions=max(FULL.processes))


def _append_worker(place: Path, number: int, seconds: float, answers: Any, barrier: Any) -> None:
    with kafkalite.connect(place / "store") as store:
        topic = store.topic("records")
        _answer(lambda: topic.append(VALUE, partition=number), seconds, answers, barrier)


def _create_prototype(prototypes: Prototypes, place: Path) -> None:
    prototypes.flush.S(str(place), False).env.close()


def _prototype_worker(
    prototypes: Prototypes, place: Path, number: int, seconds: float, answers: Any, barrier: Any
) -> None:
    found: queue.SimpleQueue[tuple[int, int, float, float, float]] = queue.SimpleQueue()
    prototypes.flush.work(str(place), PROTOTYPE_MODE, number, seconds, found, barrier, 0.0, False)
    commits, _flushes, p50, p99, _cpu = found.get()
    answers.put((commits, p50, p99))


def _create_sqlite(place: Path) -> None:
    with sqlite(place, "full"):
        pass


def _sqlite_worker(place: Path, _number: int, seconds: float, answers: Any, barrier: Any) -> None:
    with sqlite(place, "full") as peer:
        _answer(lambda: peer.insert(SQLITE_ROW), seconds, answers, barrier)
