"""`Store.backup` as its users meet it: beside writers, out of every kind of store, and what it refuses."""

import itertools
import shutil
from pathlib import Path

import pytest

import kafkalite
from kafkalite.testing.procs import AckFile
from tests.processes import history
from tests.processes.forks import Board, Forked, until

WRITERS = 3
STOP = 100


def write(path: Path, writer: int, acks: Path, board: Board) -> None:
    """Commits of all kinds until the board says stop; cell `writer` counts them."""
    with kafkalite.connect(path) as store, AckFile(acks) as file:
        scribe = history.Scribe(store, writer, file)
        while not board[STOP]:
            scribe.write()
            board[writer] += 1


def backups(path: Path, acks: list[Path], board: Board, tmp_path: Path) -> list[tuple[Path, list[Path]]]:
    """Three backups a few commits apart, each with what was acknowledged when it was asked for."""
    made = []
    for number, name in enumerate(("first.klite", "second", "third.klite")):
        goal = [board[writer] + 15 for writer in range(WRITERS)]
        until(lambda goal=goal: all(board[writer] >= goal[writer] for writer in range(WRITERS)), "more commits")
        known = [tmp_path / f"{number}.{each.name}" for each in acks]
        for each, copy in zip(acks, known, strict=True):
            shutil.copy(each, copy)
        with kafkalite.connect(path) as store:
            store.backup(tmp_path / name)
        made.append((tmp_path / name, known))
    return made


def rows(path: Path) -> dict[int, list[kafkalite.Record[bytes, bytes | None]]]:
    with kafkalite.connect(path, create=False, read_only=True) as store:
        topic = store.topic(history.TOPIC, create=False)
        return {number: list(topic.read(number)) for number in range(topic.partition_count)}


@pytest.mark.parametrize(("name", "durability"), [("store.klite", "commit"), ("store", "interval")])
def test_beside_writers_it_has_all_that_was_acknowledged_whole_commits_and_nothing_missing_before(
    tmp_path: Path, name: str, durability: str
) -> None:
    path = tmp_path / name
    with kafkalite.connect(path, durability=durability) as store:  # type: ignore[arg-type]
        store.topic(history.TOPIC, partitions=history.PARTITIONS)
    board = Board()
    acks = [tmp_path / f"acks.{writer}" for writer in range(WRITERS)]
    children = [Forked(write, path, writer, acks[writer], board) for writer in range(WRITERS)]
    try:
        maker = Forked(backups, path, acks, board, tmp_path)
        children.append(maker)
        made = maker.result()
        board[STOP] = 1
        for child in children:
            child.result()
    finally:
        for child in children:
            child.close()
    whole = rows(path)
    counts = []
    for backup, known in made:
        proof = history.prove(backup, known)
        assert proof.acknowledged > 0
        counts.append(proof.records)
        for partition, found in rows(backup).items():
            assert found == whole[partition][: len(found)]
    assert sorted(set(counts)) == counts
    assert history.prove(path, acks).records > counts[-1]


def test_from_every_layout(layout: Path | str, tmp_path: Path) -> None:
    with kafkalite.connect(layout) as store:
        store.topic("t", partitions=2).append_many(
            [b"a", None, b"c"], keys=[b"k", b"l", None], headers=[{"h": b"1"}] * 3
        )
        expected = list(store.topic("t").read())
        made = [store.backup(tmp_path / name) for name in ("copy.klite", "copy")]
        assert made[0].bytes == made[1].bytes > 0
        assert store.check().ok
    for one in made:
        with kafkalite.connect(one.path, create=False) as copy:
            assert list(copy.topic("t").read()) == expected
            assert copy.check().ok


def test_all_that_happened_later_is_not_in_it(tmp_path: Path) -> None:
    with kafkalite.connect(tmp_path / "s.klite") as store:
        store.topic("t").append(b"before")

        def append(done: int, total: int) -> None:
            store.topic("t").append(b"after")
            store.topic(f"new-{done}")

        store.backup(tmp_path / "copy", progress=append)
        assert store.topic("t").end_offsets()[0] > 1
        assert store.check().ok
    with kafkalite.connect(tmp_path / "copy", create=False) as copy:
        assert copy.topics() == ["t"]
        assert [record.value for record in copy.topic("t").read()] == [b"before"]
        assert copy.check().ok


def test_a_topic_that_grows_meanwhile_is_copied_as_it_was(tmp_path: Path) -> None:
    with kafkalite.connect(tmp_path / "s.klite") as store:
        topic = store.topic("t", partitions=2)
        store.topic("between")
        topic.alter(partitions=3)
        topic.append(b"before", partition=2)

        def grow(_: int, __: int) -> None:
            topic.alter(partitions=topic.partition_count + 1)
            topic.append(b"after", partition=topic.partition_count - 1)

        store.backup(tmp_path / "copy", progress=grow)
        assert topic.partition_count > 3
        assert store.check().ok
    with kafkalite.connect(tmp_path / "copy", create=False) as copy:
        assert [(one.partition, one.value) for one in copy.topic("t").read()] == [(2, b"before")]
        assert copy.topic("t").partition_count == 3
        assert copy.check().ok


def test_settings_topics_and_what_producers_may_repeat_come_along(tmp_path: Path) -> None:
    with kafkalite.connect(tmp_path / "s.klite", durability="interval", segment_bytes=1 << 20) as store:
        store.topic("t", partitions=3, retention_ms=5000)
        store.delete_topic(store.topic("gone").name)
        with store.producer() as producer:
            producer.send("t", b"idempotent", partition=1)
        store.backup(tmp_path / "copy.klite")
        assert store.check().ok
    with kafkalite.connect(tmp_path / "copy.klite", durability="interval", create=False) as copy:
        assert copy.settings["segment_bytes"] == 1 << 20
        assert copy.topics() == ["t"]
        assert copy.topic("t").settings["retention_ms"] == 5000
        assert copy.topic("new").partition_count == 1
        assert copy.check().ok  # producers' states among the tables that it compares


def test_restoring_is_copying_or_opening(tmp_path: Path) -> None:
    with kafkalite.connect(tmp_path / "s.klite") as store:
        store.topic("t").append(b"a")
        store.backup(tmp_path / "copy.klite")
        store.topic("t").append(b"b")
        assert store.check().ok
    shutil.copy(tmp_path / "copy.klite", tmp_path / "s.klite")  # over it, its old index beside it
    with kafkalite.connect(tmp_path / "s.klite", create=False) as store:
        assert [record.value for record in store.topic("t").read()] == [b"a"]
        assert store.topic("t").append(b"c").offset == 1
        assert store.check().ok


@pytest.mark.parametrize("kind", ["file", "empty directory", "store", "store's index", "the store itself"])
def test_an_existing_target_is_refused_and_left_alone(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "there.klite"
    with kafkalite.connect(tmp_path / "s.klite") as store:
        store.topic("t").append(b"a")
        if kind == "file":
            target.write_text("not yours")
        elif kind == "empty directory":
            target.mkdir()
        elif kind == "store":
            kafkalite.connect(target).close()
        else:
            target = store.path.with_name("s.klite-index") if "index" in kind else store.path
        before = target.read_bytes() if target.is_file() else None
        begun: list[object] = []
        with pytest.raises(kafkalite.StoreExistsError, match="replaces nothing") as raised:
            store.backup(target, progress=lambda done, total: begun.append(done))
        assert begun == []
        assert isinstance(raised.value, FileExistsError)
        assert (target.read_bytes() if target.is_file() else None) == before
        assert not list(tmp_path.glob("*unfinished*"))
        assert store.check().ok


def test_a_link_to_nowhere_is_followed_as_connect_does(tmp_path: Path) -> None:
    (tmp_path / "link.klite").symlink_to(tmp_path / "real.klite")
    with kafkalite.connect(tmp_path / "s.klite") as store:
        assert store.backup(tmp_path / "link.klite").path == tmp_path / "real.klite"
        assert store.check().ok
    with kafkalite.connect(tmp_path / "link.klite", create=False) as copy:
        assert copy.check().ok


@pytest.mark.parametrize("target", ["", ":memory:", "kafka://host:9092"])
def test_what_is_no_path_is_refused(tmp_path: Path, target: str) -> None:
    with kafkalite.connect(tmp_path / "s.klite") as store:
        with pytest.raises(kafkalite.ConfigError, match="a backup cannot go to"):
            store.backup(target)
        assert store.check().ok


def test_a_target_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with kafkalite.connect(tmp_path / "s.klite") as store:
        with pytest.raises(kafkalite.NotAStoreError):
            store.backup(tmp_path / "file" / "copy.klite")
        assert store.check().ok


def test_directories_above_the_target_are_made(tmp_path: Path) -> None:
    with kafkalite.connect(tmp_path / "s.klite") as store:
        store.backup(tmp_path / "a" / "b" / "copy.klite")
        store.backup(f"{tmp_path}/c.d/")  # the separator says that it is a directory
        assert (tmp_path / "c.d" / "superblock").exists()
        assert store.check().ok
    for path in (tmp_path / "a" / "b" / "copy.klite", tmp_path / "c.d"):
        with kafkalite.connect(path, create=False) as copy:
            assert copy.check().ok


def test_progress_rises_to_the_end(tmp_path: Path) -> None:
    with kafkalite.connect(tmp_path / "s.klite") as store:
        store.topic("t", max_message_bytes=20 << 20).append_many([bytes(9 << 20)] * 4)
        told: list[tuple[int, int]] = []
        made = store.backup(tmp_path / "copy", progress=lambda done, total: told.append((done, total)))
        assert told[0] == (0, made.bytes)
        assert told[-1] == (made.bytes, made.bytes)
        assert all(before[0] < after[0] for before, after in itertools.pairwise(told))
        assert len(told) >= 4
        assert store.check().ok


def test_who_is_told_of_the_progress_may_end_it(tmp_path: Path) -> None:
    with kafkalite.connect(tmp_path / "s.klite") as store:

        def interrupt(done: int, total: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            store.backup(tmp_path / "copy.klite", progress=interrupt)
        assert not list(tmp_path.glob("copy*"))
        store.backup(tmp_path / "copy.klite")
        assert store.check().ok


def test_a_closed_store_has_none(tmp_path: Path) -> None:
    store = kafkalite.connect(tmp_path / "s.klite")
    store.close()
    with pytest.raises(kafkalite.ClosedError):
        store.backup(tmp_path / "copy.klite")
    assert not list(tmp_path.glob("copy*"))
    with kafkalite.connect(tmp_path / "s.klite") as store:
        assert store.check().ok


def test_a_store_opened_for_reading_has_one(tmp_path: Path) -> None:
    with kafkalite.connect(tmp_path / "s.klite") as store:
        store.topic("t").append(b"a")
    with kafkalite.connect(tmp_path / "s.klite", read_only=True) as store:
        store.backup(tmp_path / "copy.klite")
        assert store.check().ok
    with kafkalite.connect(tmp_path / "copy.klite", read_only=True) as copy:
        assert [record.value for record in copy.topic("t").read()] == [b"a"]
        assert copy.check().ok
