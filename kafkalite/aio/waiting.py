"""Waiting in a loop until a log grows: the loop watches the wake-up socket, and no thread waits.

All tasks of a loop that wait for one store share a socket, which is there while any of them waits. A poke wakes them
all, and each looks for himself: which logs grew the poke does not say.
"""

import asyncio
import functools
from collections.abc import Callable, Sequence

from kafkalite.clock import Deadline
from kafkalite.storage.engine import Engine
from kafkalite.storage.wakeup import Sleeper


class Watch:
    """The tasks of one loop that wait for one store."""

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._engine = engine
        self._waiting = 0
        self._sleeper: Sleeper | None = None
        self._asleep: set[asyncio.Future[None]] = set()

    async def until(self, log_ids: Sequence[int], ready: Callable[[], bool], deadline: Deadline) -> bool:
        """Sleep until `ready()`, asked after every wake-up; False when the deadline passes first."""
        sleeper = self._enter()
        try:
            while True:
                sleeper.arm(log_ids)
                if ready():
                    return True
                if deadline.passed():
                    return False
                await self._sleep(min(deadline.left(), sleeper.longest))
        finally:
            self._leave()

    def wake_all(self) -> None:
        """Have all tasks look again, as the store is being closed."""
        for asleep in self._asleep:
            _wake(asleep)

    def abandon(self) -> None:
        """The loop was closed under those who wait: they will never take the socket away."""
        self._asleep.clear()
        if self._sleeper is not None:
            self._sleeper.close()
            self._sleeper = None

    def _enter(self) -> Sleeper:
        if self._sleeper is None:
            self._sleeper = sleeper = self._engine.wakeup.sleeper()
            if sleeper.fileno() >= 0:
                self.loop.add_reader(sleeper.fileno(), functools.partial(self._poked, sleeper))
        self._waiting += 1
        return self._sleeper

    def _leave(self) -> None:
        """The last one takes the socket away; a loop that was closed watches nothing any more."""
        self._waiting -= 1
        if self._waiting or self._sleeper is None:
            return
        sleeper, self._sleeper = self._sleeper, None
        if sleeper.fileno() >= 0 and not self.loop.is_closed():
            self.loop.remove_reader(sleeper.fileno())
        sleeper.close()

    async def _sleep(self, seconds: float) -> None:
        asleep: asyncio.Future[None] = self.loop.create_future()
        self._asleep.add(asleep)
        timer = self.loop.call_later(seconds, _wake, asleep)
        try:
            await asleep
        finally:
            timer.cancel()
            self._asleep.discard(asleep)

    def _poked(self, sleeper: Sleeper) -> None:
        sleeper.drain()
        self.wake_all()


def _wake(asleep: "asyncio.Future[None]") -> None:
    if not asleep.done():
        asleep.set_result(None)
