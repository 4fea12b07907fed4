"""`kafkalite work`: as its users start it, a process of its own with workers of its own."""

import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import kafkalite

from .conftest import Run

HANDLERS = """
import logging, os, pathlib, time

def handle(record):
    logging.info("handling %s", record.value)

def wait(record):
    logging.info("began %s", record.value)
    while not pathlib.Path("release").exists():
        time.sleep(0.01)

class Desk:
    @staticmethod
    def fail(record):
        raise ValueError("no")
"""
PATIENCE_S = 60


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "handlers.py").write_text(HANDLERS)
    return tmp_path


def started(directory: Path, orders: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "kafkalite", "work", "-s", str(orders), *arguments, "-g", "g", "-t", "orders"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=directory,
        env={**os.environ, "PYTHONPATH": str(Path(kafkalite.__file__).parent.parent), "TERM": "xterm"},
    )  # fmt: skip


@pytest.fixture
def waiting(directory: Path, orders: Path) -> Iterator["subprocess.Popen[str]"]:
    """A worker that has begun with its first record, which it finishes once there is a file `release`."""
    with started(directory, orders, "handlers:wait") as process:
        assert process.stderr is not None
        process.seen = ""  # type: ignore[attr-defined]
        for line in process.stderr:
            process.seen += line  # type: ignore[attr-defined]
            if "began" in line:
                break
        yield process
        process.kill()


def worker_of(process: "subprocess.Popen[str]") -> int:
    found = re.search(r"worker 1 is at work \(process (\d+)\)", process.seen)  # type: ignore[attr-defined]
    assert found
    return int(found[1])


def test_burst_handles_all_that_there_is_and_ends(directory: Path, orders: Path) -> None:
    with started(directory, orders, "handlers:handle", "--burst", "-p", "2", "--value", "str") as process:
        output, log = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, output) == (0, "")
    assert sorted(re.findall(r"\[root\] \[INFO\] handling (\w)", log)) == ["a", "b", "c", "d", "e"]
    assert re.search(r"5 records handled in \d+", log.splitlines()[-1])
    assert "\x1b" not in log


def test_failure_is_one_line_and_status_1(directory: Path, orders: Path) -> None:
    with started(directory, orders, "handlers:Desk.fail", "--retries", "0") as process:
        _, log = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert re.match(r"kafkalite: 'orders', partition \d, offset 0 failed 1 times.*no", log.splitlines()[-1])
    assert "Traceback" not in log


def test_failed_records_go_to_the_dead_letter_topic(directory: Path, orders: Path) -> None:
    with kafkalite.connect(orders) as store:
        store.topic("failed")
    arguments = ("handlers:Desk.fail", "--retries", "0", "--dead-letter", "failed", "--burst")
    with started(directory, orders, *arguments) as process:
        _, log = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert "0 records handled" in log.splitlines()[-1]
    assert "5 dead letters" in log.splitlines()[-1]
    with kafkalite.connect(orders) as store:
        assert sorted(record.value or b"" for record in store.topic("failed").read()) == [b"a", b"b", b"c", b"d", b"e"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_first_signal_finishes_the_record_in_hand_with_status_0(
    waiting: "subprocess.Popen[str]", directory: Path, number: signal.Signals
) -> None:
    waiting.send_signal(number)
    assert waiting.stderr is not None
    assert any("a second signal ends at once" in line for line in waiting.stderr)
    (directory / "release").touch()
    _, log = waiting.communicate(timeout=PATIENCE_S)
    assert waiting.returncode == 0
    assert "1 record handled" in log


def test_second_signal_ends_at_once(waiting: "subprocess.Popen[str]") -> None:
    waiting.send_signal(signal.SIGINT)
    assert waiting.stderr is not None
    assert any("a second signal ends at once" in line for line in waiting.stderr)
    waiting.send_signal(signal.SIGINT)
    waiting.communicate(timeout=PATIENCE_S)
    assert waiting.returncode == 130
    assert not is_running(worker_of(waiting))


def test_workers_end_when_their_supervisor_was_killed(waiting: "subprocess.Popen[str]", directory: Path) -> None:
    waiting.kill()
    (directory / "release").touch()
    patience = time.monotonic() + PATIENCE_S
    while is_running(worker_of(waiting)):
        assert time.monotonic() < patience
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_terminal_shows_the_workers_and_the_lag(directory: Path, orders: Path) -> None:
    leader, follower = pty.openpty()
    home = str(Path(kafkalite.__file__).parent.parent)
    command = [sys.executable, "-m", "kafkalite", "work", "-s", str(orders), "handlers:handle", "--burst"]
    with subprocess.Popen(
        [*command, "-g", "g", "-t", "orders"],
        stdout=follower,
        stderr=follower,
        stdin=follower,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": home, "TERM": "xterm", "COLUMNS": "120"},
    ):
        os.close(follower)
        shown = b""
        while chunk := read_terminal(leader):
            shown += chunk
    os.close(leader)
    assert b"in hand" in shown
    assert re.search(rb"5 handled, [\d,]+/s, lag 0", shown)


def read_terminal(leader: int) -> bytes:
    """What the program wrote next; nothing once it has ended (Linux says EIO then)."""
    try:
        return os.read(leader, 65536)
    except OSError:
        return b""


@pytest.mark.parametrize(
    ("handler", "status", "why"),
    [
        ("handlers", 2, "is not MODULE:FUNCTION"),
        ("nowhere:handle", 1, "there is no module 'nowhere'"),
        ("handlers:handel", 1, "did you mean 'handle'?"),
        ("handlers:HANDLE", 1, "name a function at its top"),
        ("handlers:os", 1, "give a function that takes a record"),
    ],
)
def test_handler_that_is_not_there_is_told(
    run: Run, directory: Path, orders: Path, monkeypatch: pytest.MonkeyPatch, handler: str, status: int, why: str
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "handlers", raising=False)
    done = run("work", "-s", orders, handler, "-g", "g", "-t", "orders", "--path", directory)
    assert (done.exit_code, why in " ".join(done.stderr.split())) == (status, True), done.stderr


def test_unknown_topic_is_told_with_a_hint(run: Run, directory: Path, orders: Path) -> None:
    done = run("work", "-s", orders, "handlers:handle", "-g", "g", "-t", "order", "--path", directory)
    assert (done.exit_code, "did you mean 'orders'?" in done.stderr) == (1, True)
