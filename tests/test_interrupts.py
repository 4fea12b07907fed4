"""Interrupts: writers that are killed or stand still, and Ctrl-C in every call that blocks. In each layout."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kafkalite import Store, StoreBusyError, disk
from kafkalite.testing import procs
from kafkalite.testing.procs import Child

OpenStore = Callable[..., Store]
PROMPT = 20
"""Seconds in which something ends that would otherwise wait for minutes, or for ever."""


@pytest.fixture
def store(open_store: OpenStore, layout: Path | str) -> Store:
    return open_store(layout)


def target(store: Store) -> str:
    """A path that names this store to another process."""
    return str(store.path) if store.path.suffix else f"{store.path}/"


# Writers that end or stand still


HOLDER = """
import os, signal, sys
import kafkalite
from kafkalite import disk

store = kafkalite.connect(sys.argv[1])
topic = store.topic("t")
topic.append(b"before")

def on_step(name):
    if name == sys.argv[2]:
        disk.on_step = None
        print("holds")
        os.kill(os.getpid(), signal.SIGSTOP)

disk.on_step = on_step
topic.append(b"held")
print("done")
input()
"""


def holding(store: Store, step: str = "index commit") -> Child:
    """A writer that stands still before a step of an append, holding the lock of writers."""
    child = procs.python(HOLDER, target(store), step)
    child.wait_for("holds")
    return child


def test_a_stopped_writer_is_named_and_all_goes_on_when_he_does(store: Store) -> None:
    topic = store.topic("t")
    with holding(store) as writer:
        assert [record.value for record in topic.read()] == [b"before"]  # readers go on
        with store.producer(max_block_ms=100, delivery_timeout_ms=100) as producer:
            error = producer.send(topic, b"mine").exception(60)
        assert isinstance(error, StoreBusyError)
        assert isinstance(error, TimeoutError)
        assert f"process {writer.pid} (stopped)" in str(error)
        assert f"kill -CONT {writer.pid}" in str(error)
        writer.resume()
        writer.wait_for("done")
        assert topic.append(b"mine").offset == 2
    assert [record.value for record in topic.read()] == [b"before", b"held", b"mine"]


@pytest.mark.parametrize("step", ["write", "index commit"])
def test_a_killed_writer_leaves_no_lock_and_no_half_record(store: Store, step: str) -> None:
    topic = store.topic("t")
    with holding(store, step) as writer:
        writer.kill()
    assert topic.append(b"mine").offset == 1
    assert [record.value for record in topic.read()] == [b"before", b"mine"]


# Ctrl-C


CTRL_C = """
import signal, sys, time
import kafkalite

signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background hands down that it is ignored
store = kafkalite.connect(sys.argv[1])
topic = store.topic("t")
producer = store.producer(linger_ms=3600000)
print("begins")
try:
    exec(compile(sys.argv[2], "blocked", "exec"))  # of a string, exec would tell Python that nobody caught it
except KeyboardInterrupt:
    print("interrupted")
"""


def interrupted(store: Store, code: str, *, finish: bool = True) -> None:
    """Let a child block in `code`, press Ctrl-C, and see that it ends soon with KeyboardInterrupt."""
    with procs.python(CTRL_C, target(store), code) as child:
        child.wait_for("begins")
        wait_until_asleep(child)
        child.signal(signal.SIGINT)
        child.wait_for("interrupted", timeout=PROMPT)
        if finish:
            assert child.wait(timeout=PROMPT) == 0
        else:
            child.kill()


def wait_until_asleep(child: Child) -> None:
    """Return when the child has slept for a while: it blocks."""
    asleep, end = 0, time.monotonic() + PROMPT
    while asleep < 5 and time.monotonic() < end:
        asleep = asleep + 1 if disk.process_state(child.pid) != "gone" and _sleeps(child.pid) else 0
        time.sleep(0.02)


def _sleeps(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


@pytest.mark.parametrize(
    "code",
    [
        "next(topic.read(start='latest', until=None))",
        "next(store.read([topic], start='latest', until=None))",
    ],
)
def test_ctrl_c_ends_a_follower(store: Store, code: str) -> None:
    store.topic("t").append(b"v")
    interrupted(store, code)
    assert store.topic("t").append(b"after").offset == 1
    assert store.check().ok


BLOCKED = {
    "append": "topic.append(b'mine')",
    "result": "producer.send(topic, b'mine').result()",
    "flush": "producer.send(topic, b'mine'); producer.flush()",
    "close": "producer.send(topic, b'mine'); producer.close()",
    "send_many": "producer.send_many(topic, [b'mine'])",
    "with": "\nwith store.producer(linger_ms=3600000) as mine:\n    mine.send(topic, b'mine')",
    "create": "store.topic('new')",
    "delete": "store.delete_topic('t')",
    "store close": "producer.send(topic, b'mine'); store.close()",
}


@pytest.mark.parametrize("call", BLOCKED)
def test_ctrl_c_ends_a_call_that_waits_for_the_lock_of_a_stopped_writer(
    open_store: OpenStore, tmp_path: Path, call: str
) -> None:
    store = open_store(tmp_path / "s.klite")
    topic = store.topic("t")
    with holding(store) as writer:
        interrupted(store, BLOCKED[call], finish=False)
        writer.resume()
        writer.wait_for("done")
        assert topic.append(b"after").offset >= 2
        assert store.check().ok


FLUSHING = """
import os, signal, sys
import kafkalite
from kafkalite import disk

store = kafkalite.connect(sys.argv[1])

def on_step(name):
    if name == "flush":
        disk.on_step = None
        print("holds")
        os.kill(os.getpid(), signal.SIGSTOP)

disk.on_step = on_step
store.topic("t").append(b"held")
print("done")
input()
"""


# Once broken: interrupted in its producer's flush, it waits a minute for the same leader once more.
@pytest.mark.parametrize("call", ["append", "result", "close", "store close"])
def test_ctrl_c_ends_a_call_that_waits_for_the_flush_of_a_stopped_leader(
    open_store: OpenStore, tmp_path: Path, call: str
) -> None:
    store = open_store(tmp_path / "s.klite")
    topic = store.topic("t")
    with procs.python(FLUSHING, target(store)) as leader:
        leader.wait_for("holds")
        interrupted(store, BLOCKED[call], finish=False)
        leader.resume()
        leader.wait_for("done")
        topic.append(b"after")
        assert [record.value for record in topic.read()][-1] == b"after"
        assert store.check().ok


def test_ctrl_c_ends_a_send_that_waits_for_memory(open_store: OpenStore, tmp_path: Path) -> None:
    store = open_store(tmp_path / "s.klite")
    store.topic("t")
    code = """
small = store.producer(buffer_memory=1000, batch_size=500, linger_ms=3600000)
while True:
    small.send(topic, b'x' * 100)
"""
    with holding(store) as writer:
        interrupted(store, code, finish=False)
        writer.resume()
        writer.wait_for("done")
        assert store.check().ok


def test_ctrl_c_ends_an_open_that_waits_for_another_to_finish_opening(open_store: OpenStore, tmp_path: Path) -> None:
    opener = """
import os, signal, sys
import kafkalite
from kafkalite import disk

def on_step(name):
    disk.on_step = None
    if name.startswith(("create", "mkdir")):  # not yet under the lock
        disk.on_step = on_step
        return
    print("holds")
    os.kill(os.getpid(), signal.SIGSTOP)

disk.on_step = on_step
kafkalite.connect(sys.argv[1]).close()
print("done")
"""
    path = tmp_path / "s.klite"
    waiting = """
import signal, sys
import kafkalite
signal.signal(signal.SIGINT, signal.default_int_handler)
print("begins")
try:
    kafkalite.connect(sys.argv[1])
except KeyboardInterrupt:
    print("interrupted")
"""
    with procs.python(opener, path) as first:
        first.wait_for("holds")
        with procs.python(waiting, path) as second:
            second.wait_for("begins")
            wait_until_asleep(second)
            second.signal(signal.SIGINT)
            second.wait_for("interrupted", timeout=PROMPT)
            assert second.wait(timeout=PROMPT) == 0
        first.resume()
        first.succeed()
    assert open_store(path).topics() == []
