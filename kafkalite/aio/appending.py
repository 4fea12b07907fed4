"""Group commit for tasks: what they append while one commit is under way goes into the next one, together.

Each append has an outcome of its own. Those that came together are first tried as one commit, which costs one flush;
when that is refused (an `expected_end_offset`, a deleted topic) nothing of it was written, and each half is tried.
One thread commits at a time, so what a task appended first is first.
"""

import asyncio
import itertools
import threading
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Final

from kafkalite.aio.threads import Threads, tell_loop
from kafkalite.errors import ClosedError
from kafkalite.storage.commit import Append, Operation
from kafkalite.storage.engine import Engine

GROUP_BYTES: Final = 16 * 1024 * 1024


class _Request:
    """What one task appends, the loop in which it waits, and what came of it."""

    __slots__ = ("appends", "error", "known", "loop", "offsets", "size")

    def __init__(self, appends: Sequence[Append], loop: asyncio.AbstractEventLoop) -> None:
        self.appends = appends
        self.loop = loop
        self.known: asyncio.Future[Sequence[int]] = loop.create_future()
        self.size = sum(len(append.batch.payload) for append in appends)
        self.offsets: Sequence[int] = ()
        self.error: BaseException | None = None

    def tell(self) -> None:
        """In its loop: wake the task, unless it was cancelled."""
        if self.known.done():
            return
        if self.error is None:
            self.known.set_result(self.offsets)
        else:
            self.known.set_exception(self.error)


class Appender:
    """Commits what the tasks of one store append."""

    def __init__(self, engine: Engine, threads: Threads) -> None:
        self._engine = engine
        self._threads = threads
        self._begin()
        engine.after_fork(self._begin)

    def _begin(self) -> None:
        """Begin empty: at first, and in a forked child, whose parent commits what it was given."""
        self._guard = threading.Condition(threading.Lock())
        self._requests: deque[_Request] = deque()
        self._is_running = False
        self._due_in: asyncio.AbstractEventLoop | None = None

    async def commit(self, appends: Sequence[Append]) -> Sequence[int]:
        """One atomic commit; returns each batch's base offset. A cancelled task's batches are committed all the same.

        Raises what `Engine.commit` does.
        """
        loop = asyncio.get_running_loop()
        request = _Request(appends, loop)
        with self._guard:
            self._requests.append(request)
        if self._due_in is not loop:
            self._due_in = loop
            loop.call_soon(self._turn_is_over)
        return await request.known

    def _turn_is_over(self) -> None:
        """All tasks that were ready have appended: hand it over, unless a thread is at it anyway."""
        self._due_in = None
        with self._guard:
            if self._is_running or not self._requests:
                return
            self._is_running = True
        try:
            self._threads.start(self._run)
        except ClosedError:  # who closes finishes what there is
            with self._guard:
                self._is_running = False
                self._guard.notify_all()

    def finish(self) -> None:
        """In a thread: return when all that was asked for so far has been committed or has failed."""
        with self._guard:
            self._guard.wait_for(lambda: not self._is_running)
            self._is_running = True
        self._run()

    def _run(self) -> None:
        """In a thread: commit until nothing is left."""
        while requests := self._next():
            self._commit(requests)
            _tell(requests)

    def _next(self) -> list[_Request]:
        """The first requests, as many as go into one commit; none ends the run."""
        with self._guard:
            chosen: list[_Request] = []
            size = 0
            while self._requests and (not chosen or size + self._requests[0].size <= GROUP_BYTES):
                chosen.append(self._requests.popleft())
                size += chosen[-1].size
            if not chosen:
                self._is_running = False
                self._guard.notify_all()
        return chosen

    def _commit(self, requests: Sequence[_Request]) -> None:
        """As one commit; when that is refused, which leaves nothing of it, each half as one."""
        operation = Operation([append for request in requests for append in request.appends])
        try:
            self._engine.commit(operation)
        except BaseException as error:  # noqa: BLE001  (every task is told)
            if error is operation.error and len(requests) > 1:
                middle = len(requests) // 2
                self._commit(requests[:middle])
                self._commit(requests[middle:])
                return
            for request in requests:
                request.error = error
            return
        offsets = iter(operation.offsets)
        for request in requests:
            request.offsets = list(itertools.islice(offsets, len(request.appends)))


def _tell(requests: Sequence[_Request]) -> None:
    """Wake the tasks: one call for each loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Request]] = defaultdict(list)
    for request in requests:
        by_loop[request.loop].append(request)
    for loop, theirs in by_loop.items():
        tell_loop(loop, _tell_here, theirs)


def _tell_here(requests: Sequence[_Request]) -> None:
    for request in requests:
        request.tell()
