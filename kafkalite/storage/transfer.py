"""Transfer: batches of one log taken as they are, verified and not decoded, for a log of another store; and the
commit that gives the topics they went to their names.

What changes is what belongs to the place: the offset, which the other log assigns, the leader epoch, and the
producer. A producer's id and sequence say what that producer may send next in *this* log; in the other they would
make a second transfer look like a repeat and the producer's own records like a gap. So a batch is sealed again
without them; its payload stays the bytes it was. Batches of transactions are refused: without their producer the
markers that decide about them decide nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import lmdb

from kafkalite.errors import CorruptRecordError, OffsetOutOfRangeError, TopicSettingsError, UnsupportedError
from kafkalite.records import envelope
from kafkalite.records.envelope import SealedBatch
from kafkalite.storage import catalogue, frame, index
from kafkalite.storage.catalogue import CATALOGUE_LOG, TopicState
from kafkalite.storage.commit import Append
from kafkalite.storage.engine import Engine
from kafkalite.storage.index import BatchRow

LOOKUP_ROWS: Final = 1024


class Taken(NamedTuple):
    """A batch taken out of a log: the offset of its first record there, and the batch, ready to be appended."""

    base_offset: int
    batch: SealedBatch


def ends(engine: Engine, topics: Sequence[TopicState]) -> list[list[tuple[int, int]]]:
    """For each partition of each topic the first offset and the end that readers see, all of one moment."""
    with engine.snapshot() as (transaction, positions):
        for topic in topics:
            catalogue.revalidate(transaction, topic, positions.catalogue)
        return [
            [
                (
                    index.log_bounds(transaction, log_id)[0],
                    index.published_end(transaction, log_id, positions.published),
                )
                for log_id in topic.log_ids
            ]
            for topic in topics
        ]


def batches(engine: Engine, topic: TopicState, partition: int, start: int, end: int) -> Iterator[Taken]:
    """The batches of a partition that hold the offsets from `start` to `end`, an end that `ends` gave.

    Raises `CorruptRecordError`, `OffsetOutOfRangeError` when some were removed, `UnknownTopicError`,
    `UnsupportedError` for transactions.
    """
    while start < end:
        for row in _rows(engine, topic, partition, start, end):
            view = _read(engine, topic, partition, row) or _read_again(engine, topic, partition, row, end)
            taken = _taken(view, topic)
            yield taken
            start = taken.base_offset + taken.batch.last_offset_delta + 1


def _rows(engine: Engine, topic: TopicState, partition: int, start: int, end: int) -> list[BatchRow]:
    """Where the next batches are; no snapshot is held while they are read."""
    log_id = topic.log_id(partition)
    with engine.snapshot() as (transaction, positions):
        if topic.epoch != positions.catalogue:
            catalogue.revalidate(transaction, topic, positions.catalogue)
        found: list[BatchRow] = []
        for row in index.batches(transaction, log_id, start):
            if row.last_offset >= end or len(found) >= LOOKUP_ROWS:
                break
            found.append(row)
        first, _ = index.log_bounds(transaction, log_id)
    if not found or start < first:
        raise OffsetOutOfRangeError(
            f"offset {start} of topic {topic.name!r}, partition {partition} was removed while it was read: the first "
            f"one left is {first}; begin again"
        )
    return found


def _read(engine: Engine, topic: TopicState, partition: int, row: BatchRow) -> memoryview | None:
    """The batch that a row names, verified; None when other bytes are there."""
    try:
        data = engine.journal.read(row.position, frame.HEADER_SIZE + row.length)
    except CorruptRecordError:
        return None
    return frame.batch_of(data, row.position, topic.log_id(partition))


def _read_again(engine: Engine, topic: TopicState, partition: int, row: BatchRow, end: int) -> memoryview:
    """After a mismatch: look the batch up once more, since it may have been moved."""
    again = next((one for one in _rows(engine, topic, partition, row.last_offset, end)), row)
    view = _read(engine, topic, partition, again)
    if view is None:
        raise CorruptRecordError(
            f"topic {topic.name!r}, partition {partition}: the batch that ends with offset {row.last_offset} is "
            f"damaged: segment {row.position >> 32}, byte {row.position & 0xFFFFFFFF}; `kafkalite check` says what "
            "else is"
        )
    return view


def _taken(view: memoryview, topic: TopicState) -> Taken:
    header = envelope.parse(view)
    if header.is_control or header.is_transactional:
        raise UnsupportedError(
            f"topic {topic.name!r} holds a transaction (offset {header.base_offset}), which cannot be copied by "
            "topics: copy the whole store with backup"
        )
    return Taken(
        header.base_offset,
        envelope.seal(
            bytes(view[envelope.HEADER_SIZE :]),
            header.count,
            header.base_timestamp,
            header.max_timestamp,
            header.attributes,
            header.last_offset_delta,
            magic=header.magic,
        ),
    )


def rename(engine: Engine, renames: Sequence[tuple[TopicState, str, Mapping[str, Any]]]) -> None:
    """Give topics other names, and the settings said, in one commit.

    Raises `TopicSettingsError` when a name is taken, `UnknownTopicError` when a topic was deleted.
    """

    def decide(transaction: lmdb.Transaction) -> list[Append]:
        facts: list[catalogue.Fact] = []
        for topic, name, settings in renames:
            if index.get(transaction, index.topic_key(name)) is not None:
                raise exists(engine, [name])
            catalogue.revalidate(transaction, topic, -1)
            facts.append((("topic", topic.name), None))
            facts.append(catalogue.topic_fact(name, topic.extents, settings, topic))
        return [Append(CATALOGUE_LOG, catalogue.batch_of(facts))] if facts else []

    engine.decide(decide)


def exists(engine: Engine, names: Sequence[str]) -> TopicSettingsError:
    """The error for topics whose names are taken."""
    return TopicSettingsError(
        f"{engine.place.path} has topic {', '.join(map(repr, names))} already: leave it out (exclude), delete it, or "
        "append to it (append), which gives new offsets"
    )
