"""Processes by the hundred: forked from the test, 3 ms each where starting an interpreter takes 150.

The test's process is the parent and has no store open when it forks, so a child inherits nothing of the engine. Where
a fork itself is what is tested, or a process must share nothing, `kafkalite.testing.procs` starts a new interpreter.

    child = fork(work, path, 3)          the fixture `fork`: what still runs when the test is over is killed
    child.result()                       what `work` returned; its exception becomes this one's, traceback included
    child.kill()                         SIGKILL; an error if it had ended by itself before

`Board` is memory that parent and children share: whole numbers, each written by one process. It outlives SIGKILL.
"""

import contextlib
import faulthandler
import mmap
import os
import pickle
import select
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from struct import Struct
from typing import Any, Final

from kafkalite import disk

PATIENCE_S: Final = 60.0
"""How long to wait for what must happen: only a hang meets it, not a slow machine."""
_CELL: Final = Struct("<q")
CELLS: Final = 512


class ChildFailedError(AssertionError):
    """A child raised, or ended otherwise than the test expected."""


class Board:
    """Whole numbers, 0 at first, that processes forked after this see at once."""

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, CELLS * _CELL.size)

    def __getitem__(self, cell: int) -> int:
        return int(_CELL.unpack_from(self._map, cell * _CELL.size)[0])

    def __setitem__(self, cell: int, number: int) -> None:
        _CELL.pack_into(self._map, cell * _CELL.size, number)


class Forked:
    """A child that runs `work(*arguments, **named)` and ends, without this process's exit hooks."""

    def __init__(self, work: Callable[..., object], *arguments: object, **named: object) -> None:
        self.status: int | None = None
        self._answer: tuple[bool, Any] | None = None
        self._name = getattr(work, "__name__", str(work))
        self._pipe, end = os.pipe()
        self._trace = os.memfd_create("trace")
        self.pid = os.fork()
        if not self.pid:
            faulthandler.register(signal.SIGUSR1, file=self._trace, all_threads=True)
            _run(end, partial(work, *arguments, **named))
        os.close(end)
        self._pidfd = os.pidfd_open(self.pid)

    def is_running(self) -> bool:
        """Whether it has not ended; a stopped one runs."""
        return self.status is None and not self._wait(0)

    def wait(self, timeout: float = PATIENCE_S) -> int:
        """Wait for its end, return its status: 0, 1 after an exception, negative for a signal."""
        if self.status is None and not self._wait(timeout):
            raise ChildFailedError(
                f"{self._name} in process {self.pid} did not end within {timeout:g} s{self._where()}"
            )
        assert self.status is not None
        return self.status

    def result(self, timeout: float = PATIENCE_S) -> Any:
        """What `work` returned; raises `ChildFailedError` with what it raised, or the signal that ended it."""
        self._listen(timeout)
        status = self.wait(timeout)
        if self._answer is None:
            raise ChildFailedError(f"{self._name} in process {self.pid} ended with status {status}, without an answer")
        is_good, answer = self._answer
        if not is_good:
            raise ChildFailedError(f"{self._name} in process {self.pid} raised\n{answer}")
        return answer

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone; raises `ChildFailedError` if it had ended by itself."""
        self.signal(signal.SIGKILL)
        if self.wait() != -signal.SIGKILL:
            raise ChildFailedError(f"{self._name} ended before it was killed, with {self.result()!r}")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, and wait for nothing."""
        if self.status is None:
            os.kill(self.pid, number)

    def stop(self) -> None:
        """SIGSTOP, and wait until it stands still."""
        self.signal(signal.SIGSTOP)
        self.wait_stopped()

    def wait_stopped(self) -> None:
        """Wait until it stands still, stopped by itself or another; raises `ChildFailedError` if it ends instead."""
        until(lambda: disk.process_state(self.pid) == "stopped" or not self.is_running(), f"{self._name} to stop")
        if not self.is_running():
            raise ChildFailedError(f"{self._name} ended instead of stopping, with {self.result()!r}")

    def resume(self) -> None:
        """SIGCONT."""
        self.signal(signal.SIGCONT)

    def close(self) -> None:
        """Kill it if it still runs, and let go of it."""
        self.signal(signal.SIGKILL)
        self.wait()
        os.close(self._pipe)
        os.close(self._pidfd)
        os.close(self._trace)

    def _where(self) -> str:
        """Where its threads stand, unless it is stopped."""
        self.signal(signal.SIGUSR1)
        time.sleep(0.5)
        return "; it is at\n" + os.pread(self._trace, 1 << 16, 0).decode()

    def _wait(self, timeout: float) -> bool:
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        if not poll.poll(timeout * 1000):
            return False
        _, status = os.waitpid(self.pid, 0)
        self.status = os.waitstatus_to_exitcode(status)
        return True

    def _listen(self, timeout: float) -> None:
        if self._answer is not None:
            return
        poll = select.poll()
        poll.register(self._pipe, select.POLLIN)
        end = time.monotonic() + timeout
        data = b""
        while poll.poll(max(0.0, end - time.monotonic()) * 1000):
            part = os.read(self._pipe, 1 << 20)
            if not part:
                break
            data += part
        else:
            raise ChildFailedError(
                f"{self._name} in process {self.pid} did not answer within {timeout:g} s{self._where()}"
            )
        with contextlib.suppress(EOFError, pickle.UnpicklingError):  # killed in mid-sentence
            self._answer = pickle.loads(data)


def _run(end: int, work: Callable[[], object]) -> None:
    answer: tuple[bool, object]
    try:
        answer = (True, work())
    except BaseException:
        answer = (False, traceback.format_exc())
    try:
        with open(end, "wb") as pipe:
            pickle.dump(answer, pipe)
    finally:
        os._exit(not answer[0])


def results(children: Sequence[Forked], timeout: float = PATIENCE_S) -> list[Any]:
    """What each returned; raises as soon as one fails, not when others have waited for it in vain."""
    until(
        lambda: all(not child.is_running() for child in children) or any(child.status for child in children),
        f"{len(children)} children to end",
        timeout,
    )
    for child in sorted(children, key=lambda child: not child.status):
        child.result(timeout)
    return [child.result(timeout) for child in children]


def until(condition: Callable[[], object], what: str, timeout: float = PATIENCE_S) -> None:
    """Poll until `condition()`; raises `AssertionError` naming `what` after `timeout` seconds."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"waited {timeout:g} s for {what}")
        time.sleep(0.001)


def die_at(step: int, note: Path) -> Callable[[], int]:
    """From now on count this process's steps, and end it by SIGKILL at number `step`, having written the step's name
    to `note`. Returns what tells how many there were.
    """
    count = 0

    def hook(name: str) -> None:
        nonlocal count
        count += 1
        if count == step:
            note.write_text(name)
            os.kill(os.getpid(), signal.SIGKILL)

    disk.on_step = hook
    return lambda: count


def signal_at(name: str, number: signal.Signals, *, after: Callable[[], object] = bool) -> None:
    """Send this process a signal at its next step `name`, once; `after()` is called when it goes on."""

    def hook(step: str) -> None:
        if step == name:
            disk.on_step = None
            os.kill(os.getpid(), number)
            after()

    disk.on_step = hook
