"""Members in a loop: what is confirmed and committed when, waiting, cancelling, callbacks, other processes."""

import asyncio
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import kafkalite
from kafkalite import ClosedError, ConcurrentUseError, FencedMemberError, TopicPartition, UnknownTopicError, aio
from kafkalite.testing import procs

from .kit import PATIENCE, in_loop, ours, sockets, soon, turns

ZERO = TopicPartition("t", 0)


@in_loop
async def test_a_group_hands_out_each_record_and_commits_what_was_confirmed(path: Path) -> None:
    async with aio.connect(path) as store:
        topic = await store.topic("t", partitions=3, value=int)
        for number in range(30):
            await topic.append(number, partition=number % 3)
        async with store.consumer_group("g", topic) as group:
            seen = [record.value async for record in group.records()]
            assert sorted(group.assignment) == [TopicPartition("t", number) for number in range(3)]
            assert set((await group.lag()).values()) == {0}
            assert list((await group.members()).values()) == [group.assignment]
        assert sorted(seen) == list(range(30))
        async with store.consumer_group("g", [topic]) as group:
            assert [record async for record in group.records()] == []
            assert await group.committed() == {TopicPartition("t", number): 10 for number in range(3)}
        assert repr(group) == "<aio.ConsumerGroup 'g', not entered>"


@in_loop
async def test_break_confirms_nothing_and_commit_includes_what_is_in_hand(path: Path) -> None:
    async with aio.connect(path) as store:
        topic = await store.topic("t", value=int)
        await topic.append_many(range(10))
        async with store.consumer_group("g", [topic]) as group:
            async for record in group:
                if record.value == 3:
                    break
        async with store.consumer_group("g", [topic]) as group:
            assert (await anext(aiter(group))).value == 3  # it was in hand
            await group.commit()
        async with store.consumer_group("g", [topic]) as group:
            assert [record.value async for record in group.records(max_records=2)] == [4, 5]
            assert await group.position() == {ZERO: 5}
            await group.commit({ZERO: 8})
            await group.seek(ZERO, 7)
            assert (await anext(aiter(group))).value == 7
            await group.pause([ZERO])
            assert await group.poll(timeout=0) == []
            await group.resume([ZERO])


@in_loop
async def test_poll_and_batches_confirm_what_they_gave_before(path: Path) -> None:
    async with aio.connect(path) as store:
        topic = await store.topic("t", value=int)
        await topic.append_many(range(6))
        async with store.consumer_group("g", [topic]) as group:
            assert [record.value for record in await group.poll(2)] == [0, 1]
            assert [record.value for record in await group.poll(2)] == [2, 3]
        async with store.consumer_group("g", [topic]) as group:
            batches = [list(batch.values) async for batch in group.batches(until="end")]
            assert batches == [[2, 3, 4, 5]]
        async with store.consumer_group("g", "t") as group:
            assert await group.poll(timeout=0.001) == []
            assert await group.committed() == {ZERO: 6}


@in_loop
async def test_a_member_that_waits_is_woken_and_costs_no_thread(path: Path) -> None:
    async with aio.connect(path) as store:
        topic = await store.topic("t", partitions=4, value=int)
        seen: list[int] = []

        async def work() -> None:
            async with store.consumer_group("g", [topic]) as group:
                groups.append(group)
                async for record in group:
                    seen.append(record.value)  # noqa: PERF401  (each as it comes)

        groups: list[aio.ConsumerGroup[bytes, int]] = []
        workers = [asyncio.create_task(work()) for _ in range(6)]
        await soon(lambda: len(groups) == 6)
        for number in range(40):
            await topic.append(number, partition=number % 4)
            await turns(number % 3)
        await soon(lambda: len(set(seen)) == 40)
        assert len(ours()) <= 4
        for group in groups:
            group.stop()
        await asyncio.gather(*workers)
        assert sockets(store) == []
    assert sorted(set(seen)) == list(range(40))


@in_loop
async def test_a_cancelled_wait_has_taken_nothing(path: Path) -> None:
    async with aio.connect(path) as store:
        topic = await store.topic("t", value=int)
        for kind in ("records", "poll", "batches"):
            async with store.consumer_group(kind, [topic], auto_offset_reset="latest") as group:
                seen = await _seen_in_spite_of_cancelling(topic, group, kind)
            assert seen == list(range(40)), kind
        assert sockets(store) == []


async def _seen_in_spite_of_cancelling(
    topic: aio.Topic[bytes, int], group: aio.ConsumerGroup[bytes, int], kind: str
) -> list[int]:
    take = partial(_take, kind, group, aiter(group), group.batches())
    seen: list[int] = []
    for number in range(40):
        task = asyncio.create_task(take())
        await turns(number % 7)
        await topic.append(number)
        await turns((number * 7) % 60)
        task.cancel()
        try:
            seen += await task
        except asyncio.CancelledError:
            continue
    while len(seen) < 40:
        seen += await take()
    return seen


@in_loop
async def test_what_a_thread_took_in_hand_for_a_cancelled_task_is_put_back(path: Path) -> None:
    async with aio.connect(path) as store:
        topic = await store.topic("t", value=int)
        await topic.append_many(range(5))
        for kind in ("records", "poll", "batches"):
            async with store.consumer_group(kind, [topic]) as group:
                records, batches = aiter(group), group.batches()
                name = "_next_run" if kind == "records" else "_next_batch"
                with _slow(group, name) as (has_taken, go_on):
                    task = asyncio.create_task(_take(kind, group, records, batches))
                    await soon(has_taken.is_set)
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                    go_on.set()
                assert (await _take(kind, group, records, batches))[0] == 0, kind


@contextmanager
def _slow(group: aio.ConsumerGroup[bytes, int], name: str) -> Iterator[tuple[threading.Event, threading.Event]]:
    """A member whose thread takes something in hand, and then takes its time."""
    has_taken, go_on = threading.Event(), threading.Event()
    take = getattr(group._sync, name)

    def slow(*arguments: Any, **named: Any) -> Any:
        taken = take(*arguments, **named)
        has_taken.set()
        assert go_on.wait(PATIENCE)
        return taken

    setattr(group._sync, name, slow)
    try:
        yield has_taken, go_on
    finally:
        go_on.set()
        delattr(group._sync, name)


async def _take(kind: str, group: aio.ConsumerGroup[bytes, int], records: Any, batches: Any) -> list[int]:
    """The next record or records of a member, in one of three ways."""
    if kind == "records":
        return [(await anext(records)).value]
    if kind == "poll":
        return [record.value for record in await group.poll(timeout=None)]
    return list((await anext(batches)).values)


@in_loop
async def test_leaving_by_an_exception_or_by_cancelling_confirms_nothing(path: Path) -> None:
    async with aio.connect(path) as store:
        topic = await store.topic("t", value=int)
        await topic.append_many(range(5))

        async def work(end: BaseException | None) -> None:
            async with store.consumer_group("g", [topic]) as group:
                async for record in group:
                    seen.append(record.value)
                    if end is not None and len(seen) % 2 == 0:
                        raise end

        seen: list[int] = []
        with pytest.raises(ZeroDivisionError):
            await work(ZeroDivisionError())
        assert seen == [0, 1]
        task = asyncio.create_task(work(None))
        await soon(lambda: len(seen) == 6)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert seen == [0, 1, 1, 2, 3, 4]
        async with store.consumer_group("g", [topic]) as group:
            assert [record.value async for record in group.records()] == []  # it had asked for more


@in_loop
async def test_callbacks_are_called_in_the_loop_and_awaited(path: Path) -> None:
    async with aio.connect(path) as store:
        topic = await store.topic("t", partitions=2)
        said: list[tuple[str, list[TopicPartition]]] = []

        async def assigned(_group: object, partitions: list[TopicPartition]) -> None:
            await asyncio.sleep(0)
            said.append(("assigned", partitions))

        def revoked(_group: object, partitions: list[TopicPartition]) -> None:
            assert asyncio.get_running_loop()
            said.append(("revoked", partitions))

        async with store.consumer_group("g", [topic], on_assigned=assigned, on_revoked=revoked) as group:
            both = [TopicPartition("t", 0), TopicPartition("t", 1)]
            assert await group.poll(timeout=0) == []
            assert said == [("assigned", both)]
        assert said[1:] == [("revoked", both)]

        def fail(_group: object, _partitions: object) -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            async with store.consumer_group("other", [topic], on_assigned=fail) as group:
                await group.poll(timeout=0)


@in_loop
async def test_one_task_reads_others_may_ask(path: Path) -> None:
    async with aio.connect(path) as store:
        topic = await store.topic("t", value=int)
        async with store.consumer_group("g", [topic]) as group:
            waiting = asyncio.create_task(anext(aiter(group)))  # type: ignore[arg-type]
            await soon(lambda: sockets(store) != [])
            with pytest.raises(ConcurrentUseError):
                await group.poll()
            assert await group.lag() == {ZERO: 0}
            await group.commit()
            await topic.append(1)
            assert (await waiting).value == 1  # type: ignore[attr-defined]


@in_loop
async def test_closing_the_store_leaves_the_group_and_ends_who_waits(path: Path) -> None:
    store = await aio.connect(path)
    topic = await store.topic("t", value=int)
    await topic.append(1)
    group = store.consumer_group("g", [topic])
    await group.join()
    records = aiter(group)
    assert (await anext(records)).value == 1
    waiting = asyncio.create_task(anext(records))  # type: ignore[arg-type]
    await soon(lambda: sockets(store) != [])
    await store.close()
    with pytest.raises(ClosedError):
        await waiting
    await group.close()
    with pytest.raises(ClosedError):
        await group.poll()
    with kafkalite.connect(path) as again, again.consumer_group("g", ["t"]) as member:
        assert member.committed() == {ZERO: 1}


@in_loop
async def test_a_member_that_waited_once_is_still_fenced_when_it_asks_for_nothing_more(path: Path) -> None:
    async with aio.connect(path) as store:
        topic = await store.topic("t", value=int)
        async with store.consumer_group("g", [topic], max_poll_interval_ms=200) as group:
            waiting = asyncio.create_task(anext(aiter(group)))  # type: ignore[arg-type]
            await soon(lambda: sockets(store) != [])
            await topic.append(1)
            await waiting
            member = group._sync._member
            assert member is not None
            assert member.hand is not None
            await soon(lambda: not member.hand.is_mine())
            with pytest.raises(FencedMemberError):
                await group.commit()


@in_loop
async def test_patterns_and_unknown_topics(path: Path) -> None:
    async with aio.connect(path) as store:
        await (await store.topic("order-1", value=int)).append(1)
        async with store.consumer_group("g", re.compile("order-.*"), key=str, value=int) as group:
            assert [record.value async for record in group.records()] == [1]
        with pytest.raises(UnknownTopicError):
            await store.consumer_group("g", ["nowhere"]).join()


WORKER = """
import asyncio, sys
from kafkalite import aio

async def main():
    async with aio.connect(sys.argv[1]) as store:
        topic = await store.topic("t", value=int)
        async with store.consumer_group("g", [topic]) as group:
            print("joined", flush=True)
            async for record in group:
                print("got", record.value, flush=True)

asyncio.run(main())
"""


@in_loop
async def test_a_member_takes_over_what_a_killed_process_had(path: Path) -> None:
    async with aio.connect(path) as store:
        topic = await store.topic("t", partitions=2, value=int)
        with procs.python(WORKER, path) as worker:
            worker.wait_for("joined")
            async with store.consumer_group("g", [topic]) as group:
                seen: set[int] = set()

                async def work() -> None:
                    async for record in group:
                        seen.add(record.value)

                working = asyncio.create_task(work())
                await soon(lambda: len(group.assignment) == 1)
                worker.kill()
                for number in range(20):
                    await topic.append(number, partition=number % 2)
                await soon(lambda: seen == set(range(20)))
                group.stop()
                await working
