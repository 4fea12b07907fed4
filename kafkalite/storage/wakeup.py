"""Waiting until a log grows, across processes, without polling.

Who waits binds a UNIX datagram socket in `run/`, arms the log's byte in the shared page, looks once more whether
there is something, and sleeps on the socket for at most a second. Whoever publishes looks at the byte: usually 0, and
that is all it costs; when it is 1 he clears it and pokes every socket in `run/`. The order (bind, arm, look; publish,
disarm, list) leaves no gap in which a wake-up is lost; the second is for what is killed between.

A socket's path may be 108 bytes long, a store's directory longer: it is named relative to a directory descriptor.
"""

import contextlib
import itertools
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from kafkalite import clock, disk
from kafkalite.clock import Deadline
from kafkalite.storage.page import SharedPage

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
        receiver, path = self._bind()
        try:
            while True:
                for log_id in logs:
                    self.page.arm(log_id)
                if ready():
                    return True
                if deadline.passed():
                    return False
                self._sleep(receiver, min(deadline.left(), LONGEST_SLEEP))
        finally:
            if receiver is not None:
                receiver.close()
            if path is not None:
                disk.unlink(path)

    def _bind(self) -> tuple[socket.socket | None, Path | None]:
        if self._directory is None:
            return None, None
        name = f"{disk.process_id()}-{next(self._numbers)}{_SUFFIX}"
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            receiver.bind(self._address(name))
        except OSError:  # no room for a socket: poll
            receiver.close()
            return None, None
        return receiver, self._directory / name

    def _sleep(self, receiver: socket.socket | None, seconds: float) -> None:
        if receiver is None:
            clock.sleep(min(seconds, POLL_SLEEP))
            return
        receiver.settimeout(max(seconds, 1e-6))
        with contextlib.suppress(TimeoutError):
            receiver.recv(1)

    def _address(self, name: str) -> str:
        return f"/proc/self/fd/{self._fd}/{name}"

    def close(self) -> None:
        if self._fd >= 0:
            disk.close(self._fd)
            self._fd = -1
