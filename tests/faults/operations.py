"""What a store can be asked to do, one operation each: how the world is prepared, what is then done under faults.

`act` may be left at any step by a crash or by an error, and may be called again afterwards, faults or not.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from kafkalite.errors import KafkaliteError, OffsetConflictError
from kafkalite.storage.commit import Append, Operation
from kafkalite.storage.segment import BYTE_MASK
from tests.storage.kit import batch

from .world import TOPIC, World

FILLING = 48 * 1024
ROOM = 64 * 1024


@dataclass(frozen=True)
class Work:
    """An operation by its name; `levels` are the durabilities under which it has steps of its own."""

    name: str
    act: Callable[[World], None]
    prepare: Callable[[World], None] = World.ensure_open
    levels: tuple[str, ...] = ("commit", "interval", "none")


def append(world: World) -> None:
    (value,) = world.notes.values(1)
    done = world.topic.append(value, partition=1, key=b"k", headers=[("h", b"x")])
    world.notes.acknowledge(1, done.offset, value)


def append_conditionally(world: World) -> None:
    """As an event store does: after a conflict with what is appended and not yet visible, look again and try again."""
    (value,) = world.notes.values(1)
    try:
        done = world.topic.append(value, partition=0, expected_end_offset=world.topic.end_offsets()[0])
    except OffsetConflictError:
        world.store.flush()
        done = world.topic.append(value, partition=0, expected_end_offset=world.topic.end_offsets()[0])
    world.notes.acknowledge(0, done.offset, value)


def append_over_partitions(world: World) -> None:
    """One commit of several batches."""
    values = world.notes.values(9)
    ranges = world.topic.append_many(values, keys=[b"%d" % number for number in range(9)])
    partitions = [world.topic._encoder.partitions[b"%d" % number] for number in range(9)]
    for partition, offsets in ranges.items():
        own = [value for value, chosen in zip(values, partitions, strict=True) if chosen == partition]
        for offset, value in zip(offsets, own, strict=True):
            world.notes.acknowledge(partition, offset, value)


def append_queued(world: World) -> None:
    """Three commits that go into one transaction, as those of threads that waited for their turn do."""
    state = world.topic._state
    given = [world.notes.values(2) for _ in range(3)]
    operations = [
        Operation([Append(state.log_ids[number], batch(value), state) for number, value in enumerate(values)])
        for values in given
    ]
    engine = world.store._engine
    engine.committer._queue.extend(operations[:-1])
    try:
        engine.commit(operations[-1])
    except BaseException:
        engine.committer._queue.clear()
        raise
    for operation, values in zip(operations, given, strict=True):
        assert operation.is_done
        assert operation.error is None
        for number, (value, offset) in enumerate(zip(values, operation.offsets, strict=True)):
            world.notes.acknowledge(number, offset, value)


def send(world: World) -> None:
    """A producer's batches; what an error kept back is sent with those of the next call."""
    if world.producer is None:
        world.producer = world.store.producer(linger_ms=1000, batch_size=40, delivery_timeout_ms=3_600_000)
        world.sent.clear()
    with contextlib.suppress(KafkaliteError):  # a full queue answers late
        for number in range(4):
            (value,) = world.notes.values(1)
            world.sent.append((value, number % 2, world.producer.send(TOPIC, value, partition=number % 2)))
    world.producer.flush(timeout=0)
    for value, partition, delivery in world.sent:
        world.notes.acknowledge(partition, delivery.result(timeout=0).offset, value)
    world.sent.clear()


def fill(world: World, *, prepared: bool) -> None:
    """Go on until the next record of `ROOM` bytes does not fit; the keeper prepares the next segment, or does not."""
    world.ensure_open()
    while room(world) >= ROOM + FILLING:
        (value,) = world.notes.values(1, FILLING)
        done = world.topic.append(value, partition=2)
        world.notes.acknowledge(2, done.offset, value)
        if prepared:
            world.tasks.run()
    if not prepared:
        world.tasks.forget()


def room(world: World) -> int:
    """What is left of the segment in use."""
    positions = world.store._engine.index.positions()
    return positions.segment_size - (positions.tail & BYTE_MASK)


def roll(world: World) -> None:
    (value,) = world.notes.values(1, 2 * ROOM)
    done = world.topic.append(value, partition=2)
    world.notes.acknowledge(2, done.offset, value)


def prepare_spare(world: World) -> None:
    """The keeper's part of a roll."""
    world.store._engine._prepare_later()
    world.tasks.run()


def flush(world: World) -> None:
    append(world)
    world.store.flush()


def flush_later(world: World) -> None:
    """The flush that is due when the interval is over."""
    append(world)
    world.tasks.run()


def change_durability(world: World) -> None:
    """To another level, with records in between."""
    for level in ("interval", "commit", world.durability):
        world.store.alter(durability=level)
        append(world)


def create_topic(world: World) -> None:
    name = f"topic-{len(world.notes.topics)}"
    with world.notes.change(name, (1000, 2)):
        world.store.topic(name, partitions=2, retention_ms=1000)


def alter_topic(world: World) -> None:
    """A setting and a partition more, both or neither."""
    name = min(world.notes.topics)
    topic = world.store.topic(name)
    count = topic.partition_count + 1
    with world.notes.change(name, (1000 + count, count)):
        topic.alter(retention_ms=1000 + count, partitions=count)


def a_topic(world: World) -> None:
    world.ensure_open()
    if not any(known != {"absent"} for known in world.notes.topics.values()):
        create_topic(world)


def delete_topic(world: World) -> None:
    present = sorted(name for name in world.notes.topics if name in world.store.topics())
    if not present:  # it went, though the answer was an error
        return
    with world.notes.change(present[0], "absent"):
        world.store.delete_topic(present[0])


def a_topic_to_delete(world: World) -> None:
    world.ensure_open()
    if not any(name in world.store.topics() for name in world.notes.topics):
        create_topic(world)


def close(world: World) -> None:
    """Seal; where it failed, the process goes on and opens the store again."""
    if world._store is not None:
        append(world)
        world.close()


def open_sealed(world: World) -> None:
    world.ensure_open()
    append(world)


def sealed(world: World) -> None:
    world.ensure_open()
    world.close()


def crashed(world: World) -> None:
    """A process was killed with frames that nobody flushed behind it."""
    world.ensure_open()
    append_over_partitions(world)
    world.crash()


def nothing(world: World) -> None:
    """No store yet."""
    if world._store is not None:
        world.crash()
    world.begin()


WORKS = (
    Work("append", append),
    Work("append conditionally", append_conditionally),
    Work("append over partitions", append_over_partitions),
    Work("append queued", append_queued),
    Work("send", send),
    Work("roll", roll, lambda world: fill(world, prepared=True)),
    Work("roll unprepared", roll, lambda world: fill(world, prepared=False)),
    Work("prepare", prepare_spare, lambda world: fill(world, prepared=False)),
    Work("flush", flush),
    Work("flush later", flush_later, levels=("interval",)),
    Work("change durability", change_durability),
    Work("create topic", create_topic),
    Work("alter topic", alter_topic, a_topic),
    Work("delete topic", delete_topic, a_topic_to_delete),
    Work("close", close),
    Work("open sealed", open_sealed, sealed),
    Work("open crashed", open_sealed, crashed),
    Work("create", open_sealed, nothing),
)


CASES = [(work, level) for work in WORKS for level in work.levels]
"""Every operation under every level at which it is another one."""
