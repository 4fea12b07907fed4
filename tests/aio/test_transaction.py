"""Transactions in a loop: what is committed as one, what aborts, what a cancellation leaves behind, who is fenced."""

import asyncio
import gc
from pathlib import Path
from typing import Any

import pytest

from kafkalite import (
    ClosedError,
    ConfigError,
    FencedMemberError,
    GroupMetadata,
    OffsetConflictError,
    ProducerFencedError,
    RecordMetadata,
    StoreBusyError,
    TopicPartition,
    TransactionStateError,
    aio,
)
from kafkalite.testing import procs
from tests.test_sent_offsets import busy

from .kit import held, in_loop, soon, turns, values

ZERO = TopicPartition("source", 0)


@in_loop
async def test_all_that_was_sent_is_visible_at_once_when_the_block_is_left(path: Path) -> None:
    async with aio.connect(path) as store, store.producer() as producer:
        one, two = await store.topic("one", value=int), await store.topic("two")
        async with producer.transaction() as tx:
            sent = await tx.send(one, 1, key=b"k", headers=[("h", b"x")])
            many = await tx.send_many("two", [b"a", b"b"])
            assert repr(tx) == "<aio.Transaction that is open>"
            assert not sent.done()
            assert await values(one) == await values(two) == []
        assert sent.result()[:3] == ("one", 0, 0)
        assert many.result() == {0: range(2)}
        assert (await values(one), await values(two)) == ([1], [b"a", b"b"])
        async with store.transaction() as first, store.transaction() as second:
            await first.send(one, 2)
            await second.send(one, 3)
        assert sorted(await values(one)) == [1, 2, 3]


@in_loop
async def test_it_may_be_committed_before_the_block_is_left(path: Path) -> None:
    async with aio.connect(path) as store:
        topic = await store.topic("t", value=int)
        async with store.transaction() as tx:
            await tx.send(topic, 1)
            await tx.commit()
            assert await values(topic) == [1]
            with pytest.raises(TransactionStateError):
                await tx.send(topic, 2)
        assert await values(topic) == [1]


@in_loop
async def test_a_commit_for_which_the_store_was_not_free_may_be_tried_again(path: Path) -> None:
    async with aio.connect(path) as store:
        topic = await store.topic("t", value=int)
        async with store.transaction() as tx:
            await tx.send(topic, 1)
            with busy(store._host.store), pytest.raises(StoreBusyError):
                await tx.commit(timeout=0.05)
            await tx.send(topic, 2)
            await tx.commit()
        assert await values(topic) == [1, 2]


@in_loop
async def test_offsets_of_a_consumer_elsewhere_are_committed_with_the_records(path: Path) -> None:
    async with aio.connect(path) as store:
        source = await store.topic("source", value=int)
        await source.append_many([1, 2])
        async with store.transaction() as tx:
            await tx.send(source, 3)
            await tx.send_offsets({ZERO: 2}, GroupMetadata("elsewhere"))
        (group,) = await store.groups()
        assert [(one.topic, one.committed, one.lag) for one in group.partitions] == [("source", 2, 1)]


@in_loop
async def test_an_exception_aborts_and_is_raised_again(path: Path) -> None:
    async with aio.connect(path) as store:
        topic = await store.topic("t", value=int)
        with pytest.raises(ZeroDivisionError):  # noqa: PT012  (the block is what is tested)
            async with store.transaction() as tx:
                sent = await tx.send(topic, 1)
                raise ZeroDivisionError
        assert isinstance(sent.exception(), TransactionStateError)
        async with store.transaction() as tx:
            await tx.send(topic, 2)
            await tx.abort()
            with pytest.raises(TransactionStateError):
                await tx.send(topic, 3)
            with pytest.raises(TransactionStateError):
                await tx.abort()
        with pytest.raises(TransactionStateError):
            await tx.__aenter__()
        assert await values(topic) == []


@in_loop
async def test_a_conflict_commits_nothing_and_leaves_the_producer_usable(path: Path) -> None:
    async with aio.connect(path) as store, store.producer() as producer:
        topic = await store.topic("t", value=int)
        with pytest.raises(OffsetConflictError):  # noqa: PT012  (the block is what is tested)
            async with producer.transaction() as tx:
                await tx.send(topic, 1)
                await tx.send_many(topic, [2], partition=0, expected_end_offset=7)
        await producer.send(topic, 3)
        async with producer.transaction() as tx:
            await tx.send(topic, 4, expected_end_offset=1)
        assert await values(topic) == [3, 4]


@in_loop
async def test_the_producer_itself_sends_nothing_meanwhile_and_what_it_sent_before_is_first(path: Path) -> None:
    async with aio.connect(path) as store, store.producer(linger_ms=10_000) as producer:
        topic = await store.topic("t", value=int)
        before = asyncio.create_task(producer.send(topic, 1))
        await turns(2)
        async with producer.transaction() as tx:
            assert (await before).offset == 0
            with pytest.raises(TransactionStateError):
                await producer.send(topic, 2)
            with pytest.raises(TransactionStateError):
                await producer.transaction().__aenter__()
            await tx.send(topic, 3)
        await asyncio.gather(producer.send(topic, 4), producer.flush())
        assert await values(topic) == [1, 3, 4]


async def _booked(store: aio.Store, producer: aio.Producer, breaks_at: int | None) -> list[int]:
    """Read, work, write, exactly once; returns what was handed out, repeats included."""
    source, target = await store.topic("source", value=int), await store.topic("target", value=int)
    seen: list[int] = []
    async with store.consumer_group("g", [source], enable_auto_commit=False) as group:
        async for record in group.records():
            seen.append(record.value)
            try:
                async with producer.transaction(group) as tx:
                    await tx.send(target, record.value * 10)
                    if len(seen) == breaks_at:
                        raise ConnectionError
            except ConnectionError:
                continue
        assert await group.lag() == {ZERO: 0}
    return seen


@in_loop
async def test_a_groups_offsets_are_committed_with_what_was_sent(path: Path) -> None:
    async with aio.connect(path) as store, store.producer() as producer:
        source = await store.topic("source", value=int)
        await source.append_many(range(5))
        assert await _booked(store, producer, None) == [0, 1, 2, 3, 4]
        assert await _booked(store, producer, None) == []
        assert await values(await store.topic("target", value=int)) == [0, 10, 20, 30, 40]


@in_loop
async def test_what_an_aborted_transaction_handed_out_comes_again(path: Path) -> None:
    async with aio.connect(path) as store, store.producer() as producer:
        source = await store.topic("source", value=int)
        await source.append_many(range(4))
        assert await _booked(store, producer, 2) == [0, 1, 1, 2, 3]
        assert await values(await store.topic("target", value=int)) == [0, 10, 20, 30]


@in_loop
async def test_cancelling_the_block_aborts_and_rewinds_the_group(path: Path) -> None:
    async with aio.connect(path) as store, store.producer() as producer:
        source, target = await store.topic("source", value=int), await store.topic("target", value=int)
        await source.append_many(range(3))
        async with store.consumer_group("g", [source], enable_auto_commit=False) as group:
            records = group.records()

            async def work() -> None:
                async with producer.transaction(group) as tx:
                    for _ in range(2):
                        await tx.send(target, (await anext(records)).value)
                    await asyncio.sleep(3600)

            task = asyncio.create_task(work())
            await soon(lambda: group._sync._run is not None and bool(group._sync._run.columns))
            await turns(20)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await values(target) == []
            assert [record.value async for record in records] == [0, 1, 2]
            await producer.send(target, 9)  # the producer is free again
        assert await values(target) == [9]


@in_loop
async def test_a_cancellation_during_the_commit_is_raised_when_the_outcome_is_known(path: Path) -> None:
    async with aio.connect(path) as store:
        topic = await store.topic("t", value=int)
        sent: list[Any] = []

        async def work() -> None:
            async with store.transaction() as tx:
                sent.append(await tx.send(topic, 1))
                assert await tx.send(topic, 2)

        with held("flushed") as gate:
            task = asyncio.create_task(work())
            await soon(gate.reached.is_set)
            for _ in range(3):
                task.cancel()
                await turns(5)
                assert not task.done()
            gate.open()
            with pytest.raises(asyncio.CancelledError) as caught:
                await task
        assert caught.value.__cause__ is None
        assert isinstance(sent[0].result(), RecordMetadata)
        assert await values(topic) == [1, 2]


@in_loop
async def test_a_commit_that_fails_while_the_task_is_cancelled_is_the_cause(path: Path) -> None:
    async with aio.connect(path) as store:
        topic = await store.topic("t", value=int)

        async def work() -> None:
            async with store.transaction() as tx:
                await tx.send(topic, 1, expected_end_offset=7)

        task = asyncio.create_task(work())
        for _ in range(100):
            await turns(1)
            if not task.done():
                task.cancel()
        with pytest.raises((asyncio.CancelledError, OffsetConflictError)) as caught:
            await task
        assert isinstance(caught.value, asyncio.CancelledError)
        assert await values(topic) == []


@in_loop
async def test_cancelled_at_any_turn_it_is_whole_or_not_there_and_the_producer_goes_on(path: Path) -> None:
    async with aio.connect(path) as store, store.producer() as producer:
        topic = await store.topic("t", value=int)

        async def work(number: int) -> None:
            async with producer.transaction() as tx:
                await tx.send(topic, number)
                await asyncio.sleep(0)
                await tx.send(topic, number)

        done = 0
        for number in range(60):
            task = asyncio.create_task(work(number))
            await turns(number)
            task.cancel()
            done += not isinstance((await asyncio.gather(task, return_exceptions=True))[0], asyncio.CancelledError)
            async with producer.transaction() as tx:
                await tx.send(topic, -1)
        found = await values(topic)
        assert found.count(-1) == 60
        assert all(found.count(number) in (0, 2) for number in range(60))
        assert len({number for number in found if number >= 0}) >= done


@in_loop
async def test_while_a_thread_commits_it_the_loop_goes_on_and_nobody_adds_to_it(path: Path) -> None:
    async with aio.connect(path) as store:
        topic = await store.topic("t", value=int)
        transaction = store.transaction()

        async def work() -> None:
            async with transaction as tx:
                await tx.send(topic, 1)

        with pytest.raises(TransactionStateError):
            await transaction.send(topic, 0)
        with held("flushed") as gate:
            task = asyncio.create_task(work())
            await soon(gate.reached.is_set)
            with pytest.raises(TransactionStateError):
                await transaction.send(topic, 2)
            with pytest.raises(TransactionStateError):
                await transaction.abort()
            gate.open()
            await task
        assert await values(topic) == [1]


@in_loop
async def test_a_coroutine_that_nobody_goes_on_with_aborts(path: Path) -> None:
    async with aio.connect(path) as store, store.producer() as producer:
        topic = await store.topic("t", value=int)

        async def work() -> Any:
            async with producer.transaction() as tx:
                await tx.send(topic, 1)
                yield

        working = work()
        await anext(working)
        await working.aclose()
        del working
        gc.collect()
        await soon(lambda: producer._sync._transaction is None)
        await producer.send(topic, 2)
        assert await values(topic) == [2]


@in_loop
async def test_whoever_claims_the_name_last_fences_the_others(path: Path) -> None:
    async with aio.connect(path) as old, aio.connect(path) as new:
        topic = await old.topic("t", value=int)
        async with old.producer(transactional_id="name") as zombie:
            with pytest.raises(TransactionStateError):
                await zombie.send(topic, 0)
            async with zombie.transaction() as tx:
                await tx.send(topic, 1)
            async with new.producer(transactional_id="name") as heir:
                with pytest.raises(ProducerFencedError):
                    async with zombie.transaction() as tx:
                        await tx.send(topic, 2)
                async with heir.transaction() as tx:
                    await tx.send(topic, 3)
        not_entered = old.producer(transactional_id="other")
        async with not_entered.transaction() as tx:
            await tx.send(topic, 4)
        await not_entered.close()
        with pytest.raises(ConfigError):
            old.producer(transactional_id="")
        assert await values(topic) == [1, 3, 4]


@in_loop
async def test_groups_that_cannot_be_part_of_it_are_refused(path: Path) -> None:
    async with aio.connect(path) as store, aio.connect(path.with_name("other.klite")) as other:
        topic = await store.topic("t", value=int)
        await other.topic("t")
        async with store.consumer_group("g", [topic]) as commits_itself:
            with pytest.raises(ConfigError):
                await store.transaction(commits_itself).__aenter__()
            with pytest.raises(ConfigError):
                store.transaction(commits_itself._sync)  # type: ignore[arg-type]
        async with other.consumer_group("g", ["t"], enable_auto_commit=False) as elsewhere:
            with pytest.raises(ConfigError):
                await store.transaction(elsewhere).__aenter__()
        member = store.consumer_group("h", [topic], enable_auto_commit=False)
        async with member as group, store.transaction(group):
            with pytest.raises(TransactionStateError):
                await group.commit()
            with pytest.raises(TransactionStateError):
                await store.transaction(group).__aenter__()
        with pytest.raises(ConfigError):
            async with store.transaction() as tx:
                await tx.send(b"t", 1)  # type: ignore[call-overload]


@in_loop
async def test_closing_the_producer_or_the_store_aborts(path: Path) -> None:
    store = await aio.connect(path)
    topic = await store.topic("t", value=int)
    producer = store.producer()
    with pytest.raises(TransactionStateError):  # noqa: PT012  (the block is what is tested)
        async with producer.transaction() as tx:
            await tx.send(topic, 1)
            await producer.close()
    with pytest.raises(ClosedError):  # noqa: PT012  (the block is what is tested)
        async with store.transaction() as tx:
            await tx.send(topic, 2)
            await store.close()
    with pytest.raises(ClosedError):
        await tx.send(topic, 3)
    async with aio.connect(path) as again:
        assert await values(await again.topic("t", value=int)) == []


@in_loop
async def test_a_member_that_was_removed_meanwhile_commits_nothing(path: Path) -> None:
    async with aio.connect(path) as store:
        source, target = await store.topic("source", value=int), await store.topic("target", value=int)
        await source.append(1)
        async with store.consumer_group("g", [source], enable_auto_commit=False, max_poll_interval_ms=100) as group:
            with pytest.raises(FencedMemberError):  # noqa: PT012  (the block is what is tested)
                async with store.transaction(group) as tx:
                    await tx.send(target, (await anext(aiter(group))).value)
                    member = group._sync._member
                    assert member is not None
                    await soon(lambda: not member.hand.is_mine())  # type: ignore[union-attr]
            assert (await anext(aiter(group))).value == 1
        assert await values(target) == []


WORKER = """
import asyncio, sys
from kafkalite import aio

async def main():
    async with aio.connect(sys.argv[1]) as store, store.producer() as producer:
        source, target = await store.topic("source", value=int), await store.topic("target", value=int)
        async with store.consumer_group("g", [source], enable_auto_commit=False) as group:
            async for record in group:
                async with producer.transaction(group) as tx:
                    await tx.send(target, record.value)
                    print("has sent", record.value, flush=True)
                    if record.value == 7:
                        await asyncio.sleep(3600)

asyncio.run(main())
"""


@in_loop
async def test_a_killed_process_leaves_nothing_twice_and_nothing_out(path: Path) -> None:
    async with aio.connect(path) as store, store.producer() as producer:
        source, target = await store.topic("source", value=int), await store.topic("target", value=int)
        await source.append_many(range(10))
        with procs.python(WORKER, path) as worker:
            worker.wait_for("has sent 7")
            worker.kill()
        assert await _booked(store, producer, None) == [7, 8, 9]
        assert await values(target) == [*range(7), 70, 80, 90]
