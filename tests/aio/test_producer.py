"""The asynchronous producer and `append`: group commit, errors, memory, cancelling, and a disk that is slow."""

import asyncio
import contextlib
import errno
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kafkalite import (
    ClosedError,
    ConfigError,
    DeliveryError,
    KafkaTimeoutError,
    OffsetConflictError,
    RecordTooLargeError,
    SerializationError,
    StoreBusyError,
    StoreFullError,
    UnknownPartitionError,
    UnknownTopicError,
    aio,
    disk,
)

from .kit import held, in_loop, ours, soon, turns, values

AN_HOUR = 3_600_000


@asynccontextmanager
async def opened(path: Path, **topic: Any) -> AsyncIterator[tuple[aio.Store, aio.Topic[bytes, bytes | None]]]:
    async with aio.connect(path) as store:
        yield store, await store.topic("t", **topic)


class Commits:
    """Counts the commits of a store, and their records."""

    def __init__(self, store: aio.Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        commit = store._host.engine.commit

        def counted(operation: Any, *arguments: Any) -> Any:
            done = commit(operation, *arguments)
            self.sizes.append(sum(append.batch.count for append in operation.appends))
            return done

        monkeypatch.setattr(store._host.engine, "commit", counted)


# Group commit


@in_loop
async def _sends_of_one_turn(path: Path, monkeypatch: pytest.MonkeyPatch, linger: dict[str, Any]) -> None:
    async with opened(path, partitions=3) as (store, topic):
        commits = Commits(store, monkeypatch)
        async with store.producer(**linger) as producer:
            sent = await asyncio.gather(*(producer.send(topic, b"%d" % number) for number in range(200)))
        assert commits.sizes == [200]
        found = {(record.partition, record.offset): record.value async for record in topic.read()}
        assert [found[one.partition, one.offset] for one in sent] == [b"%d" % number for number in range(200)]


@pytest.mark.parametrize("linger", [{}, {"linger_ms": 1}, {"config": {"linger.ms": 1}}])
def test_what_all_tasks_send_in_one_turn_is_one_commit(
    path: Path, monkeypatch: pytest.MonkeyPatch, linger: dict[str, Any]
) -> None:
    _sends_of_one_turn(path, monkeypatch, linger)


@in_loop
async def test_what_is_sent_while_a_commit_is_under_way_is_the_next_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(path) as (store, topic), store.producer() as producer:
        commits = Commits(store, monkeypatch)
        with held("flush") as gate:
            first = asyncio.create_task(producer.send(topic, b"first"))
            await soon(gate.reached.is_set)
            others = []
            for number in range(50):  # in as many turns
                others.append(asyncio.create_task(producer.send(topic, b"%d" % number)))
                await turns(1)
            assert not first.done()
            gate.open()
            await asyncio.gather(first, *others)
        assert commits.sizes == [1, 50]
        assert await values(topic) == [b"first", *(b"%d" % number for number in range(50))]


@in_loop
async def test_appends_of_many_tasks_share_a_commit_and_each_has_its_own_outcome(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(path) as (store, topic):
        gone = await store.topic("gone")
        await store.delete_topic("gone")
        commits = Commits(store, monkeypatch)
        found = await asyncio.gather(
            *(topic.append(b"%d" % number) for number in range(20)),
            topic.append(b"expected", expected_end_offset=20),
            topic.append(b"conflict", expected_end_offset=20),
            gone.append(b"gone"),
            topic.append_many([b"a", b"b"], expected_end_offset=21),
            return_exceptions=True,
        )
        assert [one.offset for one in found[:21] if not isinstance(one, BaseException | dict)] == list(range(21))
        conflict, unknown, many = found[21:]
        assert isinstance(conflict, OffsetConflictError)
        assert (conflict.expected, conflict.actual) == (20, 21)
        assert isinstance(unknown, UnknownTopicError)
        assert many == {0: range(21, 23)}
        assert sum(commits.sizes) == 23
        assert len(commits.sizes) < 12
        assert (await values(topic))[-3:] == [b"expected", b"a", b"b"]


@in_loop
async def test_append_many_gives_the_offsets_of_each_partition(path: Path) -> None:
    async with opened(path, partitions=2) as (_, topic):
        assert await topic.append_many([]) == {}
        assert await topic.append_many([b"1", b"2"], partition=1, timestamps_ms=[5, 6]) == {1: range(2)}
        assert await topic.append_many([b"3"], partition=1, keys=[b"k"], headers=[{"h": b"v"}]) == {1: range(2, 3)}
        [last] = [record async for record in topic.read(1, start=2)]
        assert (last.key, last.headers) == (b"k", (("h", b"v"),))
        assert [record.timestamp_ms async for record in topic.read(1, until=2)] == [5, 6]
        metadata = await topic.append(b"4", key=b"k", timestamp_ms=9, headers=[("h", None)])
        assert (metadata.topic, metadata.timestamp_ms) == ("t", 9)


@in_loop
async def test_send_many_streams_an_iterable_of_any_length_in_order(path: Path) -> None:
    async with opened(path, partitions=2) as (store, topic), store.producer() as producer:
        assert await producer.send_many(topic, (b"%d" % number for number in range(5000)), partition=1) == {
            1: range(5000)
        }
        assert await values(topic, partition=1) == [b"%d" % number for number in range(5000)]
        keys = (b"k" for _ in range(3))
        [(_, offsets)] = (await producer.send_many("t", [b"1", None, b"3"], keys=keys, timestamps_ms=[1, 2, 3])).items()
        assert len(offsets) == 3
        assert await producer.send_many(topic, []) == {}
        with pytest.raises(ConfigError, match="more entries"):
            await producer.send_many(topic, [b"1"], keys=iter([b"a", b"b"]))


@in_loop
async def test_no_task_costs_a_thread(path: Path) -> None:
    async with opened(path) as (store, topic), store.producer() as producer:
        work = [producer.send(topic, b"1") for _ in range(100)]
        work += [topic.append(b"2") for _ in range(100)]
        follow = [asyncio.create_task(anext(topic.read(until=None))) for _ in range(100)]  # type: ignore[arg-type]
        await asyncio.gather(*work)
        await asyncio.gather(*follow)
        assert len(ours()) <= 4


# The loop goes on


@pytest.mark.parametrize("step", ["write", "index commit", "flush"])
def test_a_slow_disk_does_not_hold_up_the_loop(path: Path, step: str) -> None:
    @in_loop
    async def run() -> None:
        async with opened(path) as (store, topic), store.producer() as producer:
            with held(step) as gate:
                slow = [
                    asyncio.create_task(producer.send(topic, b"1")),
                    asyncio.create_task(topic.append(b"2")),
                    asyncio.create_task(store.flush()),
                    asyncio.create_task(producer.send_many(topic, [b"3"] * 3000)),
                ]
                await soon(gate.reached.is_set)
                for _ in range(200):  # each is a turn of the loop that nobody holds up
                    await asyncio.sleep(0.0001)
                    assert await values(topic) == []
                assert not any(task.done() for task in slow[:2])
                gate.open()
                await asyncio.gather(*slow)
            assert len(await values(topic)) == 3002

    run()


@in_loop
async def test_a_lock_that_another_has_does_not_hold_up_the_loop(path: Path) -> None:
    async with opened(path) as (store, topic), store.producer(max_block_ms=50, delivery_timeout_ms=50) as producer:
        lock = store._host.engine.locks.write
        with lock.threads:
            send = asyncio.create_task(producer.send(topic, b"1"))
            append = asyncio.create_task(topic.append(b"2"))
            make = asyncio.create_task(store.topic("other"))
            await asyncio.sleep(0.02)
            assert not append.done()
            assert not make.done()
        assert (await append).offset in (0, 1)
        assert (await make).name == "other"
        with contextlib.suppress(StoreBusyError):
            await send


# Errors


@in_loop
async def test_what_is_wrong_with_a_record_is_raised_at_once(path: Path) -> None:
    async with opened(path) as (store, topic), store.producer() as producer:
        typed = await store.topic("typed", value=int)
        for send in (producer.send(typed, "x"), typed.append("x"), producer.send_many(typed, ["x"])):  # type: ignore[call-overload,arg-type,misc]
            with pytest.raises(SerializationError):
                await send
        for use in (producer.send(topic, bytes(2 << 20)), topic.append(bytes(2 << 20))):
            with pytest.raises(RecordTooLargeError):
                await use
        for other in (producer.send(topic, b"1", partition=1), topic.append(b"1", partition=1)):
            with pytest.raises(UnknownPartitionError):
                await other
        with pytest.raises(UnknownTopicError):
            await producer.send("nowhere", b"1")
        with pytest.raises(ConfigError, match="a Topic of this store"):
            await producer.send(5, b"1")  # type: ignore[call-overload]
        with pytest.raises(ConfigError, match="linger_ms"):
            store.producer(linger=1)  # type: ignore[call-arg]
        assert (await producer.send("t", b"1")).offset == 0  # nothing of that was sent


@in_loop
async def test_a_failed_commit_is_raised_to_all_who_sent(path: Path) -> None:
    async with opened(path) as (store, topic), store.producer(delivery_timeout_ms=1) as producer:
        disk.on_step = _raising("write", OSError(errno.ENOSPC, "full"))
        try:
            sends = [producer.send(topic, b"1") for _ in range(3)]
            failed = await asyncio.gather(*sends, topic.append(b"2"), return_exceptions=True)
        finally:
            disk.on_step = None
        assert [type(error) for error in failed] == [StoreFullError] * 4
        assert (await producer.send(topic, b"3")).offset == 0
        assert await values(topic) == [b"3"]


@in_loop
async def test_a_retriable_failure_is_tried_again(path: Path) -> None:
    async with opened(path) as (store, topic), store.producer() as producer:
        disk.on_step = _raising("write", OSError(errno.ENOSPC, "full"))
        try:
            send = asyncio.create_task(producer.send(topic, b"1"))
            await asyncio.sleep(0.02)
            assert not send.done()
        finally:
            disk.on_step = None
        assert (await send).offset == 0


@in_loop
async def test_an_error_of_no_table_is_raised_and_leaves_the_producer_usable(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(path) as (store, topic), store.producer() as producer:
        engine = store._host.engine
        with monkeypatch.context() as patch:
            patch.setattr(engine, "commit", _failing(OSError(errno.EMFILE, "no descriptor")))
            works = producer.send(topic, b"1"), producer.send_many(topic, [b"2"]), topic.append(b"3")
            failed = await asyncio.gather(*works, return_exceptions=True)
            assert [getattr(error, "errno", None) for error in failed] == [errno.EMFILE] * 3
        await producer.send(topic, b"4")
        assert sorted(await values(topic)) == [b"1", b"2", b"4"]  # type: ignore[type-var]  # no outcome was known


def _raising(step: str, error: Exception) -> Any:
    def on_step(name: str) -> None:
        if name == step:
            raise error

    return on_step


def _failing(error: Exception) -> Any:
    def commit(*_: object) -> None:
        raise error

    return commit


@in_loop
async def test_acks_0_waits_for_nothing(path: Path) -> None:
    async with opened(path) as (store, topic):
        async with store.producer(acks=0) as producer:
            with held("flush"):
                assert (await producer.send(topic, b"1")).offset == -1
                assert await producer.send_many(topic, [b"2"]) == {}
        assert await values(topic) == [b"1", b"2"]


# Memory


@in_loop
async def test_a_full_memory_holds_up_the_senders_and_nobody_else(path: Path) -> None:
    async with opened(path) as (store, topic):
        async with store.producer(buffer_memory=100_000, batch_size=10_000) as producer:
            with held("flush") as gate:
                sends = [asyncio.create_task(producer.send(topic, bytes(10_000))) for _ in range(50)]
                await soon(gate.reached.is_set)
                await turns(20)
                assert producer._sync._queue.bytes <= 120_000
                many = asyncio.create_task(producer.send_many(topic, [bytes(10_000)] * 30))
                await turns(20)
                assert not many.done()
                gate.open()
                await asyncio.gather(many, *sends)
        assert len(await values(topic)) == 80


@in_loop
async def test_a_memory_that_stays_full_is_an_error_and_nothing_was_sent(path: Path) -> None:
    async with opened(path) as (store, topic):
        async with store.producer(buffer_memory=1000, batch_size=1, max_block_ms=1) as producer:
            with held("flush") as gate:
                first = asyncio.create_task(producer.send(topic, bytes(1000)))
                await soon(gate.reached.is_set)
                with pytest.raises(KafkaTimeoutError, match="buffer_memory=1000"):
                    await producer.send(topic, b"second")
                with pytest.raises(KafkaTimeoutError):
                    await producer.send_many(topic, [b"third"])
            await first
        assert await values(topic) == [bytes(1000)]


# Cancelling, closing


@in_loop
async def test_a_cancelled_send_is_sent_all_the_same(path: Path) -> None:
    async with opened(path) as (store, topic), store.producer() as producer:
        works = producer.send(topic, b"1"), producer.send_many(topic, [b"2"]), topic.append(b"3")
        tasks = [asyncio.create_task(work) for work in works]
        await turns(1)
        for task in tasks:
            task.cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(error) for error in found] == [asyncio.CancelledError] * 3
        await producer.flush()
        await topic.append(b"4")
        assert sorted(await values(topic)) == [b"1", b"2", b"3", b"4"]  # type: ignore[type-var]


@in_loop
async def test_cancelling_after_any_number_of_turns_loses_and_doubles_nothing(path: Path, seed: int) -> None:
    """What a task was told it sent is there, once; what it began and was not told is there at most once."""
    choose = random.Random(seed)
    async with opened(path, partitions=2) as (store, topic), store.producer() as producer:
        told, began = [], []
        for number in range(200):
            value = b"%d" % number
            work: Any = producer.send(topic, value) if choose.random() < 0.5 else topic.append(value)
            task = asyncio.create_task(work)
            if number % 10:
                await turns(choose.choice([0, 1, 2, 3, 5, 10, 30, 100, 300, 1000]))
                task.cancel()
            try:
                await task
                told.append(value)
            except asyncio.CancelledError:
                began.append(value)
        await producer.flush()
        await topic.append(b"last")
        there = await values(topic)
        assert len(there) == len(set(there))
        assert set(told) <= set(there) <= {*told, *began, b"last"}
        assert told
        assert began


@in_loop
async def test_a_cancelled_send_whose_commit_failed_is_reported_by_close(path: Path) -> None:
    async with opened(path) as (store, topic):
        producer = store.producer(linger_ms=AN_HOUR)
        task = asyncio.create_task(producer.send(topic, b"1"))
        kept = asyncio.create_task(producer.send(topic, b"2"))
        await turns(1)
        task.cancel()
        await store.delete_topic("t")
        with pytest.raises(DeliveryError) as caught:
            await producer.close()
        assert [record.value for record, _ in caught.value.failures] == [b"1"]  # the other task was told
        with pytest.raises(UnknownTopicError):
            await kept
        await producer.close()
        with pytest.raises(ClosedError):
            await producer.send("t", b"3")


@in_loop
async def test_a_block_that_raises_sends_what_was_sent_and_keeps_its_error(path: Path) -> None:
    async with opened(path) as (store, topic):
        await store.topic("other")

        async def fail() -> None:
            async with store.producer(linger_ms=AN_HOUR) as producer:
                tasks.append(asyncio.create_task(producer.send(topic, b"1")))
                other = asyncio.create_task(producer.send("other", b"2"))
                await turns(1)
                other.cancel()
                await store.delete_topic("other")
                raise ZeroDivisionError

        tasks: list[asyncio.Task[Any]] = []
        with pytest.raises(ZeroDivisionError) as caught:
            await fail()
        assert "closing the producer failed as well" in caught.value.__notes__[0]
        assert (await tasks[0]).offset == 0


@in_loop
async def test_flush_commits_what_lingers_and_keeps_to_its_time(path: Path) -> None:
    async with opened(path) as (store, topic), store.producer(linger_ms=AN_HOUR) as producer:
        tasks = [asyncio.create_task(producer.send(topic, b"1")) for _ in range(5)]
        await turns(1)
        await producer.flush()
        await asyncio.gather(*tasks)
        with held("write"):
            late = asyncio.create_task(producer.send(topic, b"2"))
            await turns(1)
            blocked = asyncio.create_task(topic.append(b"3"))
            await turns(2)
            late.cancel()
            blocked.cancel()
        await producer.flush(timeout=60)
        await topic.append(b"4")
        assert len(await values(topic)) == 8
