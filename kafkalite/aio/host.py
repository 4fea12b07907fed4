"""What everything of one asynchronous store shares: the engine, the threads, the loop's watch."""

import asyncio
import contextlib
from typing import Final

from kafkalite import store as sync
from kafkalite.aio.threads import Threads
from kafkalite.aio.waiting import Watch
from kafkalite.errors import ClosedError
from kafkalite.storage.engine import Engine

TURNS: Final = 3
"""Turns of the loop that a look-up gives way to one of another thread; they take microseconds, but for a backup's."""


class Host:
    """A store in a process, as its asynchronous handles see it."""

    def __init__(self, store: sync.Store, threads: Threads) -> None:
        self.store = store
        self.engine: Engine = store._engine
        self.threads = threads
        self.is_closed = False
        self._watch: Watch | None = None
        self.engine.after_fork(self._begin)

    def _begin(self) -> None:
        """In a forked child: its threads and its loops are others."""
        self.threads.begin()
        self._watch = None

    def use(self) -> None:
        """Raise `ClosedError` unless the store is open."""
        if self.is_closed:
            raise ClosedError(f"the store {self.store.path} is closed: open it again with aio.connect()")

    def watch(self) -> Watch:
        """The watch of the running loop."""
        loop = asyncio.get_running_loop()
        if self._watch is None or self._watch.loop is not loop:
            self._abandon_closed_loop()
            self._watch = Watch(self.engine, loop)
        return self._watch

    def may_look(self) -> bool:
        """Whether a look-up in the index would begin at once."""
        return not self.engine._needs_reopening and not self.engine.index.gate.locked()

    async def until_may_look(self) -> None:
        """Wait until it would: a backup has the index to itself while it copies it, a forked child opens it anew."""
        if self.engine._needs_reopening:
            await self.threads.call(self.engine.use)
        for _ in range(TURNS):
            if self.may_look():
                return
            await asyncio.sleep(0)
        while not self.may_look():
            await self.threads.call(self._pass_gate)

    def _pass_gate(self) -> None:
        with self.engine.index.gate:
            pass

    def close(self) -> None:
        """Nothing may be begun any more; whoever waits is told."""
        self.is_closed = True
        self._abandon_closed_loop()
        if self._watch is not None:
            with contextlib.suppress(RuntimeError):
                self._watch.wake_all()

    def _abandon_closed_loop(self) -> None:
        if self._watch is not None and self._watch.loop.is_closed():
            self._watch.abandon()
