"""A user's asynchronous program, as a type checker must see it: it is checked, never run. See `use.py`."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, assert_type

import kafkalite
from kafkalite import Delivery, Record, RecordBatch, RecordMetadata, ShareRecord, TopicPartition, aio


@dataclass
class Order:
    id: int
    amount: float


async def main() -> None:
    awaited = await aio.connect("shop.klite", durability="commit")
    assert_type(awaited, aio.Store)
    async with aio.connect("shop.klite", flush_interval_ms=50) as store:
        assert_type(store, aio.Store)
        assert_type(await store.topic("raw"), aio.Topic[bytes, bytes | None])
        orders = await store.topic("orders", partitions=3, value=Order)
        assert_type(orders, aio.Topic[bytes, Order])
        assert_type(await store.topic("orders", key=str, value=Order), aio.Topic[str, Order])
        assert_type(await store.topic("keyed", key=str), aio.Topic[str, bytes | None])
        assert_type(await store.topics(), list[str])
        await store.topic("typo", retenton_ms=5)  # type: ignore[call-overload]  # error

        assert_type(await orders.append(Order(1, 2.0), key=b"k"), RecordMetadata)
        assert_type(await orders.append_many([Order(1, 2.0)]), dict[int, range])
        await orders.append(None)  # type: ignore[arg-type]  # error
        async with store.producer(compression_type="zstd") as producer:
            assert_type(await producer.send(orders, Order(1, 2.0)), RecordMetadata)
            assert_type(await producer.send_many(orders, [Order(1, 2.0)]), dict[int, range])
            await producer.send("orders", b"{}")
            await producer.send("orders", "text")  # type: ignore[call-overload]  # error
        store.producer(linger=1)  # type: ignore[call-arg]  # error

        assert_type(orders.read(0, start=5, until=None), AsyncIterator[Record[bytes, Order]])
        async for record in orders.read():
            assert_type(record, Record[bytes, Order])
        async for batch in orders.batches():
            assert_type(batch, RecordBatch[bytes, Order])
        async for mixed in store.read([orders, "raw"]):
            assert_type(mixed, Record[Any, Any])
        orders.read(start="first")  # type: ignore[arg-type]  # error

        async with store.consumer_group("billing", [orders], auto_offset_reset="latest") as group:
            assert_type(group, aio.ConsumerGroup[bytes, Order])
            async for one in group:
                assert_type(one, Record[bytes, Order])
            assert_type(await group.poll(), list[Record[bytes, Order]])
            assert_type(await group.lag(), dict[TopicPartition, int])
        assert_type(store.consumer_group("g", "orders"), aio.ConsumerGroup[bytes, bytes | None])
        assert_type(store.consumer_group("g", re.compile("o.*"), key=str, value=int), aio.ConsumerGroup[str, int])
        assert_type(await store.groups(), list[kafkalite.GroupInfo])

        await shared(store, orders)
        async with store.producer(transactional_id="t") as producer, producer.transaction(group) as tx:
            assert_type(tx, aio.Transaction)
            assert_type(await tx.send(orders, Order(1, 2.0)), Delivery[RecordMetadata])
            assert_type(await tx.send_many("raw", [b"x"]), Delivery[dict[int, range]])
            await tx.send("raw", "text")  # type: ignore[call-overload]  # error
            await tx.abort()
        with store.transaction():  # type: ignore[attr-defined]  # error
            pass
        assert_type(await store.check(), kafkalite.Report)
        assert_type((await store.backup("copy.klite")).path.name, str)


async def shared(store: aio.Store, orders: aio.Topic[bytes, Order]) -> None:
    async with store.share_group("workers", orders, dead_letter="failed") as queue:
        assert_type(queue, aio.ShareGroup[bytes, Order])
        async for job in queue:
            assert_type(job, ShareRecord[bytes, Order])
            assert_type(job.delivery_count, int)
            queue.accept(job)
            queue.release(job, delay=1)
        assert_type(await queue.poll(10), list[ShareRecord[bytes, Order]])
        assert_type(await queue.lag(), dict[TopicPartition, int])
        await queue.commit()
    assert_type(store.share_group("g", ["orders"]), aio.ShareGroup[bytes, bytes | None])
    assert_type(store.share_group("g", [orders, "raw"]), aio.ShareGroup[Any, Any])
    store.share_group("g", orders, max_deliveries=3)  # type: ignore[call-overload]  # error
    store.transaction(queue)  # type: ignore[arg-type]  # error


asyncio.run(main())
