"""Reading in a loop: what the synchronous iterators give, following, what raising and cancelling leave."""

import asyncio
import functools
import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import kafkalite
from kafkalite import (
    ClosedError,
    ConcurrentUseError,
    ConfigError,
    DeserializationError,
    InvalidPartitionsError,
    OffsetOutOfRangeError,
    RecordBatch,
    UnknownPartitionError,
    UnknownTopicError,
    aio,
)
from kafkalite.storage import wakeup
from kafkalite.testing import procs

from .kit import PATIENCE, in_loop, ours, sockets, soon, turns, values


@in_loop
async def test_every_form_of_start_and_until_gives_what_the_synchronous_one_gives(path: Path) -> None:
    async with aio.connect(path) as store:
        topic = await store.topic("t", partitions=3)
        for number in range(30):
            await topic.append_many(
                [b"%d" % number] * (number % 4), partition=number % 3, timestamps_ms=[number] * (number % 4)
            )
        same = topic._sync
        at = datetime.fromtimestamp(0.015, UTC)
        for start, until in itertools.product(
            ("earliest", "latest", {0: 3, 2: 1}, at, timedelta(days=1)), ("end", at, {0: 5})
        ):
            found = [record async for record in topic.read(start=start, until=until)]  # type: ignore[arg-type]
            assert found == list(same.read(start=start, until=until))  # type: ignore[arg-type]
        assert [record async for record in topic.read(1, start=2, until=4)] == list(same.read(1, start=2, until=4))
        assert [record async for record in topic.tail(2)] == list(same.tail(2))
        batches = [batch async for batch in topic.batches()]
        assert all(isinstance(batch, RecordBatch) for batch in batches)
        assert [list(batch) for batch in batches] == [list(batch) for batch in same.batches()]
        assert await topic.end_offsets() == same.end_offsets()
        assert await topic.beginning_offsets() == {0: 0, 1: 0, 2: 0}
        assert [record async for record in topic.tail(0)] == []


@in_loop
async def test_what_is_wrong_is_raised_at_the_call(path: Path) -> None:
    async with aio.connect(path) as store:
        topic = await store.topic("t", partitions=2)
        with pytest.raises(UnknownPartitionError):
            topic.read(2)
        with pytest.raises(OffsetOutOfRangeError):
            topic.batches(0, start=1)
        with pytest.raises(ConfigError, match="tail"):
            topic.tail(-1)
        with pytest.raises(ConfigError, match="time zone"):
            topic.read(start=datetime(2026, 1, 1))  # noqa: DTZ001


@in_loop
async def test_a_follower_follows_partitions_that_are_added(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakeup, "LONGEST_SLEEP", 2 * PATIENCE)  # woken by nothing else
    async with aio.connect(path) as store:
        topic = await store.topic("t")
        for read in (topic.read, functools.partial(store.read, ["t"])):
            waiting = asyncio.create_task(anext(read(start="latest", until=None)))
            await soon(lambda: bool(sockets(store)))
            count = topic.partition_count + 2
            await topic.alter(partitions=count)
            await turns(10)
            metadata = await topic.append(b"new", partition=count - 1)
            record = await waiting
            assert (record.partition, record.offset, record.value) == (metadata.partition, 0, b"new")
        with pytest.raises(InvalidPartitionsError):
            await topic.alter(partitions=5)
        assert set(await topic.end_offsets()) == set(range(5))


@in_loop
async def test_an_iterator_survives_raising(path: Path) -> None:
    async with aio.connect(path) as store:
        raw = await store.topic("t")
        await raw.append_many([b"1", b"\xff", b"3"])
        await raw.append(b"\xfe")
        await raw.append(b"5")
        typed = await store.topic("t", value=str)
        found: list[object] = []
        reading = typed.read()
        while True:
            try:
                found.append((await anext(reading)).value)
            except DeserializationError as error:
                found.append(error.record.value)
            except StopAsyncIteration:
                break
        assert found == ["1", b"\xff", "3", b"\xfe", "5"]
        with pytest.raises(StopAsyncIteration):
            await anext(reading)


@in_loop
async def test_a_long_reading_gives_way_to_other_tasks(path: Path) -> None:
    async with aio.connect(path) as store:
        topic = await store.topic("t")
        await topic.append_many([b"v"] * 20_000)
        for _ in range(40):
            await asyncio.gather(*(topic.append(b"v") for _ in range(10)))
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticker = asyncio.create_task(tick())
        assert len([record async for record in topic.read()]) == 20_400
        assert ticks > 70
        before = ticks
        assert sum([len(batch) async for batch in topic.batches()]) == 20_400
        assert ticks > before + 20
        ticker.cancel()


# Following


@in_loop
async def test_followers_get_each_record_as_it_is_committed_and_share_a_socket(path: Path) -> None:
    async with aio.connect(path) as store:
        topic = await store.topic("t", partitions=2)
        seen: list[list[bytes | None]] = [[] for _ in range(20)]

        async def follow(number: int) -> None:
            async for record in topic.read(until=None):
                seen[number].append(record.value)
                if record.value == b"9":
                    return

        followers = [asyncio.create_task(follow(number)) for number in range(20)]
        await soon(lambda: sockets(store) != [])
        for number in range(10):
            assert len(sockets(store)) == 1
            await topic.append(b"%d" % number, partition=number % 2)
            await soon(lambda number=number: all(len(one) > number for one in seen))  # type: ignore[misc]
        await asyncio.gather(*followers)
        assert seen == [[b"%d" % number for number in range(10)]] * 20
        assert sockets(store) == []
        assert len(ours()) <= 4


@in_loop
async def test_a_poke_wakes_a_follower_without_a_clock(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wakeup, "LONGEST_SLEEP", PATIENCE)
        async with aio.connect(path) as store:
            topic = await store.topic("t")
            for number in range(20):
                follow = asyncio.create_task(anext(topic.read(start={0: number}, until=None)))  # type: ignore[arg-type]
                await turns(number % 4)
                await topic.append(b"%d" % number)
                assert (await follow).value == b"%d" % number  # type: ignore[attr-defined]


@in_loop
async def test_a_wake_up_that_may_not_look_at_once_is_not_lost(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wakeup, "LONGEST_SLEEP", PATIENCE)
        async with aio.connect(path) as store:
            topic = await store.topic("t")
            follow = asyncio.create_task(anext(topic.read(until=None)))  # type: ignore[arg-type]
            await soon(lambda: sockets(store) != [])
            await topic.append(b"1")
            with store._host.engine.index.gate:  # as another thread's look-up has it, while the follower wakes
                store._host.watch().wake_all()
                await turns(5)
            assert (await follow).value == b"1"  # type: ignore[attr-defined]


@in_loop
async def test_a_lost_poke_costs_a_while_and_not_for_ever(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wakeup, "LONGEST_SLEEP", 0.01)
        async with aio.connect(path) as store:
            topic = await store.topic("t")
            patch.setattr(store._host.engine.wakeup, "poke", lambda _: None)
            follow = asyncio.create_task(anext(topic.read(until=None)))  # type: ignore[arg-type]
            await turns(3)
            await topic.append(b"1")
            assert (await follow).value == b"1"  # type: ignore[attr-defined]


@in_loop
async def test_where_there_can_be_no_socket_it_polls(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        async with aio.connect(path) as store:
            patch.setattr(store._host.engine.wakeup, "_bind", lambda: (None, None))
            topic = await store.topic("t")
            follow = asyncio.create_task(anext(topic.read(until=None)))  # type: ignore[arg-type]
            await turns(3)
            await topic.append(b"1")
            assert (await follow).value == b"1"  # type: ignore[attr-defined]


@in_loop
async def test_a_cancelled_wait_has_taken_nothing_and_leaves_no_socket(path: Path) -> None:
    async with aio.connect(path) as store:
        topic = await store.topic("t")
        following = topic.read(until=None)
        seen: list[bytes | None] = []
        for count in range(60):
            task = asyncio.create_task(anext(following))  # type: ignore[arg-type]
            await turns(count % 6)
            if count % 3 == 2:
                await topic.append(b"%d" % count)
                await turns(count % 5)
            task.cancel()
            try:
                seen.append((await task).value)  # type: ignore[attr-defined]
            except asyncio.CancelledError:
                assert sockets(store) == []
        while len(seen) < 20:
            seen.append((await anext(following)).value)
        assert seen == [b"%d" % count for count in range(60) if count % 3 == 2]
        assert sockets(store) == []


@in_loop
async def test_two_tasks_at_one_iterator_are_refused(path: Path) -> None:
    async with aio.connect(path) as store:
        topic = await store.topic("t")
        following = topic.read(until=None)
        first = asyncio.create_task(anext(following))  # type: ignore[arg-type]
        await turns(2)
        with pytest.raises(ConcurrentUseError):
            await anext(following)
        await topic.append(b"1")
        assert (await first).value == b"1"  # type: ignore[attr-defined]


@in_loop
async def test_who_follows_a_topic_that_is_deleted_is_told(path: Path) -> None:
    async with aio.connect(path) as store:
        topic = await store.topic("t")
        follow = asyncio.create_task(values(topic, until=None))
        await turns(3)
        await store.delete_topic("t")
        with pytest.raises(UnknownTopicError):
            await follow
        assert sockets(store) == []


@in_loop
async def test_a_closing_store_wakes_its_followers_at_once(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wakeup, "LONGEST_SLEEP", PATIENCE)
        store = await aio.connect(path)
        other = kafkalite.connect(path)  # the engine stays open
        follow = asyncio.create_task(values(await store.topic("t"), until=None))
        await turns(3)
        await store.close()
        with pytest.raises(ClosedError):
            await follow
        assert other.check().ok
        other.close()


# Processes


WRITER = """
import asyncio, sys
from kafkalite import aio

async def main():
    async with aio.connect(sys.argv[1]) as store, store.producer() as producer:
        topic = await store.topic("t", partitions=3, value=int)
        print("ready", flush=True)
        input()
        for number in range(int(sys.argv[2])):
            await producer.send(topic, number, partition=number % 3)
            if number % 10 == 0:
                await topic.append(-number, partition=number % 3)

asyncio.run(main())
"""


@in_loop
async def test_a_follower_gets_what_another_process_writes(path: Path) -> None:
    async with aio.connect(path) as store:
        topic = await store.topic("t", partitions=3, value=int)
        with procs.python(WRITER, path, 100) as writer:
            writer.wait_for("ready")
            seen: list[int] = []
            following = topic.read(until=None)
            first = asyncio.create_task(anext(following))  # type: ignore[arg-type]
            await soon(lambda: sockets(store) != [])
            writer.say("go")
            seen.append((await first).value)  # type: ignore[attr-defined]
            while len(seen) < 110:
                seen.append((await anext(following)).value)
            writer.succeed()
        assert sorted(seen) == sorted([*range(100), *(-number for number in range(0, 100, 10))])


CTRL_C = """
import asyncio, signal, sys
from kafkalite import aio

signal.signal(signal.SIGINT, signal.default_int_handler)

async def main():
    async with aio.connect(sys.argv[1]) as store:
        topic = await store.topic("t")
        async with store.producer(linger_ms=3600000) as producer:
            sent = asyncio.create_task(producer.send(topic, b"lingers"))
            await topic.append(b"1")
            print("waits", flush=True)
            async for record in topic.read(start="latest", until=None):
                pass

try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_ends_a_follower_sends_what_lingers_and_closes_the_store(path: Path) -> None:
    import signal

    with procs.python(CTRL_C, path) as child:
        child.wait_for("waits")
        child.signal(signal.SIGINT)
        child.wait_for("interrupted", timeout=PATIENCE)
        assert child.wait(timeout=PATIENCE) == 0
        assert child.complaints == []
    with kafkalite.connect(path) as store:
        assert sorted(record.value or b"" for record in store.topic("t").read()) == [b"1", b"lingers"]


FORK = """
import asyncio, os, sys
from kafkalite import ForkedError, aio

async def first():
    global store, topic, producer, reading
    store = await aio.connect(sys.argv[1])
    topic = await store.topic("t")
    producer = store.producer()
    await producer.send(topic, b"parent")
    reading = topic.read(until=None)
    await anext(reading)

async def child():
    try:
        await anext(reading)
    except ForkedError:
        print("forked", flush=True)
    await topic.append(b"child appends")
    await producer.send(topic, b"child sends")
    assert len([record async for record in topic.read()]) == 3
    assert (await store.check()).ok
    await store.close()

async def parent():
    await producer.send(topic, b"parent again")
    assert len([record async for record in topic.read()]) == 4
    await store.close()

asyncio.run(first())
pid = os.fork()
if not pid:
    asyncio.run(child())
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
asyncio.run(parent())
print("done")
"""


def test_a_forked_child_goes_on_in_a_loop_of_its_own(path: Path) -> None:
    with procs.python(FORK, path) as process:
        assert process.succeed(timeout=PATIENCE)[-2:] == ["forked", "done"]


ANYIO = """
import sys, anyio
from kafkalite import aio

async def main():
    async with aio.connect(sys.argv[1]) as store, store.producer() as producer:
        topic = await store.topic("t")
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(producer.send, topic, b"1")
        with anyio.move_on_after(0.05) as scope:
            async for record in topic.read(start="latest", until=None):
                pass
        assert scope.cancelled_caught
        assert len([record async for record in topic.read()]) == 20
        with anyio.move_on_after(0.05) as scope:
            async with producer.transaction() as tx:
                await tx.send(topic, b"aborted")
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        with anyio.CancelScope() as scope:
            async with producer.transaction() as tx:
                sent = await tx.send(topic, b"committed")
                scope.cancel()
        assert sent.result().offset == 20
        async with store.share_group("g", [topic]) as group:
            assert len(await group.poll()) == 21
            with anyio.move_on_after(0.05) as scope:
                await group.poll(timeout=None)
            assert scope.cancelled_caught
            await group.commit()
            assert sum((await group.lag()).values()) == 0

anyio.run(main, backend="asyncio")
"""


def test_it_works_under_anyios_asyncio_backend(path: Path) -> None:
    pytest.importorskip("anyio")
    with procs.python(ANYIO, path) as child:
        child.succeed()
