"""Threads that do for a loop what would block it: commits, flushes, locks; checks and backups apart from these.

Few, made when they are needed and shared by all tasks, so a task that waits costs none. What a thread has begun it
ends: cancelling the task that asked takes nothing back.

    COMMITS   what takes a lock of the store for a moment: appends, flushes, the catalogue
    CHORES    what may take minutes, and is not to stand in the way of commits
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, TypeVar

from kafkalite.errors import ClosedError

T = TypeVar("T")

COMMITS: Final = "kafkalite-aio"
CHORES: Final = "kafkalite-aio-chores"
SIZES: Final = {COMMITS: 4, CHORES: 2}


class Threads:
    """The threads of one store."""

    def __init__(self) -> None:
        self.is_closed = False
        self.begin()

    def begin(self) -> None:
        """Begin without threads: at first, and in a forked child, where the parent's are not."""
        self._pools: dict[str, ThreadPoolExecutor] = {}

    def start(self, work: Callable[[], T], pool: str = COMMITS) -> "Future[T]":
        """Have a thread do it, now or when one is free; raises `ClosedError`."""
        if self.is_closed:
            raise ClosedError("the store was closed meanwhile: open it again with aio.connect()")
        if pool not in self._pools:
            self._pools[pool] = ThreadPoolExecutor(SIZES[pool], pool)
        return self._pools[pool].submit(work)

    async def call(self, work: Callable[[], T], pool: str = COMMITS) -> T:
        """What the work returns or raises. When the task is cancelled it is done all the same."""
        return await outcome(self.start(work, pool))

    def close(self) -> None:
        """Let the threads end once they have done what they were given."""
        self.is_closed = True
        for pool in self._pools.values():
            pool.shutdown(wait=False)


async def outcome(done: "Future[T]") -> T:
    """Wait in the loop for what a thread does; cancelled it leaves that alone, and it may be waited for again."""
    return await _known(done)


def _known(done: "Future[T]") -> "asyncio.Future[T]":
    """What a thread does, as a future of the running loop."""
    loop = asyncio.get_running_loop()
    known: asyncio.Future[T] = loop.create_future()

    def tell() -> None:
        if known.done():
            return
        error = done.exception()
        if error is None:
            known.set_result(done.result())
        else:
            known.set_exception(error)

    done.add_done_callback(lambda _: tell_loop(loop, tell))
    return known


async def settled(done: "Future[T]") -> T:
    """As `outcome`, and to the end: a cancellation that comes meanwhile is raised when the outcome is known, with the
    error as its cause if it is one.
    """
    cancelled: asyncio.CancelledError | None = None
    known = _known(done)
    while not known.done():
        try:
            await asyncio.wait([known])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled from known.exception()
    return known.result()


def tell_loop(loop: asyncio.AbstractEventLoop, call: Callable[..., object], *arguments: Any) -> None:
    """Have a loop call something, from any thread; one that is closed has nobody left who waits."""
    try:
        loop.call_soon_threadsafe(call, *arguments)
    except RuntimeError:
        if not loop.is_closed():
            raise
