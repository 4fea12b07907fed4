"""`kafkalite topic`."""

import json
from pathlib import Path

import pytest

import kafkalite
from kafkalite.cli import topic as module

from .conftest import Run


def test_create_makes_store_and_topics(run: Run, layout_path: Path) -> None:
    result = run("topic", "create", "-s", layout_path, "a", "b", "-p", 3, "--durability", "interval",
                 "-c", "retention.ms=7", "-c", "max_message_bytes=500")  # fmt: skip
    assert (result.exit_code, result.stdout, result.stderr) == (0, "a: created\nb: created\n", "")
    with kafkalite.connect(layout_path, create=False) as store:
        assert store.settings["durability"] == "interval"
        assert [store.topic(name).partition_count for name in store.topics()] == [3, 3]
        assert store.topic("a").settings["retention_ms"] == 7
        assert store.topic("b").settings["max_message_bytes"] == 500


def test_create_goes_on_after_a_topic_that_fails_and_fails_at_the_end(run: Run, orders: Path) -> None:
    result = run("topic", "create", "-s", orders, "orders", "bad name", "new", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"topic": "new", "result": "created"}
    first, second = result.stderr.splitlines()
    assert first.startswith("kafkalite: topic 'orders' exists")
    assert second.startswith("kafkalite: the topic name 'bad name' is not valid")


def test_create_if_not_exists_leaves_what_is_there(run: Run, orders: Path) -> None:
    result = run("topic", "create", "-s", orders, "orders", "-p", 9, "--if-not-exists")
    assert (result.exit_code, result.stdout) == (0, "orders: exists\n")
    with kafkalite.connect(orders) as store:
        assert store.topic("orders").partition_count == 2


def test_create_refuses_another_durability_than_the_store_has(run: Run, orders: Path) -> None:
    result = run("topic", "create", "-s", orders, "new", "--durability", "none")
    assert result.exit_code == 1
    assert "durability='none'" in result.stderr


def test_list_matches_names_by_pattern(run: Run, orders: Path) -> None:
    run("topic", "create", "-s", orders, "offers")
    result = run("topic", "list", orders, "--match", "or*", "--json")
    assert json.loads(result.stdout) == {"topic": "orders", "partitions": 2, "records": 5}


def test_describe_shows_settings_and_offsets(run: Run, orders: Path) -> None:
    result = run("topic", "describe", "-s", orders, "orders", "--json")
    described = json.loads(result.stdout)
    assert described["settings"]["retention_ms"] == -1
    assert described["partitions"] == [
        {"partition": 0, "beginning_offset": 0, "end_offset": 3, "records": 3},
        {"partition": 1, "beginning_offset": 0, "end_offset": 2, "records": 2},
    ]
    lines = [line.split() for line in run("topic", "describe", "-s", orders, "orders").stdout.splitlines()]
    for expected in (["records", "5"], ["retention.ms", "-1"], ["0", "0", "3", "3"], ["1", "0", "2", "2"]):
        assert expected in lines


def test_describe_goes_on_after_a_topic_that_is_not_there(run: Run, orders: Path) -> None:
    result = run("topic", "describe", "-s", orders, "gone", "orders", "--json")
    assert result.exit_code == 1
    assert result.stderr.startswith("kafkalite: there is no topic 'gone' in ")
    assert json.loads(result.stdout)["topic"] == "orders"


def test_alter_changes_settings_under_either_name(run: Run, orders: Path) -> None:
    result = run("topic", "alter", "-s", orders, "orders", "-c", "retention.ms=5", "-c", "compression_type=zstd")
    assert (result.exit_code, result.stdout) == (0, "orders: altered\n")
    with kafkalite.connect(orders) as store:
        settings = store.topic("orders").settings
        assert (settings["retention_ms"], settings["compression_type"]) == (5, "zstd")


def test_alter_adds_partitions_and_takes_none_away(run: Run, orders: Path) -> None:
    result = run("topic", "alter", "-s", orders, "orders", "--partitions", 5, "-c", "retention.ms=5", "--json")
    assert json.loads(result.stdout) == {"topic": "orders", "result": "altered"}
    for count in (5, 1):
        result = run("topic", "alter", "-s", orders, "orders", "-p", count)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith(f"kafkalite: topic 'orders' has 5 partitions, and {count} would be no more")
    assert run("topic", "alter", "-s", orders, "orders", "-p", 0).exit_code == 2
    with kafkalite.connect(orders) as store:
        topic = store.topic("orders")
        assert (topic.partition_count, topic.settings["retention_ms"], len(list(topic.read()))) == (5, 5, 5)


def test_alter_without_a_setting_is_wrong_usage_and_a_strange_one_fails(run: Run, orders: Path) -> None:
    assert run("topic", "alter", "-s", orders, "orders").exit_code == 2
    result = run("topic", "alter", "-s", orders, "orders", "-c", "retntion.ms=5")
    assert result.exit_code == 1
    assert "did you mean 'retention_ms'?" in result.stderr


def test_delete_does_not_ask_where_nobody_is(run: Run, orders: Path) -> None:
    assert run("topic", "delete", "-s", orders, "orders").stdout == "orders: deleted\n"
    with kafkalite.connect(orders) as store:
        assert store.topics() == []


@pytest.mark.parametrize(("answer", "left"), [("y\n", []), ("n\n", ["orders"]), ("\n", ["orders"])])
def test_delete_asks_and_keeps_unless_told_yes(
    run: Run, orders: Path, monkeypatch: pytest.MonkeyPatch, answer: str, left: list[str]
) -> None:
    monkeypatch.setattr(module, "is_asked", lambda: True)
    result = run("topic", "delete", "-s", orders, "orders", input=answer)
    assert result.exit_code == 0
    assert "Delete topic 'orders' and its 5 records?" in result.stderr
    with kafkalite.connect(orders) as store:
        assert store.topics() == left


def test_delete_with_yes_asks_nobody(run: Run, orders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_asked", lambda: True)
    assert run("topic", "delete", "-s", orders, "orders", "--yes").stderr == ""
