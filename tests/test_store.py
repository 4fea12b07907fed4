"""Store and connect: what a store has, who shares it, and what closing it ends. In each layout."""

import gc
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

import kafkalite
from kafkalite import (
    JSON,
    ClosedError,
    ConfigError,
    DeliveryError,
    Store,
    StoreNotFoundError,
    StoreSettingsError,
    UnknownTopicError,
    UnsupportedError,
)
from kafkalite.testing import procs

OpenStore = Callable[..., Store]
MIB = 1024 * 1024


@dataclass
class Order:
    id: int
    amount: float


@pytest.fixture
def store(open_store: OpenStore, layout: Path | str) -> Store:
    return open_store(layout)


# Opening


def test_a_new_store_has_the_defaults_and_no_topics(store: Store) -> None:
    assert store.settings == {
        "durability": "commit",
        "flush_interval_ms": 1000,
        "segment_bytes": 64 * MIB,
        "max_commit_bytes": 1024 * MIB,
    }
    assert store.topics() == []
    report = store.check()
    assert report.ok, report
    assert (report.records, str(report)[:3]) == (0, "ok:")


def test_a_new_store_takes_at_most_two_mebibytes(store: Store) -> None:
    store.topic("t").append(b"v")
    files = [path for path in store.path.rglob("*") if path.is_file()] or list(
        store.path.parent.glob(f"{store.path.name}*")
    )
    assert sum(file.stat().st_blocks * 512 for file in files if file.is_file()) <= 2 * MIB


@pytest.mark.parametrize("name", ["shop.klite", "a.b.c", ".hidden.klite"])
def test_a_path_with_a_suffix_is_a_single_file(open_store: OpenStore, tmp_path: Path, name: str) -> None:
    store = open_store(tmp_path / name)
    store.topic("t").append(b"v")
    assert (tmp_path / name).is_file()


@pytest.mark.parametrize("name", ["shop", "shop/", "shop.klite/", "deep/er/shop"])
def test_a_path_without_suffix_or_with_a_separator_at_its_end_is_a_directory(
    open_store: OpenStore, tmp_path: Path, name: str
) -> None:
    store = open_store(f"{tmp_path}/{name}")
    store.topic("t").append(b"v")
    assert (tmp_path / name).is_dir()


def test_an_existing_empty_directory_becomes_a_store_whatever_its_name(open_store: OpenStore, tmp_path: Path) -> None:
    (tmp_path / "data.d").mkdir()
    open_store(tmp_path / "data.d").topic("t")
    assert (tmp_path / "data.d").is_dir()


def test_an_empty_file_becomes_a_store(open_store: OpenStore, tmp_path: Path) -> None:
    (tmp_path / "new.klite").touch()
    assert open_store(tmp_path / "new.klite").topics() == []


@pytest.mark.parametrize("name", ["absent.klite", "absent", "no/such/place.klite"])
@pytest.mark.parametrize("settings", [{"create": False}, {"read_only": True}])
def test_a_store_that_may_not_be_created_is_not_found_and_nothing_is_made(
    tmp_path: Path, name: str, settings: dict[str, bool]
) -> None:
    with pytest.raises(StoreNotFoundError, match=name) as caught:
        kafkalite.connect(tmp_path / name, **settings)
    assert isinstance(caught.value, FileNotFoundError)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["s.klite", "s"])
def test_what_was_committed_is_there_when_the_store_is_opened_again(
    open_store: OpenStore, tmp_path: Path, name: str
) -> None:
    with open_store(tmp_path / name) as store:
        store.topic("t", partitions=2, retention_ms=5).append_many([b"a", b"b"], partition=1)
    with open_store(tmp_path / name, create=False) as store:
        topic = store.topic("t", create=False)
        assert (topic.partition_count, topic.settings["retention_ms"]) == (2, 5)
        assert [record.value for record in topic.read()] == [b"a", b"b"]
        assert topic.append(b"c", partition=1).offset == 2


def test_a_read_only_store_reads_and_creates_nothing(open_store: OpenStore, tmp_path: Path) -> None:
    with open_store(tmp_path / "s.klite") as store:
        store.topic("t").append(b"v")
    with open_store(tmp_path / "s.klite", read_only=True) as store:
        assert [record.value for record in store.topic("t").read()] == [b"v"]
        with pytest.raises(UnknownTopicError, match="'other'"):
            store.topic("other")


def test_a_kafka_cluster_is_refused_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnsupportedError, match="kafka://h:9092"):
        kafkalite.connect("kafka://h:9092")
    assert list(tmp_path.iterdir()) == []


# Settings


@pytest.mark.parametrize("durability", ["commit", "interval", "none"])
def test_durability_belongs_to_the_store_and_none_given_takes_what_it_has(
    open_store: OpenStore, layout: Path | str, durability: str
) -> None:
    first = open_store(layout, durability=durability)
    second = open_store(first.path)
    assert first.settings["durability"] == second.settings["durability"] == durability
    second.topic("t").append(b"v")
    assert [record.value for record in first.topic("t").read()] == [b"v"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("durability", "none"), ("flush_interval_ms", 7), ("segment_bytes", MIB), ("max_commit_bytes", MIB)],
)
def test_another_value_than_the_stores_is_refused_and_the_same_one_taken(
    open_store: OpenStore, layout: Path | str, name: str, value: Any
) -> None:
    store = open_store(layout)
    with pytest.raises(StoreSettingsError) as caught:
        kafkalite.connect(store.path, **{name: value})
    message = str(caught.value)
    assert f"{name}={value!r}" in message
    assert repr(store.settings[name]) in message
    assert f"store.alter({name}={value!r})" in message
    store.alter(**{name: value})
    assert open_store(store.path, **{name: value}).settings[name] == value


def test_altered_settings_hold_for_all_and_stay(open_store: OpenStore, tmp_path: Path) -> None:
    with open_store(tmp_path / "s.klite") as store, open_store(tmp_path / "s.klite") as other:
        store.alter(durability="interval", flush_interval_ms=50)
        assert other.settings["flush_interval_ms"] == 50
        other.alter(config={"segment.bytes": MIB})
        other.topic("t").append(b"v")
        store.alter(durability="commit")
    with open_store(tmp_path / "s.klite") as store:
        assert (store.settings["durability"], store.settings["segment_bytes"]) == ("commit", MIB)
        assert [record.value for record in store.topic("t").read()] == [b"v"]


def test_alter_without_a_setting_says_what_to_give(store: Store) -> None:
    with pytest.raises(ConfigError, match="no setting"):
        store.alter()


def test_settings_may_be_given_under_kafkas_dotted_names(open_store: OpenStore, layout: Path | str) -> None:
    store = open_store(layout, config={"flush.interval.ms": "20", "durability": "interval"})
    assert (store.settings["flush_interval_ms"], store.settings["durability"]) == (20, "interval")


# Sharing


def test_two_connects_share_the_engine_and_each_closes_for_itself(open_store: OpenStore, layout: Path | str) -> None:
    first = open_store(layout)
    second = open_store(first.path)
    mine, other = first.topic("t"), second.topic("t")
    assert first._engine is second._engine
    mine.append(b"1")
    first.close()
    if layout != ":memory:":
        other.append(b"2")
        assert [record.value for record in other.read()] == [b"1", b"2"]
    with pytest.raises(ClosedError):
        mine.append(b"3")
    second.close()


def test_two_names_of_a_path_share_the_engine(open_store: OpenStore, tmp_path: Path) -> None:
    store = open_store(tmp_path / "s.klite")
    (tmp_path / "link.klite").symlink_to("s.klite")
    other = open_store(tmp_path / "link.klite")
    relative = open_store(os.path.relpath(tmp_path / "s.klite"))
    assert store._engine is other._engine is relative._engine


def test_two_memory_stores_are_two(open_store: OpenStore) -> None:
    one, two = open_store(":memory:"), open_store(":memory:")
    one.topic("t")
    assert two.topics() == []
    assert one.path != two.path


def test_a_memory_store_goes_when_it_is_closed() -> None:
    with kafkalite.connect(":memory:") as store:
        store.topic("t").append(b"v")
        assert store.path.exists()
        assert store.check().ok
    assert not store.path.exists()


def test_only_the_creating_process_deletes_a_memory_store(open_store: OpenStore) -> None:
    store = open_store(":memory:")
    store.topic("t").append(b"parent")
    child = os.fork()
    if not child:
        try:
            store.topic("t").append(b"child")
            store.close()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert [record.value for record in store.topic("t").read()] == [b"parent", b"child"]


def test_threads_may_share_a_store(store: Store) -> None:
    def work(number: int) -> None:
        topic = store.topic("t")
        for count in range(25):
            topic.append(b"%d %d" % (number, count))
            assert topic.name in store.topics()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = list(store.topic("t").read())
    assert [record.offset for record in found] == list(range(150))
    for number in range(6):
        mine = [record.value for record in found if record.value.startswith(b"%d " % number)]
        assert mine == [b"%d %d" % (number, count) for count in range(25)]


def test_a_pickled_store_is_the_same_store_and_a_pickled_topic_keeps_its_serdes(store: Store) -> None:
    topic = store.topic("t", key=str, value=Order)
    anything = store.topic("j", value=JSON)
    topic.append(Order(1, 2.5), key="ä")
    with pickle.loads(pickle.dumps(store)) as other:
        assert other.path == store.path
        assert other.topics() == ["j", "t"]
    again, anything = pickle.loads(pickle.dumps((topic, anything)))
    with again._store, anything._store:
        again.append(Order(2, 3.5), key="b")
        assert [(record.key, record.value) for record in topic.read()] == [("ä", Order(1, 2.5)), ("b", Order(2, 3.5))]
        anything.append({"any": [1]})
        assert [record.value for record in store.topic("j", value=JSON).read()] == [{"any": [1]}]


def test_a_topic_travels_to_a_spawned_process(store: Store) -> None:
    topic = store.topic("t", value=str)
    process = multiprocessing.get_context("spawn").Process(
        target=kafkalite.Topic.append, args=(topic, "from the child")
    )
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert [record.value for record in topic.read()] == ["from the child"]


# Topics of a store


def test_topics_are_listed_sorted_without_internal_ones(store: Store) -> None:
    for name in ("b", "a", "Z", "_", "a.b"):
        store.topic(name)
    assert store.topics() == ["Z", "_", "a", "a.b", "b"]
    store.delete_topic("a")
    assert store.topics() == ["Z", "_", "a.b", "b"]


def test_deleting_an_unknown_topic_is_an_error(store: Store) -> None:
    with pytest.raises(UnknownTopicError, match="'nope'"):
        store.delete_topic("nope")
    assert store.check().ok


def test_several_topics_are_read_together_each_in_its_order(store: Store) -> None:
    orders, names = store.topic("orders", partitions=3, value=Order), store.topic("names", value=str)
    orders.append_many(
        [Order(number, 1.0) for number in range(60)], keys=[b"%d" % (number % 7) for number in range(60)]
    )
    names.append_many([f"n{number}" for number in range(40)])
    found = list(store.read([orders, "names"]))
    assert [record.value for record in found if record.topic == "names"] == [b"n%d" % number for number in range(40)]
    mine = [record for record in found if record.topic == "orders"]
    assert sorted(record.value.id for record in mine) == list(range(60))
    for partition in range(3):
        offsets = [record.offset for record in mine if record.partition == partition]
        assert offsets == list(range(len(offsets)))


def test_reading_several_topics_takes_start_and_until(store: Store) -> None:
    one, two = store.topic("one"), store.topic("two")
    for topic in (one, two):
        topic.append_many([b"0", b"1", b"2", b"3"])
    found = store.read([one, two], start={0: 1}, until={0: 3})
    assert sorted((record.topic, record.value) for record in found) == [
        ("one", b"1"), ("one", b"2"), ("two", b"1"), ("two", b"2"),
    ]  # fmt: skip
    following = store.read([one, two], start="latest", until=None)
    two.append(b"new")
    assert next(following).value == b"new"


def test_reading_no_topic_ends_at_once_and_an_unknown_one_is_an_error(store: Store) -> None:
    assert list(store.read([])) == []
    with pytest.raises(UnknownTopicError, match="'nope'"):
        store.read(["nope"])


# Closing


USES: dict[str, Callable[[Store], Any]] = {
    "enter": lambda store: store.__enter__(),
    "topic": lambda store: store.topic("t"),
    "topics": lambda store: store.topics(),
    "delete_topic": lambda store: store.delete_topic("t"),
    "read": lambda store: store.read(["t"]),
    "producer": lambda store: store.producer(),
    "alter": lambda store: store.alter(durability="none"),
    "settings": lambda store: store.settings,
    "flush": lambda store: store.flush(),
    "check": lambda store: store.check(),
}


@pytest.mark.parametrize("name", USES)
def test_a_closed_store_refuses_every_use_and_closing_again_is_nothing(
    open_store: OpenStore, tmp_path: Path, name: str
) -> None:
    store = open_store(tmp_path / "s.klite")
    store.topic("t").append(b"v")
    store.close()
    store.close()
    with pytest.raises(ClosedError, match=r"s\.klite is closed: open it again"):
        USES[name](store)
    store.__exit__(None, None, None)
    assert "closed" in repr(store)


TOPIC_USES: dict[str, Callable[[kafkalite.Topic[Any, Any]], Any]] = {
    "append": lambda topic: topic.append(b"v"),
    "append_many": lambda topic: topic.append_many([b"v"]),
    "read": lambda topic: topic.read(),
    "batches": lambda topic: topic.batches(),
    "tail": lambda topic: topic.tail(),
    "beginning_offsets": lambda topic: topic.beginning_offsets(),
    "end_offsets": lambda topic: topic.end_offsets(),
    "settings": lambda topic: topic.settings,
    "alter": lambda topic: topic.alter(retention_ms=1),
}


@pytest.mark.parametrize("name", TOPIC_USES)
@pytest.mark.parametrize("is_shared", [False, True])
def test_a_topic_of_a_closed_store_refuses_every_use(
    open_store: OpenStore, tmp_path: Path, name: str, is_shared: bool
) -> None:
    store = open_store(tmp_path / "s.klite")
    other = open_store(tmp_path / "s.klite") if is_shared else None
    topic = store.topic("t")
    topic.append(b"v")
    store.close()
    with pytest.raises(ClosedError):
        TOPIC_USES[name](topic)
    if other is not None:
        assert [record.value for record in other.topic("t").read()] == [b"v"]


def test_closing_a_store_commits_what_its_producers_hold_and_closes_them(
    open_store: OpenStore, layout: Path | str
) -> None:
    store = open_store(layout)
    again = open_store(store.path) if layout != ":memory:" else None
    topic = store.topic("t")
    producer = store.producer(linger_ms=3_600_000)
    delivery = producer.send(topic, b"v")
    store.close()
    assert delivery.result(0).offset == 0
    with pytest.raises(ClosedError):
        producer.send("t", b"late")
    if again is not None:
        assert [record.value for record in again.topic("t").read()] == [b"v"]


def _lost(store: Store) -> None:
    """Send what cannot be committed, as its topic is deleted before."""
    topic = store.topic("gone")
    store.producer(linger_ms=3_600_000).send(topic, b"v")
    store.delete_topic("gone")


def test_closing_a_store_raises_what_nobody_looked_at_and_is_closed_then(open_store: OpenStore, tmp_path: Path) -> None:
    store = open_store(tmp_path / "s.klite")
    _lost(store)
    with pytest.raises(DeliveryError, match="1 records were not committed"):
        store.close()
    store.close()
    with pytest.raises(ClosedError):
        store.topics()


def test_an_exception_in_the_block_is_not_hidden_by_what_closing_raises(open_store: OpenStore, tmp_path: Path) -> None:
    with pytest.raises(KeyError) as caught, open_store(tmp_path / "s.klite") as store:  # noqa: PT012  (leaving the block is what raises)
        _lost(store)
        raise KeyError("mine")
    assert "1 records were not committed" in "".join(caught.value.__notes__)


def test_a_dropped_open_store_warns_and_is_closed(open_store: OpenStore, layout: Path | str) -> None:
    store = kafkalite.connect(layout)
    store.topic("t").append(b"v")
    path = store.path
    with pytest.warns(ResourceWarning, match="was not closed"):  # noqa: PT031  (leaving the block is what raises)
        del store
        gc.collect()
    if layout == ":memory:":
        assert not path.exists()
    else:
        assert [record.value for record in open_store(path).topic("t").read()] == [b"v"]


def test_a_script_that_closes_nothing_leaves_a_sealed_store(open_store: OpenStore, tmp_path: Path) -> None:
    code = "import kafkalite, sys\nstore = kafkalite.connect(sys.argv[1])\nstore.topic('t').append(b'v')\n"
    with procs.python(code, tmp_path / "s") as child:
        child.succeed()
    assert not (tmp_path / "s" / "run").exists()
    assert [record.value for record in open_store(tmp_path / "s").topic("t").read()] == [b"v"]


def test_another_process_sees_a_commit_and_a_topic_at_once(store: Store) -> None:
    code = """
import kafkalite, sys
with kafkalite.connect(sys.argv[1]) as store:
    for record in store.topic("t").read(until=None):
        store.topic("answers").append(record.value + b"!")
"""
    answers = store.topic("answers")
    with procs.python(code, store.path if store.path.suffix else f"{store.path}/"):
        store.topic("t").append_many([b"1", b"2"])
        found = [record.value for record in islice(answers.read(until=None), 2)]
    assert found == [b"1!", b"2!"]
    assert store.check().ok


def test_flush_returns_with_everything_on_disk_whatever_the_durability(
    open_store: OpenStore, layout: Path | str
) -> None:
    store = open_store(layout, durability="none")
    store.topic("t").append(b"v")
    store.flush()
    positions = store._engine.index.positions()
    assert positions.durable == positions.tail
