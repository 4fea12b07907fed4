"""Pools of worker processes: what is handled, what is tried again, what is given up, and how they end."""

import functools
import os
import random
import signal
import sys
import threading
import time
import types
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import kafkalite
from kafkalite import workers as pool
from kafkalite.errors import WorkerError
from kafkalite.group_admin import describe_group
from kafkalite.workers import Status

from . import worker_handlers as handlers
from .worker_handlers import PATIENCE_S, events, values


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[kafkalite.Store]:
    monkeypatch.setenv(handlers.DIRECTORY, str(tmp_path))
    with kafkalite.connect(tmp_path / "shop.klite") as store:
        store.topic("dead")
        yield store
        assert store.check().ok


def fill(store: kafkalite.Store, *partitions: list[bytes]) -> kafkalite.Topic[bytes, Any]:
    topic = store.topic("jobs", partitions=len(partitions))
    for number, given in enumerate(partitions):
        topic.append_many(given, partition=number)
    return topic


def committed(store: kafkalite.Store, group_id: str = "g") -> list[int | None]:
    return [one.committed for one in describe_group(store, group_id).partitions]


def until(ready: Callable[[], object]) -> None:
    patience = time.monotonic() + PATIENCE_S
    while not ready():
        assert time.monotonic() < patience
        time.sleep(0.005)


def headers(letter: kafkalite.Record[Any, Any]) -> dict[str, str]:
    prefix = "_dlq.errors."
    return {
        name.removeprefix(prefix): (text or b"").decode() for name, text in letter.headers if name.startswith(prefix)
    }


# What is handled


def test_several_processes_share_the_partitions_and_each_record_is_handled_once(store: kafkalite.Store) -> None:
    fill(store, *([b"%d-%d" % (number, at) for at in range(5)] for number in range(6)))
    group = store.consumer_group("g", "jobs")
    assert group.run(handlers.wait_for_another, workers=2, until="end") is None  # type: ignore[func-returns-value]
    assert sorted(values("handled")) == sorted(f"{number}-{at}" for number in range(6) for at in range(5))
    pids = {pid for _, _, pid in events()}
    assert len(pids) == 2
    assert str(os.getpid()) not in pids
    assert committed(store) == [5] * 6
    assert describe_group(store, "g").members == ()


def test_order_holds_in_each_partition_over_retries(store: kafkalite.Store) -> None:
    fill(store, [b"a", b"bad", b"c"])
    status = pool.run(store.consumer_group("g", "jobs"), handlers.fail_twice_at_bad, until="end")
    assert values("began") == ["a", "bad", "bad", "bad", "c"]
    assert values("handled") == ["a", "bad", "c"]
    assert (status.handled, status.retried, status.letters, status.restarts) == (3, 2, 0, 0)


def test_static_members_get_names_of_their_own(store: kafkalite.Store) -> None:
    fill(store, [b"a"], [b"b"])
    store.consumer_group("g", "jobs", group_instance_id="here").run(handlers.handle, workers=2, until="end")
    assert sorted(values("handled")) == ["a", "b"]
    assert {one.instance_id for one in describe_group(store, "g").members} == {"here-1", "here-2"}


# What fails


def test_record_that_fails_its_retries_goes_to_the_dead_letter_topic_as_it_was(store: kafkalite.Store) -> None:
    topic = store.topic("jobs")
    topic.append(b"a")
    topic.append(b"bad", key=b"k", headers=[("trace", b"\x00\xff")], timestamp_ms=123)
    topic.append(b"c")
    status = pool.run(
        store.consumer_group("g", "jobs"), handlers.fail_at_bad, retries=1, dead_letter="dead", until="end"
    )
    assert values("began") == ["a", "bad", "bad", "c"]
    (letter,) = store.topic("dead").read()
    assert (letter.key, letter.value, letter.timestamp_ms, letter.headers[0]) == (
        b"k",
        b"bad",
        123,
        ("trace", b"\x00\xff"),
    )
    assert headers(letter) == {
        "topic": "jobs", "partition": "0", "offset": "1", "group": "g", "delivery.count": "2",
        "message": "failed 2 times, at last with ValueError: this one is bad",
    }  # fmt: skip
    assert committed(store) == [3]
    assert (status.handled, status.letters) == (2, 1)


def test_letter_and_offset_are_one_commit(store: kafkalite.Store) -> None:
    fill(store, [b"bad"])
    before = store.stats()
    pool.run(store.consumer_group("g", "jobs"), handlers.fail_at_bad, retries=0, dead_letter="dead", until="end")
    assert committed(store) == [1]
    assert store.topic("dead").end_offsets() == {0: 1}
    assert store.stats() != before


def test_failure_without_a_dead_letter_topic_ends_the_group_naming_the_record(store: kafkalite.Store) -> None:
    fill(store, [b"a", b"bad", b"c"])
    with pytest.raises(WorkerError, match=r"'jobs', partition 0, offset 1 failed 1 times.*this one is bad") as raised:
        store.consumer_group("g", "jobs").run(handlers.fail_at_bad, retries=0)
    assert raised.value.record == ("jobs", 0, 1)
    assert committed(store) == [1]
    assert values("began") == ["a", "bad"]
    store.consumer_group("g", "jobs").run(handlers.handle, until="end")  # never skipped: the next run has it
    assert values("handled") == ["a", "bad", "c"]


@pytest.mark.parametrize("handler", [handlers.die_of_bad, handlers.exit_at_bad])
def test_record_that_kills_three_workers_goes_to_the_dead_letter_topic(store: kafkalite.Store, handler: Any) -> None:
    fill(store, [b"a", b"bad", b"c"], [b"d", b"e"])
    status = pool.run(store.consumer_group("g", "jobs"), handler, workers=2, dead_letter="dead", until="end")
    assert values("began").count("bad") == 3
    assert sorted(values("handled")) == ["a", "c", "d", "e"]
    (letter,) = store.topic("dead").read()
    assert headers(letter)["message"] == "killed its worker 3 times"
    assert committed(store) == [3, 2]
    assert status.restarts == 3


def test_record_that_kills_three_workers_ends_the_group_without_a_dead_letter_topic(store: kafkalite.Store) -> None:
    fill(store, [b"a", b"bad", b"c"])
    with pytest.raises(WorkerError, match=r"'jobs', partition 0, offset 1 killed its worker 3 times") as raised:
        store.consumer_group("g", "jobs").run(handlers.die_of_bad)
    assert raised.value.record == ("jobs", 0, 1)
    assert values("began") == ["a", "bad", "bad", "bad"]
    assert committed(store) == [1]


def test_record_that_cannot_be_decoded_goes_to_the_dead_letter_topic_raw(store: kafkalite.Store) -> None:
    store.topic("jobs").append_many([b"1", b"{broken", b"3"])
    group = store.consumer_group("g", store.topic("jobs", value=kafkalite.JSON))
    group.run(handlers.reset_at_bad, dead_letter=store.topic("dead"), until="end")
    assert values("handled") == ["1", "3"]
    (letter,) = store.topic("dead").read()
    assert letter.value == b"{broken"
    assert headers(letter)["message"].startswith("cannot be decoded: ")


def test_letter_too_large_for_the_dead_letter_topic_ends_the_group(store: kafkalite.Store) -> None:
    fill(store, [b"bad"])
    store.topic("small", max_message_bytes=64)
    with pytest.raises(WorkerError, match=r"offset 0 failed .* does not fit the dead letter topic"):
        store.consumer_group("g", "jobs").run(handlers.fail_at_bad, retries=0, dead_letter="small")
    assert committed(store) == [0]


def test_worker_killed_between_records_is_started_anew(store: kafkalite.Store) -> None:
    topic = fill(store, [b"a"])
    group = store.consumer_group("g", "jobs")
    killed: list[int] = []

    def watch(status: Status) -> None:
        (one,) = status.workers
        if not killed and one.handled == 1 and one.pid is not None and one.in_hand is None:
            killed.append(one.pid)
            os.kill(one.pid, signal.SIGKILL)
            topic.append(b"b")
        elif one.handled == 2:
            group.stop()

    status = pool.run(group, handlers.handle, watch=watch)
    assert (values("handled"), status.restarts) == (["a", "b"], 1)


def test_killed_workers_lose_nothing_and_repeat_at_most_the_record_in_hand(store: kafkalite.Store) -> None:
    fill(store, *([b"%d-%d" % (number, at) for at in range(150)] for number in range(4)))
    killed: list[int] = []
    chance = random.Random(7)

    def watch(status: Status) -> None:
        living = [one.pid for one in status.workers if one.state == "at work" and one.pid is not None]
        if living and len(killed) < 5:
            killed.append(chance.choice(living))
            os.kill(killed[-1], signal.SIGKILL)

    group = store.consumer_group("g", "jobs")
    status = pool.run(group, handlers.handle_slowly, workers=3, until="end", watch=watch, watch_seconds=0.15)
    found = Counter(values("handled"))
    assert sorted(found) == sorted(f"{number}-{at}" for number in range(4) for at in range(150))
    assert found.total() - len(found) <= len(killed)
    assert (status.restarts, committed(store)) == (len(killed), [150] * 4)


# How they end


def test_stop_finishes_and_confirms_the_record_in_hand(store: kafkalite.Store, tmp_path: Path) -> None:
    fill(store, [b"a", b"b"])
    group = store.consumer_group("g", "jobs")
    thread = threading.Thread(target=group.run, args=(handlers.wait_for_release,))
    thread.start()
    until(lambda: values("began") == ["a"])
    group.stop()
    time.sleep(0.3)  # long enough for the worker to hear of it
    (tmp_path / "release").touch()
    thread.join(PATIENCE_S)
    assert (values("began"), values("handled"), committed(store)) == (["a"], ["a"], [1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_first_signal_finishes_the_record_in_hand(
    store: kafkalite.Store, tmp_path: Path, number: signal.Signals
) -> None:
    fill(store, [b"a", b"b"])
    before = signal.getsignal(number)

    def watch(status: Status) -> None:
        if status.is_stopping:
            (tmp_path / "release").touch()
        elif status.workers[0].in_hand is not None:
            assert status.workers[0].in_hand == ("jobs", 0, 0)
            os.kill(os.getpid(), number)

    pool.run(store.consumer_group("g", "jobs"), handlers.wait_for_release, watch=watch)
    assert (values("handled"), committed(store)) == (["a"], [1])
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_second_signal_ends_at_once_and_the_record_is_handed_out_again(
    store: kafkalite.Store, number: signal.Signals, error: type[BaseException]
) -> None:
    fill(store, [b"a"])

    def watch(status: Status) -> None:
        if status.is_stopping or status.workers[0].in_hand is not None:
            os.kill(os.getpid(), number)

    with pytest.raises(error):
        pool.run(store.consumer_group("g", "jobs"), handlers.wait_for_release, watch=watch)
    assert values("handled") == []
    store.consumer_group("g", "jobs").run(handlers.handle, until="end")
    assert values("handled") == ["a"]


def test_stop_between_two_tries_hands_the_record_out_again(store: kafkalite.Store) -> None:
    fill(store, [b"bad"])
    group = store.consumer_group("g", "jobs")
    thread = threading.Thread(target=group.run, args=(handlers.fail_at_bad,), kwargs={"retries": 1000})
    thread.start()
    until(lambda: len(values("began")) >= 3)
    group.stop()
    thread.join(PATIENCE_S)
    assert committed(store) == [0]
    group.run(handlers.handle, until="end")
    assert values("handled") == ["bad"]


# What is refused


class AsynchronousDesk:
    async def __call__(self, record: object) -> None: ...


def local() -> Callable[..., object]:
    def inner(record: object) -> None: ...

    return inner


@pytest.mark.parametrize(
    ("handler", "why"),
    [
        (lambda record: None, "it is a lambda"),
        (local(), "it is defined inside of a function"),
        (functools.partial(local()), "cannot be imported by worker processes"),
        (handlers.asynchronous, "is asynchronous"),
        (AsynchronousDesk(), "is asynchronous"),
        ("tests.handle", "give a function that takes a record"),
    ],
)
def test_handler_that_no_other_process_can_import_is_refused_saying_why(
    store: kafkalite.Store, handler: Any, why: str
) -> None:
    fill(store, [b"a"])
    with pytest.raises(kafkalite.ConfigError, match=why):
        store.consumer_group("g", "jobs").run(handler)


def test_handler_of_an_interpreter_is_refused(store: kafkalite.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = types.ModuleType("__main__")
    typed.__spec__ = None
    exec("def handler(record): ...", vars(typed))
    monkeypatch.setitem(sys.modules, "__main__", typed)
    fill(store, [b"a"])
    with pytest.raises(kafkalite.ConfigError, match="typed into an interpreter"):
        store.consumer_group("g", "jobs").run(typed.handler)


def test_module_that_only_this_process_has_is_told_by_the_worker(
    store: kafkalite.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = types.ModuleType("made_here")
    exec("def handler(record): ...", vars(made))
    monkeypatch.setitem(sys.modules, "made_here", made)
    fill(store, [b"a"])
    with pytest.raises(WorkerError, match=r"cannot load its handler: ModuleNotFoundError.*made_here"):
        store.consumer_group("g", "jobs").run(made.handler)


def test_worker_that_never_gets_so_far_as_to_join_ends_the_group(store: kafkalite.Store) -> None:
    fill(store, [b"a"])
    with pytest.raises(WorkerError, match="ended with status 7 3 times before it had joined"):
        pool.run(store.consumer_group("g", "jobs"), handlers.handle, begin=functools.partial(os._exit, 7))


@pytest.mark.parametrize(
    ("given", "error", "why"),
    [
        ({"workers": 0}, kafkalite.ConfigError, "workers=0"),
        ({"workers": True}, kafkalite.ConfigError, "workers=True"),
        ({"retries": -1}, kafkalite.ConfigError, "retries=-1"),
        ({"until": "latest"}, kafkalite.ConfigError, "until='latest'"),
        ({"dead_letter": "nowhere"}, kafkalite.UnknownTopicError, "nowhere"),
        ({"dead_letter": "jobs"}, kafkalite.ConfigError, "the group itself reads"),
    ],
)
def test_what_cannot_be_is_refused_before_a_process_is_started(
    store: kafkalite.Store, given: dict[str, Any], error: type[Exception], why: str
) -> None:
    fill(store, [b"a"])
    with pytest.raises(error, match=why):
        store.consumer_group("g", "jobs").run(handlers.handle, **given)


def test_group_that_is_entered_or_does_not_commit_is_refused(store: kafkalite.Store) -> None:
    fill(store, [b"a"])
    with store.consumer_group("g", "jobs") as group, pytest.raises(kafkalite.ConcurrentUseError, match="is entered"):
        group.run(handlers.handle)
    with pytest.raises(kafkalite.ConfigError, match="enable_auto_commit=False"):
        store.consumer_group("g", "jobs", enable_auto_commit=False).run(handlers.handle)


def test_callback_that_no_other_process_can_import_is_refused(store: kafkalite.Store) -> None:
    fill(store, [b"a"])
    group = store.consumer_group("g", "jobs", on_assigned=lambda *_: None)
    with pytest.raises(kafkalite.ConfigError, match="have to be importable by name"):
        group.run(handlers.handle)
