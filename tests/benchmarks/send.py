"""`producer.send` and `send_many` into six partitions, keyed (5,000 keys) and un-keyed, without flush.

The time includes the flush of what is still buffered. SQLite writes the same columns in transactions of 1,000
rows: `execute` is what a loop over records does, `executemany` what an iterable can.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import kafkalite
from tests.benchmarks.measure import VALUE, Row, Subject, Turn, Work, timed
from tests.benchmarks.peers import SQLITE_ROWS, Prototypes, Sqlite, sqlite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

PARTITIONS = 6
CHUNK_RECORDS = 10_000
KEYS = [b"k%d" % (number % 5000) for number in range(CHUNK_RECORDS)]
CHUNK = [VALUE] * CHUNK_RECORDS

KEYED = Row("send, keyed", "M records/s")
UNKEYED = Row("send, un-keyed", "M records/s")
MANY_KEYED = Row("send_many, keyed", "M records/s")
MANY_UNKEYED = Row("send_many, un-keyed", "M records/s")
ROWS = (KEYED, UNKEYED, MANY_KEYED, MANY_UNKEYED)


def subjects(prototypes: Prototypes | None) -> list[Subject]:
    turns: dict[str, Turn] = {"kafkalite": timed(_kafkalite)}
    if prototypes:
        turns["prototypes"] = timed(lambda place: _prototype(prototypes, place))
    turns["SQLite execute"] = timed(lambda place: _sqlite(place, Sqlite.insert_each, KEYED, UNKEYED))
    turns["SQLite executemany"] = timed(lambda place: _sqlite(place, Sqlite.insert_many, MANY_KEYED, MANY_UNKEYED))
    return [Subject("send", f"Producer, {PARTITIONS} partitions, without flush", ROWS, turns)]


def _send_keyed(send: Callable[..., object], topic: Any) -> Work:
    def step() -> None:
        for key in KEYS:
            send(topic, VALUE, key=key)

    return Work(step, CHUNK_RECORDS)


def _send_unkeyed(send: Callable[..., object], topic: Any) -> Work:
    def step() -> None:
        for _ in KEYS:
            send(topic, VALUE)

    return Work(step, CHUNK_RECORDS)


@contextlib.contextmanager
def _kafkalite(directory: Path) -> Iterator[Mapping[str, Work]]:
    with kafkalite.connect(directory / "store", durability="none") as store:
        topic = store.topic("records", partitions=PARTITIONS)
        with store.producer() as producer:
            flush = producer.flush
            keyed, unkeyed = _send_keyed(producer.send, topic), _send_unkeyed(producer.send, topic)
            yield {
                KEYED.name: Work(keyed.step, CHUNK_RECORDS, flush),
                UNKEYED.name: Work(unkeyed.step, CHUNK_RECORDS, flush),
                MANY_KEYED.name: Work(lambda: producer.send_many(topic, CHUNK, keys=KEYS), CHUNK_RECORDS, flush),
                MANY_UNKEYED.name: Work(lambda: producer.send_many(topic, CHUNK), CHUNK_RECORDS, flush),
            }


@contextlib.contextmanager
def _prototype(prototypes: Prototypes, directory: Path) -> Iterator[Mapping[str, Work]]:
    with prototypes.store(directory) as store:
        producer = prototypes.send.Producer(store)
        topic = prototypes.send.Topic("records", PARTITIONS)
        yield {
            KEYED.name: _send_keyed(producer.send, topic),
            UNKEYED.name: _send_unkeyed(producer.send, topic),
        }


@contextlib.contextmanager
def _sqlite(
    directory: Path, insert: Callable[[Sqlite, Any], None], keyed: Row, unkeyed: Row
) -> Iterator[Mapping[str, Work]]:
    with sqlite(directory) as peer:
        yield {
            keyed.name: Work(lambda: _insert_chunk(peer, insert, KEYS), CHUNK_RECORDS),
            unkeyed.name: Work(lambda: _insert_chunk(peer, insert, [None] * CHUNK_RECORDS), CHUNK_RECORDS),
        }


def _insert_chunk(peer: Sqlite, insert: Callable[[Sqlite, Any], None], keys: list[Any]) -> None:
    for begin in range(0, CHUNK_RECORDS, SQLITE_ROWS):
        insert(peer, [(key, 1, VALUE) for key in keys[begin : begin + SQLITE_ROWS]])
