"""The asynchronous store: opening, topics, what is done in threads, closing; several loops in turn."""

import asyncio
import gc
import pickle
from pathlib import Path

import pytest

import kafkalite
from kafkalite import (
    ClosedError,
    ConfigError,
    DeliveryError,
    StoreNotFoundError,
    StorePermissionError,
    StoreSettingsError,
    TopicSettingsError,
    UnknownTopicError,
    aio,
    disk,
)

from .kit import held, in_loop, ours, sockets, soon, turns, values


@in_loop
async def test_a_store_is_opened_with_a_block_or_awaited(path: Path) -> None:
    async with aio.connect(path) as store:
        assert repr(store) == f"<aio.Store {str(path)!r}>"
        again = await aio.connect(path, create=False)
        assert await again.topics() == []
        await again.close()
        assert await store.topics() == []
        assert (await store.check()).ok
    assert repr(store).endswith(", closed>")


@in_loop
async def test_what_connect_is_given_reaches_the_store(path: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        await aio.connect(path, create=False)
    async with aio.connect(path, durability="interval", flush_interval_ms=50, config={"segment.bytes": 1 << 20}) as one:
        assert (one.settings["durability"], one.settings["flush_interval_ms"]) == ("interval", 50)
        assert one.settings["segment_bytes"] == 1 << 20
        with pytest.raises(StoreSettingsError):
            await aio.connect(path, durability="none")
        await one.alter(durability="commit", flush_interval_ms=60)
        assert (one.settings["durability"], one.settings["flush_interval_ms"]) == ("commit", 60)
        await one.topic("t")
    async with aio.connect(path, read_only=True) as reader:
        topic = await reader.topic("t")
        with pytest.raises(StorePermissionError):
            await topic.append(b"1")
        with pytest.raises(StorePermissionError):
            reader.producer()


@in_loop
async def test_topics_are_made_found_altered_and_deleted(path: Path) -> None:
    async with aio.connect(path) as store:
        orders = await store.topic("orders", partitions=3, key=str, value=int, retention_ms=5)
        assert (orders.name, orders.partition_count, orders.settings["retention_ms"]) == ("orders", 3, 5)
        assert repr(orders) == f"<aio.Topic 'orders', 3 partitions, of {str(path)!r}>"
        await orders.alter(retention_ms=7)
        assert (await store.topic("orders")).settings["retention_ms"] == 7
        with pytest.raises(TopicSettingsError):
            await store.topic("orders", partitions=2)
        with pytest.raises(UnknownTopicError):
            await store.topic("other", create=False)
        await store.topic("other")
        assert await store.topics() == ["orders", "other"]
        await store.delete_topic("orders")
        assert await store.topics() == ["other"]
        with pytest.raises(UnknownTopicError):
            await orders.append(1)


@in_loop
async def test_many_tasks_that_get_one_topic_make_it_once(path: Path) -> None:
    async with aio.connect(path) as store:
        found = await asyncio.gather(*(store.topic("t", partitions=2) for _ in range(30)))
        await asyncio.gather(*(topic.append(b"1") for topic in found))
        assert len(await values(found[0])) == 30
        assert len(ours()) <= 4


@in_loop
async def test_a_store_reads_several_topics(path: Path) -> None:
    async with aio.connect(path) as store:
        numbers = await store.topic("numbers", value=int)
        await numbers.append_many([1, 2])
        await (await store.topic("raw")).append(b"3")
        assert sorted([str(record.value) async for record in store.read([numbers, "raw"])]) == ["1", "2", "b'3'"]
        assert [record.value async for record in store.read(["raw"], start="latest")] == []
        with pytest.raises(ConfigError, match=r"give \['raw'\]"):
            store.read("raw")
        with pytest.raises(UnknownTopicError):
            store.read(["nowhere"])


# In threads


@in_loop
async def test_a_check_and_a_backup_do_not_hold_up_commits(path: Path, tmp_path: Path) -> None:
    async with aio.connect(path) as store:
        topic = await store.topic("t")
        await topic.append_many([b"1"] * 1000)
        with held("copy") as gate:
            backup = asyncio.create_task(store.backup(tmp_path / "copy.klite"))
            await soon(gate.reached.is_set)
            await topic.append(b"meanwhile")
            assert len(await values(topic)) == 1001
            assert (await store.check()).ok
            assert not backup.done()
            gate.open()
        report = await backup
        assert report.path == tmp_path / "copy.klite"
    async with aio.connect(tmp_path / "copy.klite", create=False) as copy:
        assert len(await values(await copy.topic("t", create=False))) == 1000
        assert (await copy.check()).ok


@in_loop
async def test_a_backups_progress_is_reported_in_the_loop_and_can_end_it(path: Path, tmp_path: Path) -> None:
    async with aio.connect(path, segment_bytes=512 * 1024) as store:
        topic = await store.topic("t")
        for _ in range(8):
            await topic.append(bytes(400_000))
        seen: list[tuple[int, int]] = []
        await store.backup(tmp_path / "copy/", progress=lambda done, total: seen.append((done, total)))
        await turns(2)
        assert seen[-1][0] == seen[-1][1] > 3_000_000

        def refuse(_done: int, _total: int) -> None:
            asyncio.get_running_loop()
            raise ZeroDivisionError

        with held("flush directory"), pytest.raises(ZeroDivisionError):  # held until the loop has come to speak
            await store.backup(tmp_path / "other/", progress=_then_open(refuse))
        assert not (tmp_path / "other").exists()


def _then_open(progress: kafkalite.storage.backup.Progress) -> kafkalite.storage.backup.Progress:
    def both(done: int, total: int) -> None:
        gate = disk.on_step.__self__  # type: ignore[union-attr]
        gate.open()
        progress(done, total)

    return both


@in_loop
async def test_a_cancelled_backup_ends_and_leaves_no_store(path: Path, tmp_path: Path) -> None:
    async with aio.connect(path) as store:
        await (await store.topic("t")).append(b"1")
        with held("copy") as gate:
            backup = asyncio.create_task(store.backup(tmp_path / "copy/"))
            await soon(gate.reached.is_set)
            backup.cancel()
            with pytest.raises(asyncio.CancelledError):
                await backup
        await (await store.topic("t")).append(b"2")
    await soon(lambda: not ours())
    assert not (tmp_path / "copy").exists()


@in_loop
async def test_a_look_up_waits_for_the_index_without_holding_up_the_loop(path: Path) -> None:
    """A backup has the index to itself for as long as copying it takes."""
    async with aio.connect(path) as store:
        topic, producer = await store.topic("t"), store.producer()
        await topic.append(b"1")
        following = topic.read(until=None)
        gate = store._host.engine.index.gate
        gate.acquire()
        try:
            waiting = [
                asyncio.create_task(values(topic)),
                asyncio.create_task(anext(following)),  # type: ignore[arg-type]
                asyncio.create_task(topic.end_offsets()),  # type: ignore[arg-type]
                asyncio.create_task(topic.beginning_offsets()),  # type: ignore[arg-type]
                asyncio.create_task(producer.send(topic, b"2")),  # type: ignore[arg-type]
            ]
            await asyncio.sleep(0.01)
            assert [task.done() for task in waiting] == [False] * 5
        finally:
            gate.release()
        read, followed, ends, beginnings, sent = await asyncio.gather(*waiting)
        assert read[0] == b"1"
        assert followed.value == b"1"  # type: ignore[attr-defined]
        assert ends[0] in (1, 2)
        assert beginnings == {0: 0}  # type: ignore[comparison-overlap]
        assert sent.offset == 1  # type: ignore[attr-defined]


# Closing


@in_loop
async def test_closing_flushes_producers_and_ends_what_waits(path: Path) -> None:
    store = await aio.connect(path)
    topic = await store.topic("t")
    producer = store.producer(linger_ms=3_600_000)
    send = asyncio.create_task(producer.send(topic, b"1"))
    append = asyncio.create_task(topic.append(b"2"))
    follow = asyncio.create_task(_drained(topic.read(until=None)))
    await turns(1)
    await asyncio.gather(store.close(), store.close())
    await store.close()
    assert {(await send).offset, (await append).offset} == {0, 1}
    with pytest.raises(ClosedError):
        await follow
    for use in (topic.append(b"3"), producer.send(topic, b"3"), store.topic("t"), store.topics(), store.check()):
        with pytest.raises(ClosedError):
            await use
    for use in (topic.append_many([b"3"]), producer.send_many(topic, [b"3"]), producer.flush(), store.flush()):
        with pytest.raises(ClosedError):
            await use
    for call in (topic.read, topic.batches, topic.tail, store.producer, lambda: store.settings, lambda: topic.settings):
        with pytest.raises(ClosedError):
            call()


@in_loop
async def test_closing_waits_for_what_was_appended_before(path: Path) -> None:
    store = await aio.connect(path)
    topic = await store.topic("t")
    with held("write") as gate:
        appends = [asyncio.create_task(topic.append(b"1"))]
        await soon(gate.reached.is_set)
        appends.append(asyncio.create_task(topic.append(b"2")))
        await turns(2)
        close = asyncio.create_task(store.close())
        await asyncio.sleep(0.01)
        assert not close.done()
        gate.open()
        await close
    assert [(await append).offset for append in appends] == [0, 1]


async def _drained(records: object) -> None:
    async for _ in records:  # type: ignore[attr-defined]
        pass


@in_loop
async def test_a_block_that_raises_keeps_its_error_and_adds_what_closing_raised(path: Path) -> None:
    async def fail(*, leaves_a_failure: bool) -> None:
        async with aio.connect(path) as store:
            topic = await store.topic("t")
            send = asyncio.create_task(store.producer(linger_ms=3_600_000).send(topic, b"1"))
            await turns(1)
            if leaves_a_failure:
                send.cancel()
                await store.delete_topic("t")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        await fail(leaves_a_failure=False)
    assert not hasattr(caught.value, "__notes__")
    with pytest.raises(ZeroDivisionError) as caught:
        await fail(leaves_a_failure=True)
    [note] = caught.value.__notes__
    assert note.startswith("closing the store failed as well: 1 records were not committed")


@in_loop
async def test_a_cancelled_close_closes_all_the_same(path: Path) -> None:
    store = await aio.connect(path)
    topic = await store.topic("t")
    with held("flush") as gate:
        send = asyncio.create_task(store.producer().send(topic, b"1"))
        await soon(gate.reached.is_set)
        close = asyncio.create_task(store.close())
        await turns(5)
        close.cancel()
        await turns(5)
        assert not close.done()  # it ends what it has begun
        close.cancel()
        with pytest.raises(asyncio.CancelledError):
            await close  # unless it is told so twice
    await store.close()
    assert (await send).offset == 0
    with kafkalite.connect(path) as again:
        assert [record.value for record in again.topic("t").read()] == [b"1"]


@in_loop
async def test_a_cancelled_connect_leaves_nothing_open(path: Path) -> None:
    before = kafkalite.storage.engine._open_engines()
    for count in range(12):
        task = asyncio.ensure_future(aio.connect(path))
        await turns(count)
        task.cancel()
        try:
            store = await task
        except asyncio.CancelledError:
            continue
        await store.close()
    with held("write") as gate:
        task = asyncio.ensure_future(aio.connect(path.with_name("other.klite")))
        await soon(gate.reached.is_set)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    del task
    await soon(lambda: all(one in before for one in kafkalite.storage.engine._open_engines()))
    gc.collect()  # a store that was dropped instead of closed would warn
    await soon(lambda: not ours())


@in_loop
async def test_a_failed_close_raises_what_was_not_delivered(path: Path) -> None:
    store = await aio.connect(path)
    topic = await store.topic("t")
    producer = store.producer(linger_ms=3_600_000)
    send = asyncio.create_task(producer.send(topic, b"1"))
    await turns(1)
    send.cancel()
    await store.delete_topic("t")
    with pytest.raises(DeliveryError) as caught:
        await store.close()
    assert [record.value for record, _ in caught.value.failures] == [b"1"]
    assert send.cancelled()


# Loops, processes


def test_a_store_goes_on_in_another_loop(path: Path) -> None:
    async def first() -> aio.Store:
        store = await aio.connect(path)
        topic = await store.topic("t")
        await topic.append(b"1")
        producer = store.producer(linger_ms=3_600_000)
        asyncio.create_task(producer.send(topic, b"2"))  # noqa: RUF006  (the loop cancels it in its end)
        follow = asyncio.create_task(anext(topic.read(start="latest", until=None)))  # type: ignore[arg-type]
        await turns(3)
        follow.cancel()
        second_store.append((topic, producer))
        return store

    async def second(store: aio.Store) -> None:
        topic, producer = second_store[0]
        send = asyncio.create_task(producer.send(topic, b"3"))
        await turns(1)
        await producer.flush()
        assert (await send).offset == 2  # what the first loop left behind came first
        assert (await topic.append(b"4")).offset == 3
        record = await anext(topic.read(start={0: 3}, until=None))
        assert record.value == b"4"
        await store.close()

    second_store: list[tuple[aio.Topic[bytes, bytes | None], aio.Producer]] = []
    asyncio.run(second(asyncio.run(first())))


def test_a_loop_that_is_closed_under_its_tasks_leaves_no_socket(path: Path) -> None:
    loop = asyncio.new_event_loop()

    async def begin() -> tuple[aio.Store, list[asyncio.Task[object]]]:
        store = await aio.connect(path)
        producers.append(store.producer(linger_ms=1))
        topic = await store.topic("t")
        tasks = [
            loop.create_task(anext(topic.read(until=None))),  # type: ignore[arg-type]
            loop.create_task(topic.append(b"1")),
            loop.create_task(producers[0].send(topic, b"2")),
        ]
        await turns(2)
        return store, tasks  # type: ignore[return-value]

    producers: list[aio.Producer] = []
    store, tasks = loop.run_until_complete(begin())
    loop.set_exception_handler(lambda _loop, _context: None)  # "was destroyed but it is pending": that is the point
    loop.close()
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    tasks.clear()
    del task
    gc.collect()
    left = sockets(store)

    async def end() -> None:
        topic = await store.topic("t")
        other = await store.topic("other")
        follow = asyncio.create_task(anext(other.read(until=None)))  # type: ignore[arg-type]
        await soon(lambda: sockets(store) != left)
        assert len(sockets(store)) == 1  # the one of the closed loop is gone
        await topic.append(b"3")
        await other.append(b"4")
        await follow
        await store.close()

    asyncio.run(end())
    assert list(path.parent.rglob("*.wait")) == []
    with kafkalite.connect(path) as again:
        assert b"3" in [record.value for record in again.topic("t").read()]


@in_loop
async def test_stores_and_topics_pickle(path: Path) -> None:
    async with aio.connect(path) as store:
        topic = await store.topic("t", value=int)
        await topic.append(5)
        copy, its_topic = pickle.loads(pickle.dumps((store, topic)))
        assert await values(its_topic) == [5]
        await its_topic.append(6)
        assert await values(topic) == [5, 6]
        await copy.close()
