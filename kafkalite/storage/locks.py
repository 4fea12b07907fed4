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
import threading
from collections.abc import Iterator
from typing import Final

from kafkalite import clock, disk
from kafkalite.clock import Deadline
from kafkalite.errors import StoreBusyError
from kafkalite.storage.page import SharedPage

FIRST_BYTE: Final = 1 << 61
OPEN, RECOVER, CLEANER, FLUSH, SPARE, WRITE, SERVER = range(7)
NAMES: Final = ("open", "recover", "cleaner", "flush", "spare", "write", "server")
FIRST_SLOT: Final = 1024
YIELDS: Final = 8
SHORTEST_SLEEP: Final = 20e-6
LONGEST_SLEEP: Final = 2e-3


class RangeLock:
    """One exclusive lock. Hold `threads` first, `lock` inside `try`, `unlock` in its `finally` whatever happened."""

    def __init__(self, fd: int, number: int, page: SharedPage | None) -> None:
        self.name = NAMES[number]
        self.threads = threading.Lock()
        self._fd = fd
        self._number = number
        self._page = page
        self._request = disk.lock_request(FIRST_BYTE + number, exclusive=True)
        self._release = disk.unlock_request(FIRST_BYTE + number)

    def try_lock(self) -> bool:
        """Take it now, or return False."""
        if not disk.lock(self._fd, self._request):
            return False
        if self._page is not None:
            self._page.set_holder(self._number)
        return True

    def lock(self, deadline: Deadline) -> None:
        """Take it, polling; raises `StoreBusyError` naming the holder when the deadline passes first."""
        if self.try_lock():
            return
        for _ in range(YIELDS):
            clock.sleep(0)
            if self.try_lock():
                return
        pause = SHORTEST_SLEEP
        while not self.try_lock():
            if deadline.passed():
                raise StoreBusyError(self._busy())
            clock.sleep(min(pause, deadline.left()))
            pause = min(pause * 1.5, LONGEST_SLEEP)

    def unlock(self) -> None:
        """Let it go; harmless when it is not held."""
        disk.unlock(self._fd, self._release)

    @contextlib.contextmanager
    def held(self, deadline: Deadline) -> Iterator[None]:
        """Both locks for a block, where microseconds do not count."""
        with self.threads:
            try:
                self.lock(deadline)
                yield
            finally:
                self.unlock()

    def _busy(self) -> str:
        pid = self._page.holder(self._number) if self._page is not None else 0
        whose = f"process {pid} ({disk.process_state(pid)})" if pid else "another process"
        return (
            f"the store's {self.name} lock is held by {whose}: continue or end that process (kill -CONT {pid or 'PID'}), "
            "or allow more time"
        )


class OpenLock:
    """OPEN: a share for the life of an open store, exclusive for who must be alone. Under RECOVER."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._share = disk.lock_request(FIRST_BYTE + OPEN, exclusive=False)
        self._exclusive = disk.lock_request(FIRST_BYTE + OPEN, exclusive=True)
        self._release = disk.unlock_request(FIRST_BYTE + OPEN)

    def try_alone(self) -> bool:
        """Make it exclusive if nobody else has a share."""
        return disk.lock(self._fd, self._exclusive)

    def share(self) -> bool:
        """Take a share, or turn the exclusive hold into one."""
        return disk.lock(self._fd, self._share)

    def release(self) -> None:
        disk.unlock(self._fd, self._release)


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
