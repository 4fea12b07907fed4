"""What `read` and `batches` give in a loop: asynchronous iterators over the batches of the synchronous one.

A look-up in the index takes no lock of the store and so happens in the loop; what has to wait for more sleeps on the
loop's watch. Everything is decoded in the loop, and a long reading gives way to other tasks every now and then. Like
the synchronous ones these iterators are objects that survive raising; a cancelled `anext` has taken nothing.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final, Generic, TypeVar

from kafkalite import iteration
from kafkalite.aio.host import Host
from kafkalite.clock import Deadline
from kafkalite.errors import ConcurrentUseError
from kafkalite.iteration import RecordBatch
from kafkalite.model import Record

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")

RECORDS_A_TURN: Final = 256
"""Records that are handed out before other tasks get their turn."""
RECORDS_A_LOOKUP: Final = 16
"""What looking for a batch costs, as so many records."""


class _NothingYet(Exception):  # noqa: N818  (a signal, not an error)
    """A following iterator would have to wait."""


class Batches(iteration.BatchIterator[K, V]):
    """Batches that never sleep: when there are none yet they say so."""

    def _wait(self) -> None:
        raise _NothingYet

    def log_ids(self) -> list[int]:
        """The logs that are followed."""
        return [lane.reader.log_id for lane in self._lanes]


class _Feed(Generic[K, V]):
    """Takes from batches, one task at a time, without holding up the loop."""

    def __init__(self, host: Host, begin: Callable[[], Batches[K, V]]) -> None:
        self._host = host
        self._begin = begin
        self._is_in_use = False
        self._spent = 0
        self._batches = begin() if host.may_look() else None

    async def take(self, what: Callable[[Batches[K, V]], T]) -> T:
        """What there is next; waits for it when following. Raises `StopAsyncIteration` at the end."""
        with self._one_task():
            self._host.use()
            await self._give_way()
            while True:
                if not self._host.may_look():
                    await self._host.until_may_look()
                    self._host.use()
                if self._batches is None:
                    self._batches = self._begin()
                try:
                    return what(self._batches)
                except StopIteration:
                    raise StopAsyncIteration from None
                except _NothingYet:
                    self._spent = 0
                await self._grown(self._batches)

    async def _give_way(self) -> None:
        self._spent += RECORDS_A_LOOKUP
        if self._spent >= RECORDS_A_TURN:
            self._spent = 0
            await asyncio.sleep(0)

    def spend(self, count: int) -> None:
        """So many records were handed out."""
        self._spent += count

    async def _grown(self, batches: Batches[K, V]) -> None:
        """Wait until there is more; raises `ClosedError` as soon as the store is being closed."""

        def ready() -> bool:
            self._host.use()
            return not self._host.may_look() or batches.has_more()  # who may not look now looks as soon as he may

        await self._host.watch().until(batches.log_ids(), ready, Deadline(None))

    @contextlib.contextmanager
    def _one_task(self) -> Iterator[None]:
        if self._is_in_use:
            raise ConcurrentUseError("another task waits for this iterator's next: give each task its own iterator")
        self._is_in_use = True
        try:
            yield
        finally:
            self._is_in_use = False


class BatchIterator(AsyncIterator[RecordBatch[K, V]], Generic[K, V]):
    """Batches of one or several topics, partitions in turn."""

    def __init__(self, host: Host, begin: Callable[[], Batches[K, V]]) -> None:
        self._feed = _Feed(host, begin)

    async def __anext__(self) -> RecordBatch[K, V]:
        batch = await self._feed.take(Batches.__next__)
        self._feed.spend(len(batch))
        return batch


class RecordIterator(AsyncIterator[Record[K, V]], Generic[K, V]):
    """Records of one or several topics; order holds within a partition, partitions take turns by batch."""

    def __init__(self, host: Host, begin: Callable[[], Batches[K, V]]) -> None:
        self._feed = _Feed(host, begin)
        self._run: Iterator[Record[Any, Any]] = iter(())
        self._left = RECORDS_A_TURN

    async def __anext__(self) -> Record[K, V]:
        self._left -= 1
        if not self._left:
            self._left = RECORDS_A_TURN
            await asyncio.sleep(0)
        while True:
            for record in self._run:
                return record
            self._run = await self._feed.take(Batches.next_records)
