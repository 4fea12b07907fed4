"""Backups restored: by copying, moving and opening them, with what may lie around."""

import shutil
from pathlib import Path
from typing import Any

import pytest

import kafkalite
from kafkalite import disk
from kafkalite.storage import index, superblock
from kafkalite.storage.place import resolve
from tests.processes.forks import until

from . import kit
from .test_backup import era_of, filled, prove

FAULT_CLASS = "F1"
TARGETS = {"file": "copy.klite", "directory": "copy"}

target_layout = pytest.mark.parametrize("target_layout", TARGETS)


def went_on(path: Path, target: Path) -> list[bytes | None]:
    """A store, its backup, and what the store did after it; returns what is in the backup."""
    with filled(path) as store:
        store.backup(target)
        expected = kit.values(store)
        store.topic("t").append_many([bytes(200_000)] * 6, partition=0)
        store.topic("later")
        assert store.check().ok
    return expected


def restored(path: Path, expected: list[bytes | None]) -> None:
    """The stale index was noticed: rebuilt, a new era, and only what the backup holds."""
    with kafkalite.connect(path, create=False) as store:
        assert era_of(store) == 1
        assert kit.values(store) == expected
        assert store.topics() == ["t"]
        store.topic("t").append(b"goes on", partition=1)
        assert store.check().ok


@pytest.mark.parametrize("how", ["cp", "dd", "mv"])
def test_a_stale_index_beside_a_restored_file_is_noticed(tmp_path: Path, how: str) -> None:
    path, target = tmp_path / "s.klite", tmp_path / "copy.klite"
    expected = went_on(path, target)
    if how == "cp":
        shutil.copyfile(target, path)
    elif how == "dd":  # conv=notrunc: what the store had behind stays
        data = target.read_bytes()
        with path.open("r+b") as stream:
            stream.write(data)
        assert path.stat().st_size > len(data)
    else:
        target.rename(path)
    restored(path, expected)


def test_a_stale_index_in_a_restored_directory_is_noticed_and_newer_segments_do_not_count(tmp_path: Path) -> None:
    path, target = tmp_path / "s", tmp_path / "copy"
    expected = went_on(path, target)
    assert len(list(path.glob("*.segment"))) > len(list(target.glob("*.segment")))
    for file in [target / "superblock", *target.glob("*.segment")]:
        shutil.copyfile(file, path / file.name)
    restored(path, expected)


def test_an_index_with_another_end_beside_the_backup_is_noticed_though_its_inode_fits(tmp_path: Path) -> None:
    """An inode number is given out again: the seal's position and chain decide."""
    path, target = tmp_path / "s.klite", tmp_path / "copy.klite"
    expected = went_on(path, target)
    found = resolve(target).index
    with found.open("r+b") as stream:  # other bytes under the inode that the superblock names
        stream.write(resolve(path).index.read_bytes())
        stream.truncate()
    restored(target, expected)


def test_backup_moved_with_its_index_is_trusted_and_copied_alone_is_rebuilt(tmp_path: Path) -> None:
    path, target = tmp_path / "s.klite", tmp_path / "copy.klite"
    expected = went_on(path, target)
    alone = kit.copied(target, tmp_path, "alone")
    restored(alone, expected)
    (tmp_path / "moved").mkdir()
    target.rename(tmp_path / "moved" / "m.klite")
    Path(f"{target}-index").rename(tmp_path / "moved" / "m.klite-index")
    prove(tmp_path / "moved" / "m.klite", expected)


def test_backup_opens_where_nothing_may_be_written(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with filled(path) as store:
        store.backup(tmp_path / "copy")
        expected = kit.values(store)
        assert store.check().ok
    monkeypatch.setattr(disk, "may_write", lambda path: False)
    with kafkalite.connect(tmp_path / "copy", read_only=True) as made:
        assert made._engine.is_read_only
        assert kit.values(made) == expected
        made.backup(tmp_path / "copy of the copy.klite")
        assert made.check().ok
    monkeypatch.undo()
    prove(tmp_path / "copy of the copy.klite", expected)


def test_either_superblock_of_a_backup_may_be_lost(tmp_path: Path) -> None:
    with filled(tmp_path / "s.klite") as store:
        store.backup(tmp_path / "copy.klite")
        expected = kit.values(store)
        assert store.check().ok
    for slot in (0, 1):
        damaged = kit.copied(tmp_path / "copy.klite", tmp_path, f"slot {slot}")
        with damaged.open("r+b") as stream:
            stream.seek(slot * superblock.SLOT_SIZE)
            stream.write(bytes(superblock.SLOT_SIZE))
        restored(damaged, expected)


def test_schema_of_the_index_is_the_one_that_was_copied(tmp_path: Path) -> None:
    with filled(tmp_path / "s.klite") as store:
        store.backup(tmp_path / "copy.klite")
        assert kit.state_of(tmp_path / "copy.klite").index_schema == index.SCHEMA
        assert kit.state_of(tmp_path / "copy.klite").store_id == kit.state_of(tmp_path / "s.klite").store_id
        assert store.check().ok


def test_the_lock_is_found_again_when_the_place_vanishes_in_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup that ends just now takes its directory away between our making it and our opening the lock."""
    opened = disk.open_file
    vanished: list[Path] = []

    def open_file(found: Path, **how: Any) -> int:
        if found.name == "backup-lock" and not vanished:
            vanished.append(found)
            found.parent.rmdir()
        return opened(found, **how)

    with filled(tmp_path / "s.klite") as store:
        monkeypatch.setattr(disk, "open_file", open_file)
        store.backup(tmp_path / "copy.klite")
        assert vanished
        expected = kit.values(store)
        assert store.check().ok
    until(lambda: not Path(f"{vanished[0].parent}").exists(), "the place beside to be gone")
    prove(tmp_path / "copy.klite", expected)
