"""Real processes for tests: started from nothing, watched line by line, killed at a chosen moment.

What several processes share is the store, so tests of it need processes that share nothing else: spawned, never
forked, the interpreter's own. `Child` runs a program in one:

    with function("tests.storage.writers:append_for_ever", path, 3) as writer:
        writer.wait_for("ready")
        writer.kill()

A child speaks by printing lines; the test waits for one of them, and what it waits for cannot be missed by coming too
late. All waiting ends: with the line, with the child's end, or after `timeout` seconds (60, so that only a
hang meets it, not a slow machine), and then the error holds all that the child said. Leaving the block kills
what still runs, and what that had started in turn.

`AckFile` is memory outside the store and outside the process: what a writer noted there before SIGKILL is there
after it, so a test can hold the store to every acknowledgement it gave.
"""

import json
import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Condition, Thread
from types import TracebackType
from typing import IO, Final, Self

import kafkalite
from kafkalite.clock import Deadline

PATIENCE_S: Final = 60.0
GRANDCHILD_PATIENCE_S: Final = 5.0
"""How long to listen to pipes that outlive the child, because what it started holds them."""

_CALL: Final = """\
import json, sys
from pkgutil import resolve_name
resolve_name(sys.argv[1])(*json.loads(sys.argv[2]))
"""


class ChildError(AssertionError):
    """A child ended, or kept silent, where the test expected something else of it; holds all that it said."""


class Child:
    """One child process running `command`; `python` and `function` start those that tests need.

    Safe to use from one thread. `env` is added to this process's environment.
    """

    def __init__(self, command: list[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:
        self._said = Condition()
        self._lines: list[str] = []
        self._complaints: list[str] = []
        self._next = 0
        self._open_pipes = 2
        self.process = subprocess.Popen(  # noqa: S603  (the test's own command)
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="backslashreplace",
            env=_environment() | dict(env or {}),
            cwd=cwd,
            process_group=0,  # Ctrl-C at the terminal is for the test alone, and grandchildren can be found
        )
        self._readers = [
            Thread(target=self._listen, args=(pipe, lines), daemon=True)
            for pipe, lines in ((self.process.stdout, self._lines), (self.process.stderr, self._complaints))
        ]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Its process id, and that of its process group."""
        return self.process.pid

    @property
    def lines(self) -> list[str]:
        """What it printed so far, without line ends; all of it once `wait` returned."""
        with self._said:
            return list(self._lines)

    @property
    def complaints(self) -> list[str]:
        """What it wrote to standard error so far."""
        with self._said:
            return list(self._complaints)

    def wait_for(self, start: str, *, timeout: float = PATIENCE_S) -> str:
        """The next line that begins with `start`, passing over others; each line is given once.

        Raises `ChildError` if the child ends first, or after `timeout` seconds.
        """
        deadline = Deadline(timeout)
        with self._said:
            while True:
                for number in range(self._next, len(self._lines)):
                    if self._lines[number].startswith(start):
                        self._next = number + 1
                        return self._lines[number]
                if not self._open_pipes:
                    raise self._failed(f"ended with status {self.process.wait()} before it printed {start!r}")
                if not self._said.wait(min(deadline.left(), 1.0)) and deadline.passed():
                    raise self._failed(f"did not print {start!r} within {timeout:g} s")

    def say(self, line: str) -> None:
        """A line for its standard input; to one that has ended, nothing."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{line}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return

    def is_running(self) -> bool:
        """Whether it has not ended; a stopped one runs."""
        return self.process.poll() is None

    def wait(self, *, timeout: float = PATIENCE_S) -> int:
        """Wait for its end and return its status, negative for a signal; `ChildError` after `timeout` seconds."""
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise self._failed(f"did not end within {timeout:g} s") from None
        for reader in self._readers:
            reader.join(GRANDCHILD_PATIENCE_S)
        return status

    def succeed(self, *, timeout: float = PATIENCE_S) -> list[str]:
        """Wait for its end and return all it printed. Raises `ChildError` unless its status is 0."""
        status = self.wait(timeout=timeout)
        if status:
            raise self._failed(f"ended with status {status}")
        return self.lines

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone: no handler, no flush, no goodbye."""
        self.process.kill()
        self.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, and wait for nothing."""
        self.process.send_signal(number)

    def stop(self) -> None:
        """SIGSTOP, and wait until it stands still, or has ended."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Kill it, if it still runs, with all that it started, and let go of its pipes."""
        if self.is_running():
            os.killpg(self.pid, signal.SIGKILL)  # not yet waited for, so the number is still its own
        self.wait()
        assert self.process.stdin is not None
        try:
            self.process.stdin.close()
        except BrokenPipeError:  # something said to it was never read
            return

    def _listen(self, pipe: IO[str] | None, lines: list[str]) -> None:
        assert pipe is not None
        with pipe:
            for line in pipe:
                with self._said:
                    lines.append(line.rstrip("\n"))
                    self._said.notify_all()
        with self._said:
            self._open_pipes -= 1
            self._said.notify_all()

    def _failed(self, what: str) -> ChildError:
        said = [*(f"  | {line}" for line in self._lines), *(f"  ! {line}" for line in self._complaints)]
        return ChildError("\n".join([f"child {self.pid} {what}; it said:", *(said or ["  nothing"])]))


def python(code: str, *arguments: object, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Child:
    """A child that runs `code`, with `arguments` as strings in `sys.argv[1:]`."""
    return Child([sys.executable, "-u", "-c", code, *map(str, arguments)], env=env, cwd=cwd)


def function(reference: str, *arguments: object, env: Mapping[str, str] | None = None) -> Child:
    """A child that calls `module:function`; arguments travel as JSON, paths as strings."""
    return python(_CALL, reference, json.dumps(arguments, default=os.fspath), env=env)


class AckFile:
    """Lines of whole numbers, in a file that is only ever appended to: one `write` a line, straight to the system.

    Such a line survives the process, not the machine. A writer notes a line after the store has acknowledged; killed
    between the two it leaves one line too few, never one too many. Processes may share the file. A torn last line
    does not count, so another process may read at any moment.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def append(self, *numbers: int) -> None:
        """Note one line, such as partition, offset and checksum."""
        if self._fd is None:
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        line = " ".join(map(str, numbers)).encode() + b"\n"
        written = os.write(self._fd, line)
        assert written == len(line), f"{self.path}: {written} of {len(line)} bytes were written: is the disk full?"

    def read(self) -> Iterator[tuple[int, ...]]:
        """Every whole line so far, in the order of the file; none if there is no file yet."""
        data = self.path.read_bytes() if self.path.exists() else b""
        for line in data.split(b"\n")[:-1]:
            yield tuple(map(int, line.split()))

    def close(self) -> None:
        """Let go of the file; the next `append` opens it again."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _environment() -> dict[str, str]:
    """This environment, in which the child finds the kafkalite that runs here, installed or not.

    Not where it is found anyway: in PYTHONPATH site-packages would come before the standard library.
    """
    home = str(Path(kafkalite.__file__).parent.parent)
    if home == sysconfig.get_path("purelib"):
        return dict(os.environ)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))}
