"""A child process of the demo: a program `python -m kafkalite.demo.<name>` that answers in one line of JSON.

Real processes, started from nothing, so that all they share with this one is the store. Each stands in a process
group of its own: Ctrl-C at the terminal reaches the demo alone, which then ends its children (leaving the `with`
block kills a child that still runs). If the demo itself is killed, its children notice and end: readers by the end
of their input, writers by their parent's pid, checkers when they are done.

A child that fails says why on its standard error; that becomes the message of `DemoFailedError` here.
"""

import json
import os
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import kafkalite
from kafkalite.demo import DemoFailedError

ANSWER_TIMEOUT_S: Final = 120.0


class Child:
    """One child process, running the program `name` of this package with `arguments`."""

    def __init__(self, name: str, *arguments: object) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", f"kafkalite.demo.{name}", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=_environment(),
            process_group=0,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    def await_line(self) -> str:
        """The next line of the child's standard output; raises `DemoFailedError` if it ends instead."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self._fail(*self._end())
        return line.rstrip("\n")

    def say(self, line: str) -> None:
        """A line for the child's standard input; that a child has ended is noticed in `answer`."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{line}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return

    def answer(self) -> Any:
        """Wait for the child's end and return what it printed last, decoded from JSON."""
        output, complaint = self._end()
        if self.process.returncode != 0 or not output:
            self._fail(output, complaint)
        return json.loads(output.splitlines()[-1])

    def is_running(self) -> bool:
        """Whether the child has not ended."""
        return self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL: no handler, no flush, no goodbye."""
        if self.is_running():
            self.process.send_signal(signal.SIGKILL)
        self.process.communicate()

    def _end(self) -> tuple[str, str]:
        try:
            return self.process.communicate(timeout=ANSWER_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise DemoFailedError(f"{self.name} gave no answer within {ANSWER_TIMEOUT_S:g} s") from None

    def _fail(self, output: str, complaint: str) -> None:
        said = (complaint or output).strip() or "nothing"
        raise DemoFailedError(f"{self.name} ended with status {self.process.returncode}, saying: {said}")


def _environment() -> dict[str, str]:
    """This environment, in which the child finds the kafkalite that runs here, installed or not.

    `-P` keeps the working directory out of it: a `json.py` that happens to lie there is not ours to import.
    """
    home = str(Path(kafkalite.__file__).parent.parent)
    if home == sysconfig.get_path("purelib"):
        return dict(os.environ)  # found anyway; in PYTHONPATH it would come before the standard library
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))}
