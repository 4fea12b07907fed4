"""asyncio: many tasks share one commit, followers wait without threads, workers share the work, exactly once.

    python examples/asyncio_events.py

Everything of `kafkalite.aio` is awaited; while it waits for the disk, a lock or more records, the loop goes on.
"""

import asyncio
import tempfile
from pathlib import Path

from kafkalite import aio


async def handle_request(producer: aio.Producer, clicks: aio.Topic[str, int], user: str, page: int) -> int:
    """As a web server has them by the hundred: what they send at the same time is one commit, on disk on return."""
    metadata = await producer.send(clicks, page, key=user)
    return metadata.offset


async def watch(clicks: aio.Topic[str, int], wanted: int) -> int:
    """Follow the topic, as a live page would: the loop watches a socket, and no thread waits."""
    count = 0
    async for _ in clicks.read(start="latest", until=None):
        count += 1
        if count == wanted:
            break  # following has no end of its own
    return count


async def work(store: aio.Store, clicks: aio.Topic[str, int], done: list[int]) -> None:
    """A member of a group: asking for the next record confirms the one before."""
    async with store.consumer_group("billing", [clicks]) as group:
        async for record in group.records(until="end"):
            await asyncio.sleep(0)  # something slow
            done.append(record.value)


async def bill(store: aio.Store, clicks: aio.Topic[str, int], bills: aio.Topic[str, int]) -> None:
    """Exactly once: a bill and how far this has read are one commit, which an exception or a cancelled task aborts."""
    async with store.consumer_group("bills", [clicks], enable_auto_commit=False) as group:
        async for record in group.records(until="end"):
            async with store.transaction(group) as tx:
                await tx.send(bills, record.value, key=record.key)


async def send_bills(store: aio.Store, bills: aio.Topic[str, int], sent: list[int]) -> None:
    """A work queue: each bill goes to one of the workers, whatever partition it is in, and may be tried again."""
    async with store.share_group("mailers", bills) as group:
        async for record in group.records(until="end"):
            if record.value % 50 == 0 and record.delivery_count == 1:
                group.release(record)  # the mail server was busy
            else:
                sent.append(record.value)


async def main() -> None:
    """Requests, watchers, workers: all in one loop."""
    with tempfile.TemporaryDirectory() as directory:
        async with aio.connect(Path(directory) / "shop.klite") as store:
            clicks = await store.topic("clicks", partitions=4, key=str, value=int)
            watchers = [asyncio.create_task(watch(clicks, 200)) for _ in range(10)]
            await asyncio.sleep(0)

            async with store.producer() as producer:
                requests = [handle_request(producer, clicks, f"user {page % 7}", page) for page in range(200)]
                print("requests answered:", len(await asyncio.gather(*requests)))
            print("each of 10 watchers saw:", set(await asyncio.gather(*watchers)))

            done: list[int] = []
            await asyncio.gather(*(work(store, clicks, done) for _ in range(3)))
            print("worked off:", set(done) == set(range(200)))

            bills = await store.topic("bills", key=str, value=int)
            await bill(store, clicks, bills)
            sent: list[int] = []
            await asyncio.gather(*(send_bills(store, bills, sent) for _ in range(3)))
            print("bills sent:", len(sent), "each once:", sorted(sent) == list(range(200)))
            print("check:", "clean" if (await store.check()).ok else "damaged")


if __name__ == "__main__":
    asyncio.run(main())
