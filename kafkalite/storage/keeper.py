"""The keeper: one daemon thread of a process that does what is due, only while something is.

It commits batches whose linger is over, flushes at the interval, prepares the next segment. No user code runs in it.
A task is asked for with a delay, runs once, and logs what it raises: whoever needs its outcome looks for himself.
"""

import heapq
import itertools
import threading
from collections.abc import Callable
from typing import Final

from kafkalite import clock
from kafkalite.log import log

IDLE_SECONDS: Final = 5.0


class Keeper:
    """Tasks by the time they are due."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._tasks: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None

    def after(self, seconds: float, task: Callable[[], None]) -> None:
        """Run `task` once, `seconds` from now."""
        entry = (clock.monotonic() + seconds, next(self._numbers), task)
        with self._changed:
            heapq.heappush(self._tasks, entry)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="kafkalite-keeper", daemon=True)
                self._thread.start()
            elif self._tasks[0] is entry:
                self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                task = self._next()
                if task is None:
                    self._thread = None
                    return
            try:
                task()
            except BaseException:  # noqa: BLE001  (the keeper outlives whatever its tasks raise)
                log().exception("a task of the keeper failed")
            del task

    def _next(self) -> Callable[[], None] | None:
        """The next task, once it is due; None when there was nothing to do for a while."""
        while True:
            if not self._tasks:
                if not self._changed.wait(IDLE_SECONDS) and not self._tasks:
                    return None
                continue
            left = self._tasks[0][0] - clock.monotonic()
            if left <= 0:
                return heapq.heappop(self._tasks)[2]
            self._changed.wait(left)


_keeper = Keeper()


def after(seconds: float, task: Callable[[], None]) -> None:
    """Ask this process's keeper to run `task` once, `seconds` from now."""
    _keeper.after(seconds, task)


def forget() -> None:
    """In a forked child: the thread is not there, its tasks are the parent's."""
    global _keeper  # noqa: PLW0603  (one for a process, and this is a new process)
    _keeper = Keeper()
