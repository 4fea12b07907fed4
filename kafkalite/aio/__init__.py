"""kafkalite for asyncio: the same names, to be awaited; nothing here blocks the loop, and no thread waits for a task.

    from kafkalite import aio

    async with aio.connect("shop.klite") as store:
        orders = await store.topic("orders", partitions=3)
        await orders.append(b"42", key=b"alice")
        async for record in orders.read():
            print(record.partition, record.offset, record.key, record.value)

What takes a lock or a flush is done by a few threads of the store, and what many tasks ask for at the same time shares
a commit. What waits for more records is woken by the loop, which watches a socket. Cancelling a task that appends or
sends takes nothing back; one that waits for records has taken none; one in a transaction aborts it. Errors, records,
serdes and settings are those of `kafkalite`.
"""

from kafkalite.aio.consumer_group import ConsumerGroup
from kafkalite.aio.iteration import BatchIterator, RecordIterator
from kafkalite.aio.producer import Producer
from kafkalite.aio.share_group import ShareGroup
from kafkalite.aio.store import Connecting, Store, connect
from kafkalite.aio.topic import Topic
from kafkalite.aio.transaction import Transaction

__all__ = [
    "BatchIterator",
    "Connecting",
    "ConsumerGroup",
    "Producer",
    "RecordIterator",
    "ShareGroup",
    "Store",
    "Topic",
    "Transaction",
    "connect",
]
