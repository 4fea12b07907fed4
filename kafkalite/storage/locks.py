"""Locks between processes: open-file-description byte ranges on the journal's identity.

They lie at byte 2^61 and beyond of the file `superblock`, or of the single file: on the inode that holds the truth,
so no deleted index, no second name and no other code in the process can make two of them. A lock belongs to the open
file description: threads that share it would all be let in, so each lock has an in-process one, `threads`, which
always comes first.

    byte  lock      held by
       0  OPEN      shared, by every process that has the store open; exclusively, by who must be alone
       1  RECOVER   who opens or closes
       2  CLEANER   who cleans
       3  FLUSH     who leads a flush
       4  SPARE     who prepares the next segment
       5  WRITE     who appends, or writes the index at all
       6  SERVER    who serves the store
    1024  slots     1,024 of them, one for each process that has members

Taken in this order, let go in any. Every one is polled with back-off, never waited for inside the kernel: Ctrl-C
works, and a time limit holds. A holder writes its pid into the shared page, so that who waits in vain can say for whom.
"""

import contextlib
import functools
import itertools
import operator
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from kafkalite import clock, disk
from kafkalite.clock import Deadline
from kafkalite.errors import ClosedError, StoreBusyError
from kafkalite.storage.page import SharedPage

FIRST_BYTE: Final = 1 << 61
OPEN, RECOVER, CLEANER, FLUSH, SPARE, WRITE, SERVER = range(7)
NAMES: Final = ("open", "recover", "cleaner", "flush", "spare", "write", "server")
FIRST_SLOT: Final = 1024
YIELDS: Final = 4
SHORTEST_SLEEP: Final = 20e-6
LONGEST_SLEEP: Final = 2e-4


_call: Callable[[Callable[[], object]], object] = operator.call


def is_free_within(threads: threading.Lock, timeout: float | None) -> bool:
    """Wait until an in-process lock is free; False after `timeout` seconds.

    Then take it by `with`: only C runs between that taking it and the block, and here between taking and letting go, so
    that no Ctrl-C can leave it held. (A timed `acquire` in Python has such a gap.)
    """
    if not threads.locked():
        return True
    acquire = functools.partial(threads.acquire, True, -1 if timeout is None else timeout)
    calls: Iterable[Callable[[], object]] = (acquire, threads.release)
    return bool(list(itertools.takewhile(bool, map(_call, calls))))


class RangeLock:
    """One exclusive lock. Hold `threads` first, `lock` inside `try`, `unlock` in its `finally` whatever happened."""

    def __init__(self, fd: int, number: int, page: SharedPage | None) -> None:
        self.name = NAMES[number]
        self.threads = threading.Lock()
        self.is_closed = False
        """Set under `threads` when the store is closed: the descriptor may be another file's by now."""
        self._number = number
        self._page = page
        self._note = page.holder_setter(number) if page is not None else None
        self._take = disk.lock_call(fd, FIRST_BYTE + number)
        self.unlock = disk.unlock_call(fd, FIRST_BYTE + number)
        """Let it go; harmless when it is not held."""

    def try_lock(self) -> bool:
        """Take it now, or return False."""
        try:
            self._take()
        except OSError as error:
            if error.errno in disk.LOCK_CONFLICTS:
                return False
            raise
        if self._note is not None:
            self._note()
        return True

    def lock(self, timeout: float | None) -> None:
        """Take it, polling; raises `StoreBusyError` naming the holder after `timeout` seconds."""
        try:
            self._take()
        except OSError:
            self._poll(Deadline(timeout))
        if self._note is not None:
            self._note()

    def _poll(self, deadline: Deadline) -> None:
        for _ in range(YIELDS):
            if self.try_lock():
                return
            clock.sleep(0)
        pause = SHORTEST_SLEEP
        while not self.try_lock():
            if deadline.passed():
                raise StoreBusyError(self.busy())
            clock.sleep(min(pause, deadline.left()))
            pause = min(pause * 1.5, LONGEST_SLEEP)

    @contextlib.contextmanager
    def held(self, deadline: Deadline) -> Iterator[None]:
        """Both locks for a block, where microseconds do not count."""
        if not is_free_within(self.threads, deadline.timeout()):
            raise StoreBusyError(f"another thread of this process holds the store's {self.name} lock: allow more time")
        with self.threads:
            self.refuse_closed()
            try:
                self.lock(deadline.timeout())
                yield
            finally:
                self.unlock()

    def refuse_closed(self) -> None:
        """Raise `ClosedError` when the store was closed; under `threads`."""
        if self.is_closed:
            raise ClosedError("the store was closed meanwhile: open it again")

    def busy(self) -> str:
        """Who has it, for an error message."""
        pid = self._page.holder(self._number) if self._page is not None else 0
        whose = f"process {pid} ({disk.process_state(pid)})" if pid else "another process"
        return (
            f"the store's {self.name} lock is held by {whose}: continue or end that process (kill -CONT "
            f"{pid or 'PID'}), "
            "or allow more time"
        )


class OpenLock:
    """OPEN: a share for the life of an open store, exclusive for who must be alone. Under RECOVER."""

    def __init__(self, fd: int) -> None:
        self._share = disk.lock_call(fd, FIRST_BYTE + OPEN, exclusive=False)
        self._exclusive = disk.lock_call(fd, FIRST_BYTE + OPEN)
        self.release = disk.unlock_call(fd, FIRST_BYTE + OPEN)

    def try_alone(self) -> bool:
        """Make it exclusive if nobody else has a share."""
        return disk.is_taken(self._exclusive)

    def share(self) -> bool:
        """Take a share, or turn the exclusive hold into one."""
        return disk.is_taken(self._share)


class Locks:
    """The locks of one store, on one descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.open = OpenLock(fd)
        self.recover = RangeLock(fd, RECOVER, None)

    def attach(self, page: SharedPage) -> None:
        """Make the locks whose holders stand in the shared page."""
        self.flush = RangeLock(self._fd, FLUSH, page)
        self.spare = RangeLock(self._fd, SPARE, page)
        self.write = RangeLock(self._fd, WRITE, page)

    def close(self) -> None:
        """Nobody takes a lock any more; the caller holds all `threads`."""
        for lock in (self.flush, self.spare, self.write):
            lock.is_closed = True
