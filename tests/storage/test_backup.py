"""A backup is a whole store of one moment, whatever happens meanwhile; and a stale index beside it is noticed."""

import errno
import itertools
import os
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kafkalite
from kafkalite import disk
from kafkalite.storage import segment, superblock
from kafkalite.testing.faults import Crash, Injector, Kind, crash, failing, no_descriptor, short_then
from tests.faults.ledger import LEDGER
from tests.processes.forks import Forked, die_at

from . import kit

FAULT_CLASS = "F1"
TARGETS = {"file": "copy.klite", "directory": "copy"}

target_layout = pytest.mark.parametrize("target_layout", TARGETS)


@pytest.fixture
def target(target_layout: str, tmp_path: Path) -> Path:
    """Where a backup may go, in each layout."""
    return tmp_path / TARGETS[target_layout]


def filled(path: Path, *, rolls: int = 2, **settings: Any) -> kafkalite.Store:
    """An open store with some segments."""
    store = kafkalite.connect(path, **settings)
    topic = store.topic("t", partitions=2, max_message_bytes=2_000_000)
    for number in range(rolls):
        topic.append(b"%d" % number + bytes(500_000), partition=number % 2)
        topic.append(b"small %d" % number, partition=0)
    return store


def era_of(store: kafkalite.Store) -> int:
    return store._engine.index.positions().era


def entries(path: Path) -> set[str]:
    return {entry.name for entry in path.iterdir()}


def prove(target: Path, expected: list[bytes | None], era: int = 0) -> None:
    """The backup opens without being rebuilt, and is sound; then it can be written, and is sound still."""
    assert kit.state_of(target).state is superblock.State.SEALED
    with kafkalite.connect(target, create=False, read_only=True) as made:
        assert era_of(made) == era
        assert made.check().ok
        assert kit.values(made) == expected
    with kafkalite.connect(target, create=False) as made:
        assert era_of(made) == era
        made.topic("t").append_many([bytes(100_000)] * 12, partition=1)  # a roll
        assert made.check().ok
        assert kit.values(made) == [*expected, *[bytes(100_000)] * 12]


# What it is


@target_layout
def test_each_layout_goes_to_each_layout(path: Path, target: Path) -> None:
    with filled(path, rolls=4) as store:
        made = store.backup(target)
        assert made.path == target
        assert made.segments == len(kit.extents_of(target)) > 2
        expected = kit.values(store)
        assert store.check().ok
    prove(target, expected)


@target_layout
def test_only_store_and_index_stand_there_afterwards(path: Path, target: Path, tmp_path: Path) -> None:
    with filled(path) as store:
        before = entries(tmp_path)
        store.backup(target)
        names = {target.name} if target.is_dir() else {target.name, f"{target.name}-index"}
        assert entries(tmp_path) - before == names
        assert store.check().ok


def test_an_empty_store_has_a_backup(path: Path, tmp_path: Path) -> None:
    with kafkalite.connect(path, durability="interval") as store:
        store.backup(tmp_path / "copy.klite")
        assert store.check().ok
    with kafkalite.connect(tmp_path / "copy.klite", create=False) as made:
        assert made.topics() == []
        assert made.settings["durability"] == "interval"
        assert made.check().ok


def test_backup_is_byte_for_byte_the_journal_up_to_its_tail_and_zeros_behind(path: Path, tmp_path: Path) -> None:
    with filled(path, rolls=3) as store:
        tail = store._engine.index.positions().tail
        store.topic("t").append(b"later", partition=0)  # stands behind the tail that a later seal would name
        store.backup(tmp_path / "copy")
        tail_now = store._engine.index.positions().tail
        assert store.check().ok
    assert tail_now > tail
    numbers = [extent.number for extent in kit.extents_of(path)]
    assert [extent.number for extent in kit.extents_of(tmp_path / "copy")] == numbers
    for extent in kit.extents_of(path):
        end = segment.byte_of(tail_now) if extent.number == segment.number_of(tail_now) else extent.size
        here, there = (
            file.read_bytes()[start : start + extent.size]
            for file, start in (
                kit.where(path, segment.position_of(extent.number, 0)),
                kit.where(tmp_path / "copy", segment.position_of(extent.number, 0)),
            )
        )
        assert there == here[:end] + bytes(extent.size - end)


@target_layout
def test_a_recovered_store_keeps_its_eras_and_leaves_what_was_cut(
    path: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(path, durability="none")
    store.flush()
    kit.abandon(store)
    kit.reboot(monkeypatch)
    with kafkalite.connect(path) as store:
        assert era_of(store) == 1
        store.topic("t").append(b"second era", partition=1)
        store.backup(target)
        expected = kit.values(store)
        assert store.check().ok
    prove(target, expected, era=1)
    rebuilt = kit.copied(target, tmp_path, "rebuilt")  # without its index: the journal alone says the same
    with kafkalite.connect(rebuilt) as again:
        assert kit.values(again)[: len(expected)] == expected
        assert again.check().ok


def test_it_is_reserved_not_written_where_the_store_is(path: Path, tmp_path: Path) -> None:
    """A `none` store only reserves its segments: its backup does the same."""
    with filled(path, durability="none") as store, Injector(crash(), 0) as fault:
        store.backup(tmp_path / "copy.klite")
    after_copying = fault.steps[len(fault.steps) - fault.steps[::-1].index("copy") :]
    assert after_copying[0] == "reserve"
    with kafkalite.connect(tmp_path / "copy.klite") as made:
        assert made.check().ok


# What is appended and not flushed yet


@target_layout
def test_what_is_not_flushed_yet_is_in_it_over_several_segments(path: Path, target: Path) -> None:
    with filled(path, rolls=4, durability="none") as store:
        positions = store._engine.index.positions()
        assert segment.number_of(positions.durable) < segment.number_of(positions.tail)
        expected = kit.values(store)
        store.backup(target)
        assert store.check().ok
    prove(target, expected)


@pytest.mark.parametrize("which", [0, -1])
def test_what_was_not_flushed_and_is_damaged_makes_no_backup(path: Path, tmp_path: Path, which: int) -> None:
    """After a failed flush the page cache may give other bytes: a backup must not seal them."""
    store = filled(path, rolls=3, durability="none")
    durable = store._engine.index.positions().durable
    victims = [found for found in kit.frames_of(path) if found.position >= durable and found.length]
    kit.flip(path, victims[which].position + 50)
    with pytest.raises(kafkalite.StoreFailedError, match="does not verify"):
        store.backup(tmp_path / "copy.klite")
    assert not [name for name in entries(tmp_path) if name.startswith("copy")]
    kit.flip(path, victims[which].position + 50)
    assert store.check().ok
    store.close()


def test_a_store_whose_flush_failed_can_still_be_saved(path: Path, tmp_path: Path) -> None:
    store = filled(path)
    with kit.Fault(0) as fault:

        def fail(name: str) -> None:
            if name == "flush":
                raise OSError(errno.EIO, "the disk is gone")

        disk.on_step = fail
        with pytest.raises(kafkalite.StoreFailedError):
            store.topic("t").append(b"not acknowledged", partition=1)
    assert fault.steps == []
    store.backup(tmp_path / "copy.klite")
    with kafkalite.connect(tmp_path / "copy.klite", read_only=True) as made:
        assert kit.values(made)[: len(kit.values(store))] == kit.values(store)
        assert made.check().ok
    store.flush()
    assert store.check().ok
    store.close()


def test_a_damaged_segment_that_is_too_short_is_named(tmp_path: Path) -> None:
    store = filled(tmp_path / "store")
    kit.abandon(store)
    first = tmp_path / "store" / f"{1:020d}.segment"
    os.truncate(first, 8192)
    with kafkalite.connect(tmp_path / "store") as store:
        with pytest.raises(kafkalite.CorruptRecordError, match="segment 1 "):
            store.backup(tmp_path / "copy")
        assert entries(tmp_path) == {"store"}
        assert not store.check().ok


# Names


@pytest.mark.parametrize("is_directory", [True, False])
def test_a_target_that_comes_to_be_meanwhile_is_left_alone(tmp_path: Path, is_directory: bool) -> None:
    target = tmp_path / ("copy" if is_directory else "copy.klite")
    with filled(tmp_path / "s.klite") as store:

        def create(done: int, total: int) -> None:
            if done == total:
                with kafkalite.connect(target) as other:
                    other.topic("theirs")

        with pytest.raises(kafkalite.StoreExistsError):
            store.backup(target, progress=create)
        assert store.check().ok
    with kafkalite.connect(target, create=False) as other:
        assert other.topics() == ["theirs"]
        assert era_of(other) == 0
        assert other.check().ok
    assert not [name for name in entries(tmp_path) if "unfinished" in name]


@pytest.mark.parametrize("name", ["copy", "copy.klite"])
def test_a_target_that_comes_to_be_at_the_very_last_step_is_left_alone(tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    with filled(tmp_path / "s.klite") as store:

        def create(step: str) -> None:
            if step in ("rename store", "rename store.klite"):
                disk.on_step = None
                kafkalite.connect(target).close()

        disk.on_step = create
        with pytest.raises(kafkalite.StoreExistsError, match="came to be"):
            store.backup(target)
        assert store.check().ok
    with kafkalite.connect(target, create=False) as other:
        assert other.topics() == []
        assert other.check().ok


def test_what_an_unfinished_backup_left_is_not_taken_over(path: Path, tmp_path: Path) -> None:
    rubbish = tmp_path / "copy-unfinished" / "store"
    rubbish.mkdir(parents=True)
    (rubbish.parent / "backup-lock").write_text("")
    (rubbish / "index").write_bytes(b"\xff" * (8 << 20))
    for number in (1, 2, 3, 99):
        (rubbish / f"{number:020d}.segment").write_bytes(b"\xff" * (4 << 20))
    with filled(path) as store:
        store.backup(tmp_path / "copy")
        expected = kit.values(store)
        assert store.check().ok
    assert not rubbish.parent.exists()
    assert not (tmp_path / "copy" / f"{99:020d}.segment").exists()
    prove(tmp_path / "copy", expected)


def test_a_directory_of_that_name_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "copy-unfinished" / "store of mine"
    other.mkdir(parents=True)
    with filled(tmp_path / "s.klite") as store:
        with pytest.raises(kafkalite.StoreExistsError, match="something else is there"):
            store.backup(tmp_path / "copy")
        assert entries(tmp_path / "copy-unfinished") == {"store of mine"}
        assert not (tmp_path / "copy").exists()
        assert store.check().ok


def test_renaming_replaces_nothing_even_at_the_last_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look and the rename somebody may create the target: the kernel decides, or a second look."""
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    with pytest.raises(FileExistsError):
        disk.rename_new(tmp_path / "one", tmp_path / "two")
    monkeypatch.setattr("ctypes.get_errno", lambda: errno.EINVAL)  # a file system that cannot
    with pytest.raises(FileExistsError):
        disk.rename_new(tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "two").read_text() == "two"
    disk.rename_new(tmp_path / "one", tmp_path / "three")
    assert (tmp_path / "three").read_text() == "one"


def test_the_index_of_a_store_that_is_gone_does_not_stand_in_the_way(tmp_path: Path) -> None:
    with filled(tmp_path / "gone.klite", rolls=1):
        pass
    (tmp_path / "gone.klite").unlink()
    with filled(tmp_path / "s.klite") as store:
        store.backup(tmp_path / "gone.klite")
        expected = kit.values(store)
        assert store.check().ok
    prove(tmp_path / "gone.klite", expected)


@pytest.mark.parametrize("failure", [errno.EXDEV, errno.EOPNOTSUPP, 0])
def test_where_the_kernel_cannot_copy_memory_does(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: int
) -> None:
    def refuse(*arguments: object) -> int:
        if failure:
            raise OSError(failure, os.strerror(failure))
        return 0

    monkeypatch.setattr(os, "copy_file_range", refuse)
    with filled(path, rolls=3) as store:
        store.backup(tmp_path / "copy.klite")
        expected = kit.values(store)
        assert store.check().ok
    prove(tmp_path / "copy.klite", expected)


# Faults


def strike(store: kafkalite.Store, target: Path, kind: Kind, at: int) -> tuple[Injector, BaseException | None]:
    """One backup with one fault."""
    try:
        with Injector(kind, at) as fault:
            store.backup(target)
    except (Crash, kafkalite.KafkaliteError) as error:
        return fault, error
    return fault, None


@pytest.mark.parametrize(("source", "name"), [("s.klite", "copy"), ("s", "copy.klite")])
def test_killed_at_any_step_there_is_a_whole_backup_or_none_and_the_next_one_succeeds(
    tmp_path: Path, source: str, name: str
) -> None:
    target = tmp_path / name
    with filled(tmp_path / source, rolls=1) as store:
        expected = kit.values(store)
        for at in itertools.count(1):
            fault, error = strike(store, target, crash(), at)
            if fault.struck is None:
                break
            LEDGER.fault(f"backup to {name}", at, "crash")
            LEDGER.acknowledged(len(expected))
            assert isinstance(error, Crash)
            if not target.exists():
                store.backup(target)
                assert not [name for name in entries(tmp_path) if "unfinished" in name]
            with kafkalite.connect(target, create=False, read_only=True) as made:
                assert kit.values(made) == expected, fault.struck
                assert made.check().ok
                assert era_of(made) == 0
            remove(target)
        assert at > 20
        assert store.check().ok


def remove(target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink()
        Path(f"{target}-index").unlink(missing_ok=True)
    shutil.rmtree(f"{target}-unfinished", ignore_errors=True)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (failing(errno.ENOSPC, lasting=False), "copy.klite"),
        (failing(errno.EIO, lasting=True), "copy.klite"),
        (short_then(errno.ENOSPC, lasting=False), "copy"),
        (no_descriptor(lasting=False), "copy"),
    ],
    ids=lambda given: getattr(given, "name", given),
)
def test_an_error_at_any_step_is_one_of_the_table_and_leaves_no_target(tmp_path: Path, kind: Kind, name: str) -> None:
    target = tmp_path / name
    with filled(tmp_path / "s.klite", rolls=1) as store:
        expected = kit.values(store)
        for at in itertools.count(1):
            fault, error = strike(store, target, kind, at)
            if fault.struck is None:
                break
            LEDGER.fault(f"backup to {name}", at, kind.name)
            LEDGER.acknowledged(len(expected))
            if error is None:  # while what was left was cleared away
                assert target.exists()
            if not target.exists():
                assert isinstance(error, kafkalite.KafkaliteError), fault.struck
                store.backup(target)
            with kafkalite.connect(target, create=False, read_only=True) as made:
                assert kit.values(made) == expected, fault.struck
                assert made.check().ok
            remove(target)
        assert at > 3
        assert store.check().ok


def test_a_full_disk_is_said_and_leaves_nothing(path: Path, tmp_path: Path) -> None:
    """Real errors of the kernel, of its copying and of LMDB's: a limit on the size of files."""
    filled(path, rolls=2).close()

    def within(size: int) -> str:
        with kafkalite.connect(path) as store:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
            try:
                with pytest.raises((kafkalite.StoreFullError, kafkalite.StoreFailedError)) as raised:
                    store.backup(tmp_path / "copy.klite")
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            assert store.check().ok
        return type(raised.value).__name__

    for size, name in ((8192, "StoreFailedError"), (600_000, "StoreFullError")):
        child = Forked(within, size)
        try:
            assert child.result() == name
        finally:
            child.close()
        assert not [name for name in entries(tmp_path) if name.startswith("copy")]


# Processes


def back_up(path: Path, target: Path, prepare: Callable[[], object]) -> int:
    with kafkalite.connect(path, create=False) as store:
        prepare()
        return store.backup(target).bytes


@target_layout
@pytest.mark.parametrize("step", [3, 8, 14])
def test_a_backup_that_was_really_killed_gives_its_place_back(
    path: Path, target: Path, tmp_path: Path, step: int
) -> None:
    filled(path).close()
    child = Forked(back_up, path, target, lambda: die_at(step, tmp_path / "note"))
    try:
        assert child.wait() == -signal.SIGKILL
    finally:
        child.close()
    assert not target.exists()
    assert Path(f"{target}-unfinished").exists()
    with kafkalite.connect(path) as store:
        store.backup(target)
        expected = kit.values(store)
        assert store.check().ok
    assert not Path(f"{target}-unfinished").exists()
    prove(target, expected)


def stop_at_copy() -> None:
    def hook(name: str) -> None:
        if name == "copy":
            disk.on_step = None
            os.kill(os.getpid(), signal.SIGSTOP)

    disk.on_step = hook


def test_two_backups_to_one_target_the_second_is_told(tmp_path: Path) -> None:
    filled(tmp_path / "s.klite").close()
    target = tmp_path / "copy.klite"
    child = Forked(back_up, tmp_path / "s.klite", target, stop_at_copy)
    try:
        child.wait_stopped()
        with kafkalite.connect(tmp_path / "s.klite") as store:
            with pytest.raises(kafkalite.StoreBusyError, match="under way"):
                store.backup(target)
            store.backup(tmp_path / "another.klite")
            child.resume()
            assert child.result() > 0
            expected = kit.values(store)
            assert store.check().ok
    finally:
        child.close()
    prove(target, expected)
    prove(tmp_path / "another.klite", expected)


def test_a_fork_during_a_backup_harms_neither(tmp_path: Path) -> None:
    with filled(tmp_path / "s.klite") as store:
        children: list[Forked] = []

        def fork(done: int, total: int) -> None:
            if not children:
                children.append(Forked(lambda: kit.values(store)))

        expected = kit.values(store)
        store.backup(tmp_path / "copy.klite", progress=fork)
        assert children[0].result() == expected
        children[0].close()
        remove(tmp_path / "copy.klite")
        store.backup(tmp_path / "copy.klite")  # the lock went with the parent's, though the child had it too
        assert store.check().ok
    prove(tmp_path / "copy.klite", expected)


def test_a_lock_that_could_not_be_removed_is_free_though_a_child_has_it_too(tmp_path: Path) -> None:
    with filled(tmp_path / "s.klite") as store:
        children: list[Forked] = []

        def fork(done: int, total: int) -> None:
            if not children:
                children.append(Forked(signal.pause))

        def refuse(step: str) -> None:
            if step == "unlink backup-lock":
                disk.on_step = None
                raise OSError(errno.EIO, "not now")

        try:
            disk.on_step = refuse
            store.backup(tmp_path / "copy.klite", progress=fork)
            assert (tmp_path / "copy.klite-unfinished" / "backup-lock").exists()
            (tmp_path / "copy.klite").unlink()
            store.backup(tmp_path / "copy.klite")
        finally:
            disk.on_step = None
            for child in children:
                child.close()
        expected = kit.values(store)
        assert store.check().ok
    prove(tmp_path / "copy.klite", expected)


def test_a_forked_child_makes_a_backup(tmp_path: Path) -> None:
    with filled(tmp_path / "s.klite") as store:
        child = Forked(lambda: store.backup(tmp_path / "copy.klite").segments)
        try:
            assert child.result() > 0
        finally:
            child.close()
        expected = kit.values(store)
        assert store.check().ok
    prove(tmp_path / "copy.klite", expected)


def test_readers_of_the_index_wait_only_for_the_index(tmp_path: Path) -> None:
    """The snapshot is not held while segments are copied: pages of the index can be used again."""
    with filled(tmp_path / "s.klite") as store:
        seen: list[object] = []

        def look(done: int, total: int) -> None:
            seen.append(any(line.split()[0].isdigit() for line in store._engine.index.env.readers().splitlines()))
            seen.append(kit.values(store)[-1] is not None)

        store.backup(tmp_path / "copy.klite", progress=look)
        assert seen
        assert seen[::2] == [any(seen[::2])] * len(seen[::2])
        assert not store._engine.index.gate.locked()
        assert store.check().ok
