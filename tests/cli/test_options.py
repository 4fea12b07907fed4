"""Which store a verb works on, and other options that verbs share."""

from pathlib import Path

import pytest

import kafkalite
from kafkalite.cli.options import get_topic, open_store

from .conftest import Run


def test_store_is_the_first_argument_an_option_or_the_environment(run: Run, orders: Path) -> None:
    expected = "TOPIC   PARTITIONS  RECORDS\norders           2        5\n"
    for arguments, environment in [
        ((orders,), {}),
        (("--store", orders), {}),
        (("-s", orders), {}),
        ((), {"KAFKALITE_STORE": str(orders)}),
        ((orders,), {"KAFKALITE_STORE": "/nowhere/else.klite"}),
        (("--store", orders), {"KAFKALITE_STORE": "/nowhere/else.klite"}),
        ((orders, "--store", orders), {}),
    ]:
        result = run("topic", "list", *arguments, env=environment)
        assert (result.exit_code, result.output) == (0, expected)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "no store is named"),
        (("a.klite", "--store", "b.klite"), "two stores are given"),
        ((":memory:",), "inside one process"),
        (("kafka://host:9092",), "is a Kafka cluster"),
        (("--store", ""), "no store is named"),
    ],
)
def test_store_that_cannot_be_meant_is_wrong_usage(run: Run, arguments: tuple[str, ...], complaint: str) -> None:
    result = run("topic", "list", *arguments)
    assert result.exit_code == 2
    assert complaint in " ".join(result.stderr.split())


VERBS = [
    ("info",), ("topic", "list"), ("log", "dump"), ("log", "verify"), ("consume", "orders"), ("produce", "orders"),
    ("topic", "describe", "orders"), ("topic", "delete", "orders"),
    ("topic", "alter", "orders", "-c", "retention.ms=1"),
]  # fmt: skip


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_no_verb_creates_a_store_that_is_not_there(run: Run, tmp_path: Path, verb: tuple[str, ...]) -> None:
    result = run(*verb, "--store", tmp_path / "absent.klite")
    assert result.exit_code == 1
    assert result.stderr.startswith("kafkalite: there is no store at ")
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_what_is_no_store_is_refused_and_untouched(run: Run, tmp_path: Path, verb: tuple[str, ...]) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes(b"precious" * 2000)
    result = run(*verb, "--store", path)
    assert result.exit_code == 1
    assert "is not a store of kafkalite" in result.stderr
    assert path.read_bytes() == b"precious" * 2000


def test_topic_that_is_not_there_is_named_with_those_that_are(orders: Path) -> None:
    with open_store(str(orders), write=True) as store:
        with pytest.raises(Exception, match=r"did you mean 'orders'?"):
            get_topic(store, "order")
        with pytest.raises(Exception, match=r"there are orders$"):
            get_topic(store, "zebra")
        for number in range(12):
            store.topic(f"topic-{number}")
        with pytest.raises(Exception, match=r"topic-6 …$"):
            get_topic(store, "zebra")


def test_store_without_topics_says_how_to_make_one(path: Path) -> None:
    kafkalite.connect(path).close()
    with open_store(str(path)) as store, pytest.raises(Exception, match="it has none"):
        get_topic(store, "zebra")


def test_reading_verbs_open_the_store_to_read(orders: Path) -> None:
    with open_store(str(orders)) as store, pytest.raises(kafkalite.StorePermissionError):
        store.topic("orders").append(b"x")


@pytest.mark.parametrize("pair", ["retention.ms", "=5", ""])
def test_setting_without_value_is_wrong_usage(run: Run, orders: Path, pair: str) -> None:
    assert run("topic", "alter", "-s", orders, "orders", "-c", pair).exit_code == 2
