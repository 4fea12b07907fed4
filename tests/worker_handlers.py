"""Handlers for worker processes, which import them: light; the environment says where to write down what they do.

One line per event, appended to a file: "began VALUE PID", "handled VALUE PID".
"""

import os
import signal
import time
from pathlib import Path
from typing import Any

DIRECTORY = "KAFKALITE_TEST_DIRECTORY"
PATIENCE_S = 20


def directory() -> Path:
    return Path(os.environ[DIRECTORY])


def note(what: str, record: Any) -> None:
    with (directory() / "events").open("ab", buffering=0) as file:
        file.write(f"{what} {record.value.decode()} {os.getpid()}\n".encode())


def events() -> list[list[str]]:
    path = directory() / "events"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def values(what: str) -> list[str]:
    return [value for kind, value, _ in events() if kind == what]


def handle(record: Any) -> None:
    note("began", record)
    note("handled", record)


def handle_slowly(record: Any) -> None:
    time.sleep(0.003)
    note("handled", record)


def wait_for_another(record: Any) -> None:
    """Handle a record once two processes have begun with one."""
    note("began", record)
    patience = time.monotonic() + PATIENCE_S
    while len({pid for _, _, pid in events()}) < 2:
        assert time.monotonic() < patience
        time.sleep(0.005)
    note("handled", record)


def fail_at_bad(record: Any) -> None:
    note("began", record)
    if record.value == b"bad":
        raise ValueError("this one is bad")
    note("handled", record)


def fail_twice_at_bad(record: Any) -> None:
    note("began", record)
    if record.value == b"bad" and values("began").count("bad") <= 2:
        raise ValueError("not yet")
    note("handled", record)


def die_of_bad(record: Any) -> None:
    note("began", record)
    if record.value == b"bad":
        os.kill(os.getpid(), signal.SIGKILL)
    note("handled", record)


def exit_at_bad(record: Any) -> None:
    note("began", record)
    if record.value == b"bad":
        raise SystemExit(5)
    note("handled", record)


def wait_for_release(record: Any) -> None:
    note("began", record)
    patience = time.monotonic() + PATIENCE_S
    while not (directory() / "release").exists():
        assert time.monotonic() < patience
        time.sleep(0.005)
    note("handled", record)


def reset_at_bad(record: Any) -> None:
    """Of numbers: handle those that can be decoded at all."""
    with (directory() / "events").open("ab", buffering=0) as file:
        file.write(f"handled {record.value} {os.getpid()}\n".encode())


async def asynchronous(record: Any) -> None:
    handle(record)
