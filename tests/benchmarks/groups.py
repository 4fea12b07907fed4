"""What membership of a group costs: reading through one beside `Topic.read`, commits, and the CPU time of members.

The CPU of a member that waits is its keeper's; a rebalance is one more member that joins and leaves again, its cost
that of all members together, which live in one process and one thread.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import kafkalite
from tests.benchmarks.commit import VALUES
from tests.benchmarks.measure import BATCH_RECORDS, Effort, Figures, Row, Subject, Turn, Work, rate

if TYPE_CHECKING:
    from pathlib import Path

    from tests.benchmarks.peers import Prototypes

RECORDS = Row("as records", "M records/s")
WORKED = Row("as records, some work each", "M records/s")
BATCHES = Row("as batches or polls", "M records/s")
COMMIT = Row("commit of one offset", "µs", is_cost=True)
SIZES = (1, 10, 100)
WAITING = {size: Row(f"CPU of a waiting member of {size}", "µs/s", is_cost=True) for size in SIZES}
REBALANCE = {size: Row(f"CPU of a join and leave, each of {size}", "µs", is_cost=True) for size in SIZES}
PARTITIONS = 128
WAIT_SECONDS_FACTOR = 3

PLACE = kafkalite.TopicPartition("records", 0)

Topic = kafkalite.Topic[Any, Any]
Member = kafkalite.ConsumerGroup[Any, Any]
# The records, and the same as batches: made anew for every pass.
Reads = tuple[Callable[[], Iterable[Any]], Callable[[], Iterable[Any]]]
Opened = Callable[[kafkalite.Store, Topic], contextlib.AbstractContextManager[Reads]]


def subjects(_prototypes: Prototypes | None) -> list[Subject]:
    ways: dict[str, Opened] = {"kafkalite": _group, "topic.read": _topic, "group.poll": _poll}
    reading = {name: _scanned(opened) for name, opened in ways.items()}
    return [
        Subject("group-read", "Reading through a group", (RECORDS, WORKED, BATCHES), reading),
        Subject("group-commit", "Committing an offset, no flush", (COMMIT,), {"kafkalite": _commits}),
        Subject(
            "group-members", "Membership", (*WAITING.values(), *REBALANCE.values()), {"kafkalite": _members}, rounds=2
        ),
    ]


def _scanned(opened: Opened) -> Turn:
    def turn(directory: Path, effort: Effort) -> Figures:
        count = effort.stored_records // BATCH_RECORDS * BATCH_RECORDS
        with kafkalite.connect(directory / "store", durability="none") as store:
            topic = store.topic("records")
            for _ in range(count // BATCH_RECORDS):
                topic.append_many(VALUES)
            with opened(store, topic) as (records, batches):
                _expect(count, _drain(records()))
                return {
                    RECORDS.name: rate(Work(lambda: _expect(count, _drain(records())), count), effort) / 1e6,
                    WORKED.name: rate(Work(lambda: _expect(count, _work(records())), count), effort) / 1e6,
                    BATCHES.name: rate(Work(lambda: _expect(count, sum(map(len, batches()))), count), effort) / 1e6,
                }

    return turn


def _drain(records: Iterable[Any]) -> int:
    count = 0
    for _ in records:
        count += 1
    return count


def _work(records: Iterable[Any]) -> int:
    """A little work with each: what a short handler does."""
    count = 0
    for record in records:
        count += 1
        hash((record.partition, record.offset, record.key, record.value, record.timestamp_ms))
    return count


def _expect(count: int, found: int) -> None:
    if found != count:
        raise ValueError(f"read {found} records of {count}: a figure for a wrong answer is worth nothing")


@contextlib.contextmanager
def _topic(_store: kafkalite.Store, topic: Topic) -> Iterator[Reads]:
    yield topic.read, lambda: (batch.values for batch in topic.batches())


@contextlib.contextmanager
def _group(store: kafkalite.Store, topic: Topic) -> Iterator[Reads]:
    with store.consumer_group("g", topic) as group:

        def from_the_start() -> None:
            group.seek(PLACE, "earliest")

        def records() -> Iterator[Any]:
            from_the_start()
            return group.records(until="end")

        def batches() -> Iterator[Any]:
            from_the_start()
            return (batch.values for batch in group.batches(until="end"))

        yield records, batches


@contextlib.contextmanager
def _poll(store: kafkalite.Store, topic: Topic) -> Iterator[Reads]:
    with store.consumer_group("g", topic) as group:

        def polls() -> Iterator[Any]:
            group.seek(PLACE, "earliest")
            return iter(lambda: group.poll(timeout=0), [])

        yield lambda: itertools.chain.from_iterable(polls()), polls


def _commits(directory: Path, effort: Effort) -> Figures:
    with kafkalite.connect(directory / "store", durability="none") as store:
        topic = store.topic("records")
        topic.append_many(VALUES)
        with store.consumer_group("g", topic, enable_auto_commit=False) as group:
            turns = itertools.count()

            def commit() -> None:
                group.commit({PLACE: next(turns) % BATCH_RECORDS})

            return {COMMIT.name: 1e6 / rate(Work(commit), effort)}


def _members(directory: Path, effort: Effort) -> Figures:
    figures: Figures = {}
    for size in SIZES:
        waiting, rebalance = _membership(directory / str(size), size, effort.seconds * WAIT_SECONDS_FACTOR)
        figures |= {WAITING[size].name: waiting / size * 1e6, REBALANCE[size].name: rebalance / size * 1e6}
    return figures


def _membership(path: Path, size: int, seconds: float) -> tuple[float, float]:
    """CPU seconds of so many members in one process: per second of waiting, and for a rebalance.

    Each asks once after every change, as its loop would.
    """
    with kafkalite.connect(path, durability="none") as store, contextlib.ExitStack() as entered:
        topic = store.topic("records", partitions=PARTITIONS)
        members = [entered.enter_context(store.consumer_group("g", topic)) for _ in range(size)]
        _ask(members)
        begin = time.process_time()
        time.sleep(seconds)
        waiting = (time.process_time() - begin) / seconds
        begin = time.process_time()
        with store.consumer_group("g", topic):
            _ask(members)
        _ask(members)
        return waiting, time.process_time() - begin


def _ask(members: Sequence[Member]) -> None:
    for member in members:
        member.poll(timeout=0)
