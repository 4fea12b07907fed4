"""Waiting until a log grows, across processes, without polling.

Who waits binds a UNIX datagram socket in `run/`, arms the log's byte in the shared page, looks once more whether
there is something, and sleeps on the socket for at most a second. Whoever publishes looks at the byte: usually 0, and
that is all it costs; when it is 1 he clears it and pokes every socket in `run/`. The order (bind, arm, look; publish,
disarm if armed, list) leaves no gap in which a wake-up is lost; the second is for what is killed between.

A socket's path may be 108 bytes long, a store's directory longer: it is named relative to a directory descriptor.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kafkalite import clock, disk
from kafkalite.clock import Deadline
from kafkalite.storage.page import SharedPage

if TYPE_CHECKING:
    import socket

LONGEST_SLEEP: Final = 1.0
POLL_SLEEP: Final = 0.01
_SUFFIX: Final = ".wait"


class Wakeup:
    """The wake-ups of one store in one process."""

    def __init__(self, directory: Path | None, page: SharedPage) -> None:
        self._directory = directory
        self.page = page
        self._fd = disk.open_directory(directory) if directory else -1
        self._numbers = itertools.count()

    def poke(self, log_ids: Iterable[int]) -> None:
        """Wake whoever waits for one of these logs; called after they were published."""
        sleepers = [log_id for log_id in log_ids if self.page.disarm(log_id)]
        if sleepers:
            self._poke_all()

    def _poke_all(self) -> None:
        if self._directory is None:
            return
        import socket  # noqa: PLC0415  (when somebody first sleeps, or is woken)

        sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            sender.setblocking(False)
            for path in self._directory.glob(f"*{_SUFFIX}"):
                try:
                    sender.sendto(b"", self._address(path.name))
                except ConnectionRefusedError:  # its process was killed
                    disk.unlink(path)
                except OSError:  # gone, or it has wake-ups enough to read
                    continue
        finally:
            sender.close()

    def wait(self, log_ids: Iterable[int], ready: Callable[[], bool], deadline: Deadline) -> bool:
        """Sleep until `ready()`; False when the deadline passes first. `ready` is asked after every wake-up."""
        logs = list(log_ids)
        if ready():
            return True
        with contextlib.closing(self.sleeper()) as sleeper:
            while True:
                sleeper.arm(logs)
                if ready():
                    return True
                if deadline.passed():
                    return False
                sleeper.sleep(deadline.left())

    def sleeper(self) -> "Sleeper":
        """What somebody needs who waits in his own way: see `wait` for the order of its calls."""
        return Sleeper(self.page, *self._bind())

    def _bind(self) -> "tuple[socket.socket | None, Path | None]":
        if self._directory is None:
            return None, None
        import socket  # noqa: PLC0415  (as above)

        name = f"{disk.process_id()}-{next(self._numbers)}{_SUFFIX}"
        receiver = None
        try:
            receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            receiver.bind(self._address(name))
        except OSError:  # no room for a socket: poll
            if receiver is not None:
                receiver.close()
            return None, None
        return receiver, self._directory / name

    def _address(self, name: str) -> str:
        return f"/proc/self/fd/{self._fd}/{name}"

    def close(self) -> None:
        if self._fd >= 0:
            disk.close(self._fd)
            self._fd = -1


class Sleeper:
    """One that waits: a socket in `run/`, readable once a log that was armed has grown.

    In this order, again and again: `arm`, look whether there is something, then sleep: in `sleep`, or in an event loop
    that watches `fileno` for at most `longest` seconds and then calls `drain`. `close` in any case. Without a socket
    (`fileno` is -1) sleeping is polling.
    """

    def __init__(self, page: SharedPage, receiver: "socket.socket | None", path: Path | None) -> None:
        self._page = page
        self._receiver = receiver
        self._path = path
        self._owner = disk.process_id()
        if receiver is not None:
            receiver.setblocking(False)

    @property
    def longest(self) -> float:
        """Seconds after which to look again, poked or not."""
        return POLL_SLEEP if self._receiver is None else LONGEST_SLEEP

    def fileno(self) -> int:
        """The socket's descriptor, or -1."""
        return -1 if self._receiver is None else self._receiver.fileno()

    def arm(self, log_ids: Iterable[int]) -> None:
        """Have it poked when one of these logs grows; holds until then."""
        for log_id in log_ids:
            self._page.arm(log_id)

    def sleep(self, seconds: float) -> None:
        """Sleep until it is poked, and not longer than `seconds` or `longest`."""
        seconds = min(seconds, self.longest)
        if self._receiver is None:
            clock.sleep(seconds)
            return
        self._receiver.settimeout(max(seconds, 1e-6))
        with contextlib.suppress(TimeoutError):
            self._receiver.recv(1)

    def drain(self) -> None:
        """Take the pokes that have come."""
        with contextlib.suppress(BlockingIOError):
            while self._receiver is not None:
                self._receiver.recv(1)

    def close(self) -> None:
        """Let the socket go; in a forked child its name stays, which is the parent's."""
        if self._receiver is not None:
            self._receiver.close()
        if self._path is not None and self._owner == disk.process_id():
            disk.unlink(self._path)
        self._receiver = self._path = None
