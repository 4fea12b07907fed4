"""Steps: what a group's member does under a lock, by a thread, one step after another; and its waiting, by the loop.

The synchronous member does the work. Where it would wait it raises `NothingYet`, which names the logs to wait for; the
loop then watches the wake-up socket, and has the step done again when there may be something. A step whose task was
cancelled is done all the same, so another follows it that puts back what it took: nobody got that.
"""

import asyncio
import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from typing import Any, Final, NoReturn, TypeVar

from kafkalite.aio.host import Host
from kafkalite.aio.threads import outcome
from kafkalite.clock import Deadline
from kafkalite.errors import ClosedError, ConcurrentUseError

T = TypeVar("T")

CANCELLED: Final = (asyncio.CancelledError, GeneratorExit)
"""What ends a task, or a coroutine that nobody goes on with, where it waits."""


class NothingYet(Exception):  # noqa: N818  (a signal between two steps, not an error)
    """There is nothing to hand out until one of these logs grows, `ready()` says so, or the deadline passes."""

    def __init__(self, log_ids: Iterable[int], ready: Callable[[], bool], deadline: Deadline) -> None:
        super().__init__()
        self.log_ids = list(log_ids)
        self.ready = ready
        self.deadline = deadline


def nothing_yet(log_ids: Iterable[int], ready: Callable[[], bool], deadline: Deadline) -> NoReturn:
    """In place of `Wakeup.wait`: say what the thread would wait for."""
    raise NothingYet(log_ids, ready, deadline)


class Steps:
    """The steps of one member, or of a transaction. `name` says whose, in errors."""

    def __init__(self, host: Host, name: str) -> None:
        self._host = host
        self._name = name
        self._begin_anew()
        host.engine.after_fork(self._begin_anew)

    def _begin_anew(self) -> None:
        """No step is under way: at first, and in a forked child, which has none of the parent's threads."""
        self._last: Future[Any] | None = None
        self._is_taking = False

    @property
    def is_idle(self) -> bool:
        """Whether no step is under way: until the next one begins the member is the loop's."""
        return self._last is None or self._last.done()

    @property
    def are_over(self) -> bool:
        """Whether the store is being closed, and none can be begun."""
        return self._host.threads.is_closed

    async def do(self, work: Callable[[], T]) -> T:
        """Have it done after what was begun before; cancelled it is done all the same."""
        return await outcome(self.begin(work))

    def begin(self, work: Callable[[], T]) -> "Future[T]":
        """Have it done after what was begun before, whoever still waits for that."""
        self._last = done = self._host.threads.start(functools.partial(_after, self._last, work))
        return done

    def begin_if_open(self, work: Callable[[], object]) -> None:
        """As `begin`, when the task is being cancelled; closing the store does the same."""
        with contextlib.suppress(ClosedError):
            self.begin(work)

    async def take(self, take: Callable[[float | None], T], timeout: float | None, put_back: Callable[[], object]) -> T:
        """What a step takes in hand, given the seconds that are left; waits in the loop while there is nothing.

        Cancelled, nobody gets what the step took: `put_back` is the next step then.
        """
        deadline = Deadline(timeout)
        with self.one_task():
            while True:
                self._host.use()
                try:
                    return await self.do(functools.partial(take, deadline.timeout()))
                except CANCELLED:
                    self.begin_if_open(put_back)
                    raise
                except NothingYet as nothing:
                    log_ids, is_there, soonest = nothing.log_ids, nothing.ready, nothing.deadline
                await self._host.watch().until(log_ids, functools.partial(self._ready, is_there), soonest)

    def _ready(self, is_there: Callable[[], bool]) -> bool:
        self._host.use()
        return not self._host.may_look() or is_there()  # who may not look now has a thread look

    @contextlib.contextmanager
    def one_task(self) -> Iterator[None]:
        """A block that takes records; raises `ConcurrentUseError` when another task is in it."""
        if self._is_taking:
            raise ConcurrentUseError(f"another task takes records as this {self._name}: make a member for each")
        self._is_taking = True
        try:
            yield
        finally:
            self._is_taking = False


def _after(previous: "Future[Any] | None", work: Callable[[], T]) -> T:
    if previous is not None:
        wait([previous])
    return work()
