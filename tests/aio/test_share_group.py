"""Share groups in a loop: what becomes of a record, who waits, who is cancelled, who shares the work."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import kafkalite
from kafkalite import (
    ClosedError,
    ConcurrentUseError,
    ConfigError,
    DeserializationError,
    InvalidGroupIdError,
    InvalidRecordStateError,
    TopicPartition,
    UnknownTopicError,
    aio,
)
from kafkalite.storage import wakeup
from kafkalite.testing import procs

from .kit import PATIENCE, in_loop, ours, sockets, soon, turns, values

ZERO = TopicPartition("jobs", 0)


@in_loop
async def test_each_record_goes_to_one_member_and_asking_for_more_accepts(path: Path) -> None:
    async with aio.connect(path) as store:
        jobs = await store.topic("jobs", partitions=2, value=int)
        await jobs.append_many(range(200))
        seen: list[int] = []

        async def work() -> None:
            async with store.share_group("g", [jobs]) as group:
                async for record in group.records():
                    assert record.delivery_count == 1
                    seen.append(record.value)
                    await turns(1)

        await asyncio.gather(*(work() for _ in range(4)))
        assert sorted(seen) == list(range(200))
        async with store.share_group("g", "jobs") as group:
            assert [record async for record in group.records()] == []
            assert await group.lag() == {ZERO: 0, TopicPartition("jobs", 1): 0}
            assert [one["partition"] for one in await group.describe()] == [0, 1]


@in_loop
async def test_accept_release_and_reject_are_noted_at_once_and_said_by_commit(path: Path) -> None:
    async with aio.connect(path) as store:
        jobs = await store.topic("jobs", value=int)
        dead = await store.topic("dead", value=int)
        await jobs.append_many(range(3))
        async with store.share_group("g", jobs, dead_letter=dead) as group:
            zero, one, two = await group.poll(timeout=0)
            group.accept(zero)
            group.release(one)
            group.reject(two)
            with pytest.raises(InvalidRecordStateError):
                group.accept(zero)
            await group.commit()
            assert await group.lag() == {ZERO: 1}
            assert group.archived_count == 1
            assert [(record.value, record.delivery_count) for record in await group.poll(timeout=0)] == [(1, 2)]
        assert await values(dead) == [2]


@in_loop
async def test_what_is_in_hand_is_released_when_the_block_is_left(path: Path) -> None:
    async with aio.connect(path) as store:
        jobs = await store.topic("jobs", value=int)
        await jobs.append_many(range(5))
        with pytest.raises(ZeroDivisionError):  # noqa: PT012  (the block is what is tested)
            async with store.share_group("g", jobs) as group:
                async for record in group:
                    if record.value == 2:
                        raise ZeroDivisionError
        async with store.share_group("g", jobs) as group:
            found = [(record.value, record.delivery_count) async for record in group.records()]
        assert sorted(found) == [(2, 2), (3, 1), (4, 1)]


@in_loop
async def test_a_member_that_waits_is_woken_without_a_clock_and_costs_no_thread(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wakeup, "LONGEST_SLEEP", PATIENCE)
        async with aio.connect(path) as store:
            jobs = await store.topic("jobs", value=int)
            groups: list[aio.ShareGroup[bytes, int]] = []
            seen: list[int] = []

            async def work() -> None:
                async with store.share_group("g", [jobs]) as group:
                    groups.append(group)
                    async for record in group:
                        seen.append(record.value)  # noqa: PERF401  (each as it comes)

            workers = [asyncio.create_task(work()) for _ in range(8)]
            await soon(lambda: len(groups) == 8 and sockets(store) != [])
            for number in range(20):
                await jobs.append(number)
                await soon(lambda number=number: len(seen) > number)  # type: ignore[misc]
            await soon(lambda: len(sockets(store)) == 1)
            assert len(ours()) <= 4
            for group in groups:
                group.stop()
            await asyncio.gather(*workers)
            assert sorted(seen) == list(range(20))
            assert sockets(store) == []


@in_loop
async def test_a_released_record_comes_back_after_its_delay_to_who_waits(path: Path) -> None:
    async with aio.connect(path) as store:
        jobs = await store.topic("jobs", value=int)
        await jobs.append(1)
        async with store.share_group("g", [jobs]) as group:
            records = aiter(group)
            group.release(await anext(records), delay=0.05)
            again = await anext(records)
            assert (again.value, again.delivery_count) == (1, 2)


@in_loop
async def test_until_the_end_waits_for_what_others_have_in_hand(path: Path) -> None:
    async with aio.connect(path) as store:
        jobs = await store.topic("jobs", value=int)
        await jobs.append_many([1, 2])
        async with store.share_group("g", [jobs]) as first, store.share_group("g", [jobs]) as second:
            taken = [await anext(aiter(first)) for _ in range(1)]
            rest = asyncio.create_task(_all(second.records()))
            await soon(lambda: sockets(store) != [])
            assert not rest.done()
            first.release(taken[0])
            await first.close()
            assert sorted(await rest) == [1, 2]


async def _all(records: Any) -> list[int]:
    return [record.value async for record in records]


@in_loop
async def test_limits_of_an_iterator_hold(path: Path) -> None:
    async with aio.connect(path) as store:
        jobs = await store.topic("jobs", value=int)
        await jobs.append_many(range(5))
        async with store.share_group("g", [jobs]) as group:
            some = group.records(max_records=2)
            assert await _all(some) == [0, 1]
            assert [record async for record in some] == []
            assert await _all(group.records(until=None, timeout=0.01)) == [2, 3, 4]
            assert await group.poll(timeout=0.01) == []
            for wrong in ({"until": "start"}, {"max_records": 0}):
                with pytest.raises(ConfigError):
                    group.records(**wrong)  # type: ignore[arg-type]


@in_loop
async def test_a_record_that_cannot_be_decoded_is_raised_in_its_place(path: Path) -> None:
    async with aio.connect(path) as store:
        await (await store.topic("jobs")).append_many([b"1", b"{broken", b"3"])
        jobs = await store.topic("jobs", value=kafkalite.JSON)
        async with store.share_group("g", [jobs]) as group:
            records = group.records()
            assert (await anext(records)).value == 1
            with pytest.raises(DeserializationError):
                await anext(records)
            assert await _all(records) == [3]
            assert group.archived_count == 1


@in_loop
async def test_a_cancelled_wait_has_taken_nothing(path: Path) -> None:
    async with aio.connect(path) as store:
        for kind in ("records", "poll"):
            jobs = await store.topic(kind, value=int)
            async with store.share_group("g", [jobs]) as group:
                seen = await _seen_in_spite_of_cancelling(jobs, group, kind)
            assert sorted(seen) == list(range(40)), kind
        assert sockets(store) == []


async def _seen_in_spite_of_cancelling(
    jobs: aio.Topic[bytes, int], group: aio.ShareGroup[bytes, int], kind: str
) -> list[int]:
    records = aiter(group)
    seen: list[int] = []
    for number in range(40):
        task = asyncio.create_task(_take(kind, group, records))
        await turns(number % 7)
        await jobs.append(number)
        await turns((number * 7) % 60)
        task.cancel()
        try:
            seen += await task
        except asyncio.CancelledError:
            continue
    while len(seen) < 40:
        seen += await _take(kind, group, records)
    return seen


async def _take(kind: str, group: aio.ShareGroup[bytes, int], records: Any) -> list[int]:
    """The next record or records, all delivered for the first time as far as anybody has seen."""
    found = [await anext(records)] if kind == "records" else await group.poll(timeout=None)
    assert [record.delivery_count for record in found] == [1] * len(found)
    return [record.value for record in found]


@in_loop
async def test_what_a_thread_acquired_for_a_cancelled_task_is_others_at_once(path: Path) -> None:
    async with aio.connect(path) as store:
        for kind in ("records", "poll"):
            jobs = await store.topic(kind, value=int)
            await jobs.append(7)
            async with store.share_group("g", [jobs]) as group, store.share_group("g", [jobs]) as other:
                with _slow(group) as (has_acquired, go_on):
                    task = asyncio.create_task(_take(kind, group, aiter(group)))
                    await soon(has_acquired.is_set)
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                    assert await other.poll(timeout=0) == []
                    go_on.set()
                found = await other.poll(timeout=PATIENCE)
                assert [(record.value, record.delivery_count) for record in found] == [(7, 1)], kind


@contextmanager
def _slow(group: aio.ShareGroup[bytes, int]) -> Iterator[tuple[threading.Event, threading.Event]]:
    """A member whose thread acquires something, and then takes its time."""
    has_acquired, go_on = threading.Event(), threading.Event()
    assert group._sync is not None
    member = group._sync._member
    fetch = member.fetch

    def slow(*arguments: Any) -> bool:
        found = fetch(*arguments)
        has_acquired.set()
        assert go_on.wait(PATIENCE)
        return found

    member.fetch = slow  # type: ignore[method-assign]
    try:
        yield has_acquired, go_on
    finally:
        go_on.set()
        del member.fetch  # type: ignore[method-assign]


@in_loop
async def test_a_record_of_a_former_iterator_stays_delivered_when_the_next_is_cancelled(path: Path) -> None:
    async with aio.connect(path) as store:
        jobs = await store.topic("jobs", value=int)
        await jobs.append(7)
        async with store.share_group("g", [jobs]) as group:
            assert (await anext(aiter(group))).delivery_count == 1
            assert group._sync is not None
            await group._steps.do(lambda: group._sync._next(group._sync._reading(None, None), 0))  # type: ignore[union-attr]
            await group._steps.do(group._withdraw)
            assert (await anext(aiter(group))).delivery_count == 2


@in_loop
async def test_one_task_takes_others_may_acknowledge_and_ask(path: Path) -> None:
    async with aio.connect(path) as store:
        jobs = await store.topic("jobs", value=int)
        await jobs.append(1)
        async with store.share_group("g", [jobs]) as group:
            (record,) = await group.poll()
            waiting = asyncio.create_task(group.poll(timeout=None))
            await soon(lambda: sockets(store) != [])
            with pytest.raises(ConcurrentUseError):
                await group.poll()
            with pytest.raises(ConcurrentUseError):
                await anext(aiter(group))
            with pytest.raises(InvalidRecordStateError):
                group.accept(record)  # asking for the next has done it
            assert await group.lag() == {ZERO: 0}
            await jobs.append(2)
            assert [one.value for one in await waiting] == [2]


@in_loop
async def test_closing_the_store_releases_what_is_in_hand_and_ends_who_waits(path: Path) -> None:
    store = await aio.connect(path)
    jobs = await store.topic("jobs", value=int)
    await jobs.append(1)
    group, other = store.share_group("g", [jobs]), store.share_group("other", [jobs])
    await group.__aenter__()
    await other.__aenter__()
    assert (await anext(aiter(group))).value == 1
    assert [record.value for record in await other.poll()] == [1]
    waiting = asyncio.create_task(other.poll(timeout=None))
    await soon(lambda: sockets(store) != [])
    await store.close()
    with pytest.raises(ClosedError):
        await waiting
    await group.close()
    with pytest.raises(ClosedError):
        await group.poll()
    with kafkalite.connect(path) as again:
        with again.share_group("g", ["jobs"]) as member:
            assert [record.delivery_count for record in member.records()] == [2]
        with again.share_group("other", ["jobs"]) as member:
            assert list(member.records()) == []


@in_loop
async def test_what_is_wrong_is_said_at_the_call_or_at_entering(path: Path) -> None:
    async with aio.connect(path) as store:
        jobs = await store.topic("jobs")
        with pytest.raises(InvalidGroupIdError):
            store.share_group("", [jobs])
        with pytest.raises(ConfigError):
            store.share_group("g", [jobs], max_delivery_count=0)
        with pytest.raises(ConfigError):
            store.share_group("g", [b"jobs"])  # type: ignore[list-item]
        with pytest.raises(UnknownTopicError):
            await store.share_group("g", ["nowhere"]).__aenter__()
        with pytest.raises(UnknownTopicError):
            await store.share_group("g", [jobs], dead_letter="nowhere").__aenter__()
        group = store.share_group("g", jobs)
        assert "not entered" in repr(group)
        with pytest.raises(ClosedError):
            await group.poll()
        group.stop()
        assert group.archived_count == 0
        async with group:
            assert "closed" not in repr(group)
        assert "closed" in repr(group)
        with pytest.raises(ClosedError):
            await group.commit()
        await group.close()


@in_loop
async def test_who_is_cancelled_while_entering_is_no_member(path: Path) -> None:
    async with aio.connect(path) as store:
        jobs = await store.topic("jobs")
        for count in range(30):
            group = store.share_group("g", [jobs])
            task = asyncio.create_task(group.__aenter__())
            await turns(count)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
                await group.close()
            await soon(lambda group=group: group._steps.is_idle)  # type: ignore[misc]
            assert group._sync is None or group._sync._closed


WORKER = """
import asyncio, sys
from kafkalite import aio

async def main():
    async with aio.connect(sys.argv[1]) as store:
        async with store.share_group("g", ["jobs"]) as group:
            async for record in group:
                print("has", record.value, flush=True)
                await asyncio.sleep(3600)

asyncio.run(main())
"""


@in_loop
async def test_what_a_killed_process_had_comes_to_who_waits(path: Path) -> None:
    async with aio.connect(path) as store:
        jobs = await store.topic("jobs")
        await jobs.append(b"1")
        with procs.python(WORKER, path) as worker:
            worker.wait_for("has")
            async with store.share_group("g", [jobs]) as group:
                waiting = asyncio.create_task(group.poll(timeout=PATIENCE))
                await soon(lambda: sockets(store) != [])
                worker.kill()
                assert [(record.value, record.delivery_count) for record in await waiting] == [(b"1", 2)]
