"""`kafkalite consume`."""

import json
import threading
from pathlib import Path

import pytest

import kafkalite
from kafkalite import clock

from .conftest import Run


@pytest.mark.parametrize(
    ("options", "values"),
    [
        ((), "abcde"),
        (("-o", "earliest"), "abcde"),
        (("-o", "latest"), ""),
        (("-o", "-1"), "ce"),
        (("-o", "+1"), "bce"),
        (("-o", "2"), "c"),
        (("-o", "@1970-01-01T00:00:03"), "cde"),
        (("-o", "@1970-01-01T00:00:03", "-p", "0"), "c"),
        (("-o", "@1970-01-01T00:00:03", "-p", "0", "-p", "1"), "cde"),
        (("-o", "@-1h"), ""),
        (("-p", "1"), "de"),
        (("-p", "1", "-o", "1"), "e"),
        (("-p", "1", "-p", "0", "-p", "1"), "abcde"),
        (("--until", "1"), "ad"),
        (("--until", "-1"), "abd"),
        (("-o", "1", "--until", "2"), "be"),
        (("-o", "@1970-01-01T00:00:02", "--until", "@1970-01-01T00:00:05"), "bcd"),
        (("-o", "@1970-01-01T00:00:02", "--until", "2", "-p", "0"), "b"),
        (("-n", "1"), "a"),
        (("-n", "4"), "abcd"),
        (("-n", "0"), ""),
        (("-n", "99"), "abcde"),
    ],
)
def test_where_it_starts_and_ends(run: Run, orders: Path, options: tuple[str, ...], values: str) -> None:
    result = run("consume", "-s", orders, "orders", *options)
    assert (result.exit_code, result.stderr) == (0, "")
    assert sorted(result.stdout.split()) == list(values)


def test_several_topics_come_in_turn_each_once(run: Run, orders: Path) -> None:
    with kafkalite.connect(orders) as store:
        store.topic("other").append(b"x")
    result = run("consume", "-s", orders, "other", "orders", "other", "-f", "%t:%v ")
    assert result.stdout.split()[0] == "other:x"
    assert len(result.stdout.split()) == 6


def test_bytes_go_out_as_they_are(run: Run, path: Path) -> None:
    with kafkalite.connect(path) as store:
        store.topic("t").append_many([bytes(range(256)), b"", None])
    assert run("consume", "-s", path, "t", "-f", "%V{big2}%v").stdout_bytes == (
        b"\x01\x00" + bytes(range(256)) + b"\0\0" + b"\0\0"
    )
    assert run("consume", "-s", path, "t", "-o", "1", "-Z").stdout == "\nNULL\n"


def test_json_is_an_object_a_line(run: Run, orders: Path) -> None:
    result = run("consume", "-s", orders, "orders", "--json", "-p", 0, "-n", 1)
    assert json.loads(result.stdout) == {
        "topic": "orders", "partition": 0, "offset": 0, "timestamp_ms": 1000, "key": "k", "value": "a",
    }  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        ("-f", "%q"),
        ("-f", "%k", "--json"),
        ("-o", "soon"),
        ("--until", "@soon"),
        ("-F", "--until", "3"),
        ("-n", "-1"),
        ("-p", "-1"),
    ],
)
def test_options_that_make_no_sense_are_wrong_usage(run: Run, orders: Path, options: tuple[str, ...]) -> None:
    assert run("consume", "-s", orders, "orders", *options).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("order",), "did you mean 'orders'?"),
        (("orders", "-p", "2"), "no 2"),
        (("orders", "-p", "0", "-o", "9"), "has offsets 0 to 3"),
    ],
)
def test_what_is_not_there_is_told(run: Run, orders: Path, arguments: tuple[str, ...], complaint: str) -> None:
    result = run("consume", "-s", orders, *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert complaint in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("options", [("orders",), ("orders", "other"), ("orders", "-p", "0", "-o", "@-1h")])
def test_follow_hands_on_what_comes_later(run: Run, orders: Path, options: tuple[str, ...]) -> None:
    """In one process, whose handles share the engine: the writer waits until the reader does."""
    with kafkalite.connect(orders) as store:
        store.topic("other")
        threading.Thread(target=append_until_told, args=(store, done := threading.Event())).start()
        start = () if "-o" in options else ("-o", "latest")
        result = run("consume", "-s", orders, *options, *start, "-F", "-n", 3)
        done.set()
    assert (result.exit_code, result.stderr) == (0, "")
    assert len(result.stdout.splitlines()) == 3
    assert set(result.stdout.split()) == {"later"}


@pytest.mark.parametrize("start", ["latest", "earliest"])
def test_follow_follows_partitions_that_are_added(run: Run, orders: Path, start: str) -> None:
    def grow() -> None:
        with kafkalite.connect(orders) as own:
            while not done.wait(0.02):
                topic = own.topic("orders")
                topic.alter(partitions=topic.partition_count + 1)
                topic.append(b"new", partition=topic.partition_count - 1)

    done = threading.Event()
    grower = threading.Thread(target=grow)
    grower.start()
    result = run("consume", "-s", orders, "orders", "-o", start, "-F", "-n", 8, "--format", r"%p %v\n")
    done.set()
    grower.join()
    assert (result.exit_code, result.stderr) == (0, "")
    added = [line for line in result.stdout.splitlines() if line.endswith(" new")]
    assert len(added) >= 3
    assert min(int(line.split()[0]) for line in added) >= 2


def append_until_told(store: kafkalite.Store, done: threading.Event) -> None:
    """Append a record now and then."""
    with kafkalite.connect(store.path) as own:
        while not done.wait(0.02):
            own.topic("orders").append(b"later", partition=0)


def test_damaged_record_ends_it_with_a_line_that_says_where(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "damaged.klite"  # not proved sound at the end: it is not
    with kafkalite.connect(path) as store:
        topic = store.topic("t")
        for number in range(5):
            topic.append(b"value %d " % number * 50)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"value 2 value 2", b"value 2 vaXue 2"))
    result = run("consume", "-s", path, "t")
    assert result.exit_code == 1
    assert result.stderr.startswith("kafkalite: ")
    assert "Traceback" not in result.stderr


def test_time_before_now_is_before_now(run: Run, orders: Path) -> None:
    with kafkalite.connect(orders) as store:
        store.topic("orders").append(b"recent", timestamp_ms=clock.now_ms() - 60_000)
    assert run("consume", "-s", orders, "orders", "-o", "@-2m").stdout == "recent\n"
    assert run("consume", "-s", orders, "orders", "-o", "@-30s").stdout == ""
