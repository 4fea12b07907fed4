"""Copying topics: nothing of a record changes, all of it appears at once, and an interrupted copy goes on."""

import itertools
import random
from pathlib import Path
from typing import Any

import pytest

import kafkalite
from kafkalite import TopicSettingsError, copying
from kafkalite.records import kafka_v2
from kafkalite.records.envelope import CONTROL, TRANSACTIONAL, seal
from kafkalite.storage import catalogue
from kafkalite.storage.commit import Append
from kafkalite.testing.faults import Crash, Injector, crash
from tests.faults.ledger import LEDGER
from tests.processes.forks import Forked
from tests.storage import kit

FAULT_CLASS = "F1"
PLACES = ("copy.klite", "copy")


def fill(store: kafkalite.Store, seed: int = 7) -> None:
    """Topics with everything that a record can have, in batches of all sizes."""
    chance = random.Random(seed)
    orders = store.topic("orders", partitions=3, retention_ms=60_000, cleanup_policy="compact")
    for _ in range(20):
        count = chance.randint(1, 40)
        orders.append_many(
            [chance.choice([None, b"", chance.randbytes(chance.randrange(300))]) for _ in range(count)],
            keys=[chance.choice([None, b"", b"%d" % n]) for n in range(count)],
            timestamps_ms=[chance.randrange(2**42) for _ in range(count)],
            headers=[chance.choice([(), (("h", None), ("h", b"\xff"), ("", b""))]) for _ in range(count)],
        )
    with store.producer(compression_type="zstd") as producer:  # idempotent: with ids and sequences
        producer.send_many("orders", [b"compress me " * 20] * 500)
    store.topic("clock", message_timestamp_type="LogAppendTime").append_many([b"tick", b"tock"])
    store.topic("empty", partitions=2, max_message_bytes=5000)


def contents(store: kafkalite.Store, name: str) -> list[tuple[Any, ...]]:
    """All that can be seen of a topic."""
    topic = store.topic(name, create=False)
    batches = [
        (batch.partition, batch.offsets, batch.timestamps_ms, batch.timestamp_type, batch.keys, batch.values)
        for partition in range(topic.partition_count)
        for batch in topic.batches(partition)
    ]
    records = [tuple(record) for partition in range(topic.partition_count) for record in topic.read(partition)]
    return [dict(topic.settings), topic.end_offsets(), batches, records]  # type: ignore[list-item]


@pytest.mark.parametrize("place", PLACES)
def test_a_copy_is_equal_byte_for_byte_in_every_layout(layout: Path | str, tmp_path: Path, place: str) -> None:
    with kafkalite.connect(layout) as source:
        fill(source)
        copied = kafkalite.copy_topics(source, tmp_path / place)
        assert [one.name for one in copied] == source.topics() == ["clock", "empty", "orders"]
        assert sum(one.records for one in copied) == sum(1 for _ in source.read(source.topics()))
        with kafkalite.connect(tmp_path / place, create=False) as target:
            assert target.topics() == source.topics()
            for name in source.topics():
                assert contents(target, name) == contents(source, name)
            assert target.check().ok
        assert source.check().ok


def test_a_topic_that_grew_and_one_that_grows_meanwhile(tmp_path: Path) -> None:
    with kafkalite.connect(tmp_path / "s.klite") as source, kafkalite.connect(tmp_path / "copy") as target:
        fill(source)
        grown = source.topic("orders")
        grown.alter(partitions=5)
        grown.append_many([b"a", b"b"], partition=4)
        expected = contents(source, "orders")

        def grow(_: int, __: int) -> None:
            grown.alter(partitions=grown.partition_count + 1)
            grown.append(b"too late", partition=grown.partition_count - 1)

        (copied,) = kafkalite.copy_topics(source, target, ["orders"], progress=grow)
        assert (copied.partitions, target.topic("orders").partition_count) == (5, 5)
        assert contents(target, "orders") == expected
        with pytest.raises(TopicSettingsError, match=r"and 5 in .*topic.alter\(partitions="):
            kafkalite.copy_topics(source, target, ["orders"], append=True)
        target.topic("orders").alter(partitions=grown.partition_count)
        kafkalite.copy_topics(source, target, ["orders"], append=True)
        assert (source.check().ok, target.check().ok) == (True, True)


def test_kafkas_own_records_and_damaged_utf8_travel_undecoded(tmp_path: Path) -> None:
    """A payload is not looked at: a batch of the other format, and one that no reader takes, come through."""
    v2 = kafka_v2.encode([b"v", None], keys=[b"k", None], headers=[(("h", b"1"),), ()], base_timestamp=5)
    broken = seal(b"\xc1 not msgpack", 3, 1, 2)
    with kafkalite.connect(tmp_path / "s.klite") as source:
        log_id = source.topic("t")._state.log_id(0)
        source._engine.append([Append(log_id, v2)])
        source._engine.append([Append(log_id, broken)])
        kafkalite.copy_topics(source, tmp_path / "copy")
        with kafkalite.connect(tmp_path / "copy") as target:
            here, there = (
                [found.batch for found in kit.frames_of(path, log_id)]
                for path, log_id in ((source.path, log_id), (target.path, target.topic("t")._state.log_id(0)))
            )
            assert [batch[21:] for batch in here] == [batch[21:] for batch in there]
            assert [len(batch) for batch in there] == [v2.size, broken.size]
            assert [record.value for record in target.topic("t").read(until=2)] == [b"v", None]
            assert target.topic("t").end_offsets() == {0: 5}


def test_a_target_that_is_made_has_the_sources_settings_and_an_old_one_keeps_its_own(tmp_path: Path) -> None:
    with kafkalite.connect(tmp_path / "s.klite", durability="interval", segment_bytes=1 << 20) as source:
        source.topic("t").append(b"a")
        kafkalite.connect(tmp_path / "old").close()
        kafkalite.copy_topics(source, tmp_path / "new")
        kafkalite.copy_topics(source, tmp_path / "old")
        for name, durability, size in (("new", "interval", 1 << 20), ("old", "commit", 64 << 20)):
            with kafkalite.connect(tmp_path / name) as target:
                assert (target.settings["durability"], target.settings["segment_bytes"]) == (durability, size)
                assert target.check().ok
        assert source.check().ok


# Which topics


@pytest.mark.parametrize(
    ("topics", "named", "expected"),
    [
        (["orders-1"], {}, ["orders-1"]),
        (["orders-*"], {}, ["orders-1", "orders-2"]),
        (["orders-?", "users"], {}, ["orders-1", "orders-2", "users"]),
        (["orders-[!1]"], {}, ["orders-2"]),
        (["*"], {"exclude": ["orders-*", "nothing"]}, ["users", "users.old"]),
        (["users"], {"regex": True}, ["users"]),
        (["users.*"], {"regex": True}, ["users", "users.old"]),
        (["orders-[0-9]+", "u.*"], {"regex": True, "exclude": [".*old"]}, ["orders-1", "orders-2", "users"]),
        (["users.old"], {"exclude": ["*"]}, []),
    ],
)
def test_patterns(tmp_path: Path, topics: list[str], named: dict[str, Any], expected: list[str]) -> None:
    with kafkalite.connect(tmp_path / "s.klite") as source, kafkalite.connect(tmp_path / "t.klite") as target:
        for name in ("orders-1", "orders-2", "users", "users.old"):
            source.topic(name).append(name.encode())
        assert [one.name for one in kafkalite.copy_topics(source, target, topics, **named)] == expected
        assert target.topics() == expected
        assert target.check().ok
        assert source.check().ok


@pytest.mark.parametrize("pattern", ["nothing", "Orders", "order", "__cluster_metadata"])
def test_a_pattern_that_fits_nothing_is_an_error_and_makes_no_store(tmp_path: Path, pattern: str) -> None:
    with kafkalite.connect(tmp_path / "s.klite") as source:
        source.topic("orders")
        with pytest.raises(kafkalite.UnknownTopicError, match="there are orders"):
            kafkalite.copy_topics(source, tmp_path / "t.klite", ["orders", pattern])
        assert not (tmp_path / "t.klite").exists()
        assert source.check().ok


def test_wrong_patterns_are_said(tmp_path: Path) -> None:
    with kafkalite.connect(tmp_path / "s.klite") as source:
        source.topic("orders")
        with pytest.raises(kafkalite.ConfigError, match="one pattern"):
            kafkalite.copy_topics(source, tmp_path / "t.klite", "orders")
        with pytest.raises(kafkalite.ConfigError, match="regular expression"):
            kafkalite.copy_topics(source, tmp_path / "t.klite", ["("], regex=True)
        with pytest.raises(kafkalite.ConfigError, match="into itself"):
            kafkalite.copy_topics(source, source.path)
        with pytest.raises(kafkalite.StoreNotFoundError):
            kafkalite.copy_topics(tmp_path / "nowhere.klite", tmp_path / "t.klite")
        assert source.check().ok


def test_a_target_opened_for_reading_is_refused(tmp_path: Path) -> None:
    kafkalite.connect(tmp_path / "t.klite").close()
    with (
        kafkalite.connect(tmp_path / "s.klite") as source,
        kafkalite.connect(tmp_path / "t.klite", read_only=True) as target,
    ):
        source.topic("orders")
        with pytest.raises(kafkalite.StorePermissionError):
            kafkalite.copy_topics(source, target)
        assert source.check().ok
        assert target.check().ok


# Topics that are there


def test_a_topic_that_is_there_is_refused_before_anything_is_copied(tmp_path: Path) -> None:
    with kafkalite.connect(tmp_path / "s.klite") as source, kafkalite.connect(tmp_path / "t.klite") as target:
        source.topic("a").append(b"1")
        source.topic("b").append(b"1")
        target.topic("b")
        with pytest.raises(kafkalite.TopicSettingsError, match=r"has topic 'b' already.*append"):
            kafkalite.copy_topics(source, target)
        assert target.topics() == ["b"]
        assert target.check().ok
        assert source.check().ok


def test_append_goes_behind_what_is_there_again_and_again(tmp_path: Path) -> None:
    """Producers' ids stay behind, else the second time would be taken for a repeat, or for a gap."""
    with kafkalite.connect(tmp_path / "s.klite") as source, kafkalite.connect(tmp_path / "t.klite") as target:
        with source.producer() as producer:
            source.topic("a", partitions=2)
            for number in range(8):
                producer.send("a", b"%d" % number, partition=number % 2)
                producer.flush()
        target.topic("a", partitions=2).append(b"first", partition=1)
        for _ in range(2):
            kafkalite.copy_topics(source, target, append=True)
        values = [[record.value for record in target.topic("a").read(partition)] for partition in (0, 1)]
        assert values == [[b"0", b"2", b"4", b"6"] * 2, [b"first", *[b"1", b"3", b"5", b"7"] * 2]]
        with target.producer() as producer:
            assert producer.send("a", b"own", partition=0).result().offset == 8
        assert target.check().ok
        assert source.check().ok


def test_append_needs_as_many_partitions(tmp_path: Path) -> None:
    with kafkalite.connect(tmp_path / "s.klite") as source, kafkalite.connect(tmp_path / "t.klite") as target:
        source.topic("a", partitions=2)
        target.topic("a", partitions=3)
        with pytest.raises(kafkalite.TopicSettingsError, match="2 partitions, and 3 in"):
            kafkalite.copy_topics(source, target, append=True)
        assert target.check().ok
        assert source.check().ok


def test_a_topic_that_comes_to_be_meanwhile_stops_the_copy_and_stays_whole(tmp_path: Path) -> None:
    with kafkalite.connect(tmp_path / "s.klite") as source, kafkalite.connect(tmp_path / "t.klite") as target:
        source.topic("a").append(b"1")

        def create(done: int, total: int) -> None:
            target.topic("a").append(b"theirs")

        with pytest.raises(kafkalite.TopicSettingsError, match="already"):
            kafkalite.copy_topics(source, target, progress=create)
        assert {record.value for record in target.topic("a").read()} == {b"theirs"}
        target.delete_topic("a")
        kafkalite.copy_topics(source, target)
        assert contents(target, "a") == contents(source, "a")
        assert target.topics() == ["a"]
        assert target.check().ok
        assert source.check().ok


# One moment


def test_what_is_appended_meanwhile_is_not_in_it(tmp_path: Path) -> None:
    with kafkalite.connect(tmp_path / "s.klite") as source, kafkalite.connect(tmp_path / "t.klite") as target:
        for name in ("a", "b"):
            source.topic(name).append(b"before")

        def append(done: int, total: int) -> None:
            source.topic("a").append(b"after")
            source.topic("b").append(b"after")

        kafkalite.copy_topics(source, target, progress=append)
        assert [record.value for record in target.read(["a", "b"])] == [b"before"] * 2
        assert target.check().ok
        assert source.check().ok


def test_a_topic_deleted_meanwhile_is_said(tmp_path: Path) -> None:
    with kafkalite.connect(tmp_path / "s.klite") as source, kafkalite.connect(tmp_path / "t.klite") as target:
        source.topic("a").append(b"1")
        with pytest.raises(kafkalite.UnknownTopicError):
            kafkalite.copy_topics(source, target, progress=lambda done, total: source.delete_topic("a"))
        assert not [name for name in target.topics() if not name.startswith(copying.UNFINISHED)]
        assert target.check().ok
        assert source.check().ok


def test_progress_counts_records_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "COMMIT_BYTES", 10_000)
    with kafkalite.connect(tmp_path / "s.klite") as source:
        fill(source)
        told: list[tuple[int, int]] = []
        kafkalite.copy_topics(source, tmp_path / "t", progress=lambda done, total: told.append((done, total)))
        total = sum(end for name in source.topics() for end in source.topic(name).end_offsets().values())
        assert (told[0], told[-1]) == ((0, total), (total, total))
        assert all(before[0] <= after[0] for before, after in itertools.pairwise(told))
        assert len({done for done, _ in told}) > 3
        assert source.check().ok
    with kafkalite.connect(tmp_path / "t", create=False) as target:
        assert target.check().ok


# Interrupted


def test_killed_at_any_step_nothing_appears_and_the_next_copy_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "COMMIT_BYTES", 2_000)
    source = kafkalite.connect(tmp_path / "s.klite")
    topic = source.topic("a", partitions=2)
    for number in range(6):
        topic.append(b"%d" % number * 900, partition=number % 2)
    source.topic("b").append(b"b")
    resumed = 0
    for at in itertools.count(1):
        path = tmp_path / f"{at}.klite"
        target = kafkalite.connect(path)
        target._engine._prepare_is_due = True  # no help of another thread, whose steps would count
        try:
            with Injector(crash(), at) as fault:
                kafkalite.copy_topics(source, target)
        except Crash:
            kit.abandon(target)
        if fault.struck is None:
            break
        LEDGER.fault("copy of topics", at, "crash")
        LEDGER.acknowledged(7)
        with kafkalite.connect(path) as target:
            assert [name for name in target.topics() if not name.startswith(copying.UNFINISHED)] in ([], ["a", "b"])
            if "a" not in target.topics():
                copied = kafkalite.copy_topics(source, target)
                resumed += sum(one.records for one in copied) < 7
            assert target.topics() == ["a", "b"]
            assert [contents(target, name) for name in ("a", "b")] == [contents(source, name) for name in ("a", "b")]
            assert target.check().ok
    assert at > 20
    assert resumed > 5
    with target:
        assert target.topics() == ["a", "b"]
        assert target.check().ok
    with source:
        assert source.check().ok


def interrupted(source: kafkalite.Store, target: kafkalite.Store) -> None:
    """A copy that is stopped when half of it is there."""

    def stop(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kafkalite.copy_topics(source, target, progress=stop)
    assert all(name.startswith(copying.UNFINISHED) for name in target.topics())
    assert target.topics()


def numbered(path: Path, values: int = 40) -> kafkalite.Store:
    store = kafkalite.connect(path, durability="interval")
    topic = store.topic("a")
    for number in range(values):
        topic.append(b"%d " % number * 200)
    return store


def test_an_interrupted_copy_goes_on_with_what_was_appended_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "COMMIT_BYTES", 3_000)
    with numbered(tmp_path / "s.klite") as source, kafkalite.connect(tmp_path / "t") as target:
        interrupted(source, target)
        source.topic("a").append(b"since")
        source.topic("a").alter(retention_ms=77)
        (copied,) = kafkalite.copy_topics(source, target)
        assert 0 < copied.records < 25
        assert contents(target, "a") == contents(source, "a")
        assert target.topics() == ["a"]
        assert target.check().ok
        assert source.check().ok


@pytest.mark.parametrize("change", ["other records", "fewer records", "another partition count"])
def test_an_unfinished_copy_of_something_else_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """The source was restored from a backup, and went on otherwise: the same topic id, other records."""
    monkeypatch.setattr(copying, "COMMIT_BYTES", 3_000)
    with numbered(tmp_path / "s.klite", 4) as source, kafkalite.connect(tmp_path / "t") as target:
        source.backup(tmp_path / "early.klite")
        for number in range(30):
            source.topic("a").append(b"%d " % number * 300)
        interrupted(source, target)
        assert source.check().ok
        with kafkalite.connect(tmp_path / "early.klite", create=False) as restored:
            if change == "other records":
                for number in range(30):
                    restored.topic("a").append(b"%d " % number * 299)
            elif change == "another partition count":
                (name,) = target.topics()
                target.delete_topic(name)
                target.topic(name, partitions=2)
            (copied,) = kafkalite.copy_topics(restored, target)
            assert copied.records == restored.topic("a").end_offsets()[0]
            assert contents(target, "a") == contents(restored, "a")
            assert target.topics() == ["a"]
            assert restored.check().ok
        assert target.check().ok


def test_unfinished_copies_are_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "COMMIT_BYTES", 3_000)
    with numbered(tmp_path / "s.klite") as source, kafkalite.connect(tmp_path / "t") as target:
        interrupted(source, target)
        target.topic("own")
        assert [one.name for one in kafkalite.copy_topics(target, tmp_path / "u")] == ["own"]
        assert target.check().ok
        assert source.check().ok
    with kafkalite.connect(tmp_path / "u", create=False) as last:
        assert last.check().ok


def test_two_copies_of_one_topic_at_once_do_not_interleave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "COMMIT_BYTES", 3_000)
    with numbered(tmp_path / "s.klite") as source, kafkalite.connect(tmp_path / "t") as target:
        others: list[object] = []

        def meanwhile(done: int, total: int) -> None:
            if done and not others:
                others.append(done)
                kafkalite.copy_topics(source, target)  # finds the unfinished topic, and finishes it

        with pytest.raises((kafkalite.OffsetConflictError, kafkalite.UnknownTopicError)):
            kafkalite.copy_topics(source, target, progress=meanwhile)
        assert contents(target, "a") == contents(source, "a")
        assert target.topics() == ["a"]
        assert target.check().ok
        assert source.check().ok


def test_somebody_who_writes_into_an_unfinished_copy_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "COMMIT_BYTES", 3_000)
    with numbered(tmp_path / "s.klite") as source, kafkalite.connect(tmp_path / "t") as target:

        def meddle(done: int, total: int) -> None:
            target.topic(target.topics()[0]).append(b"meddled")

        with pytest.raises(kafkalite.OffsetConflictError, match="somebody else is writing the copy of topic 'a'"):
            kafkalite.copy_topics(source, target, progress=meddle)
        kafkalite.copy_topics(source, target)
        assert contents(target, "a") == contents(source, "a")
        assert target.check().ok
        assert source.check().ok


# What cannot be copied


@pytest.mark.parametrize("attributes", [TRANSACTIONAL, TRANSACTIONAL | CONTROL])
def test_transactions_are_refused(tmp_path: Path, attributes: int) -> None:
    with kafkalite.connect(tmp_path / "s.klite") as source, kafkalite.connect(tmp_path / "t") as target:
        log_id = source.topic("a")._state.log_id(0)
        found = kit.batch(b"x")
        sealed = seal(found.payload, 1, 1000, 1000, attributes, producer_id=5, producer_epoch=0, base_sequence=0)
        source._engine.append([Append(log_id, sealed)])
        with pytest.raises(kafkalite.UnsupportedError, match="transaction"):
            kafkalite.copy_topics(source, target)
        assert target.check().ok


def test_a_topic_whose_beginning_was_removed_is_refused(tmp_path: Path) -> None:
    """A new topic begins at 0, so its offsets could not be kept."""
    with kafkalite.connect(tmp_path / "s.klite") as source, kafkalite.connect(tmp_path / "t") as target:
        topic = source.topic("a")
        topic.append_many([b"1", b"2"])
        source._engine.append([Append(0, catalogue.batch_of([(("log_start", topic._state.log_id(0)), 1)]))])
        with pytest.raises(kafkalite.UnsupportedError, match="no longer begins at offset 0"):
            kafkalite.copy_topics(source, target)
        assert target.topics() == []
        assert target.check().ok
        assert source.check().ok


def test_a_damaged_batch_stops_the_copy_and_is_located(tmp_path: Path) -> None:
    with kafkalite.connect(tmp_path / "s") as source, kafkalite.connect(tmp_path / "t") as target:
        for number in range(3):
            source.topic("a").append(b"%d" % number * 100)
        log_id = source.topic("a")._state.log_id(0)
        kit.flip(source.path, kit.frames_of(source.path, log_id)[1].position + 120)
        with pytest.raises(kafkalite.CorruptRecordError, match="'a', partition 0: the batch that ends with offset 1"):
            kafkalite.copy_topics(source, target)
        assert all(name.startswith(copying.UNFINISHED) for name in target.topics())
        assert target.check().ok
        assert not source.check().ok


# Several processes


def append_and_copy(path: Path, target: Path, number: int) -> int:
    with kafkalite.connect(path) as store:
        for one in range(20):
            store.topic("a").append_many([b"%d %d" % (number, one)] * 2, partition=one % 2)
        return sum(one.records for one in kafkalite.copy_topics(store, target))


def test_beside_writers_a_copy_is_a_prefix_of_each_partition_with_whole_commits(tmp_path: Path) -> None:
    with kafkalite.connect(tmp_path / "s.klite") as store:
        store.topic("a", partitions=2)
    children = [Forked(append_and_copy, tmp_path / "s.klite", tmp_path / f"{n}.klite", n) for n in range(3)]
    try:
        counts = [child.result() for child in children]
    finally:
        for child in children:
            child.close()
    assert max(counts) == 120
    with kafkalite.connect(tmp_path / "s.klite") as store:
        whole = {number: list(store.topic("a").read(number)) for number in (0, 1)}
        assert store.check().ok
    for number in range(3):
        with kafkalite.connect(tmp_path / f"{number}.klite", create=False) as target:
            for partition in (0, 1):
                found = list(target.topic("a").read(partition))
                assert found == whole[partition][: len(found)]
                assert len(found) % 2 == 0
            assert target.check().ok
