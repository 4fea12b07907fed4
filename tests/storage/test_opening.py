"""Opening and closing: creation at every step, which index is trusted, what is refused and left as it was."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from struct import pack_into
from typing import Any

import pytest

import kafkalite
from kafkalite import disk
from kafkalite.errors import (
    NotAStoreError,
    StoreLocationError,
    StoreNotFoundError,
    StoreVersionError,
)
from kafkalite.records.checksum import hash64
from kafkalite.storage import index, opening, superblock
from kafkalite.storage.place import resolve
from kafkalite.storage.superblock import State
from kafkalite.testing.procs import python

from .kit import Fault, Killed, abandon, abandon_at, copied, reboot, state_of, values

NAMES = [b"%d" % number for number in range(5)]


@pytest.fixture
def rebuilds(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The places at which an index was built again."""
    found: list[Path] = []
    real = opening._rebuild

    def spy(place: Any, *arguments: Any, **named: Any) -> Any:
        found.append(place.path)
        return real(place, *arguments, **named)

    monkeypatch.setattr(opening, "_rebuild", spy)
    return found


def filled(path: Path) -> Path:
    """A closed store at a path with a few records."""
    with kafkalite.connect(path) as store:
        for name in NAMES:
            store.topic("t", partitions=2).append(name, partition=0)
    return path


def holds(path: Path, expected: list[bytes] = NAMES) -> None:
    """The store opens, holds these records, takes another, and is sound."""
    with kafkalite.connect(path, create=False) as store:
        assert values(store) == expected
        assert store.topic("t").append(b"more", partition=1).offset == 0
        assert store.check().ok


def content(path: Path) -> dict[str, bytes]:
    """Every file of the directory that a store is in, or is."""
    top = path if path.is_dir() else path.parent
    return {str(file.relative_to(top)): file.read_bytes() for file in sorted(top.rglob("*")) if file.is_file()}


# Creation


def interrupted_creations(path: Path, **settings: Any) -> list[Path]:
    """A store's creation interrupted at step 1, 2, …, one place each; the last one ran through."""
    places = []
    for at in range(1, 100):
        place = path.parent / f"{at}" / path.name
        places.append(place)
        try:
            with Fault(at, Killed):
                kafkalite.connect(place, **settings).close()
        except Killed:
            abandon_at(place)
        else:
            return places
    raise AssertionError("creation never ran through")


def test_a_creation_interrupted_at_every_step_is_begun_again(path: Path) -> None:
    places = interrupted_creations(path)
    assert len(places) > 10
    for place in places:
        with kafkalite.connect(place) as store:
            assert store.topics() == []
            store.topic("t").append(b"x")
            assert store.check().ok
        with kafkalite.connect(place) as store:
            assert values(store) == [b"x"]


# Fails as long as the settings are a commit of their own after the creation.
def test_a_creation_interrupted_at_every_step_keeps_the_settings_it_is_begun_again_with(path: Path) -> None:
    for place in interrupted_creations(path, durability="none", segment_bytes=1 << 20):
        with kafkalite.connect(place, durability="none", segment_bytes=1 << 20) as store:
            assert store.settings["durability"] == "none"
            assert store.check().ok


def test_an_interrupted_creation_is_no_store_for_who_does_not_create(path: Path) -> None:
    with pytest.raises(Killed), Fault(9, Killed):
        kafkalite.connect(path)
    with pytest.raises(StoreNotFoundError, match="never finished"):
        kafkalite.connect(path, create=False)


def test_missing_directories_are_made(tmp_path: Path) -> None:
    for target in (tmp_path / "a" / "b" / "s.klite", tmp_path / "c" / "d"):
        with kafkalite.connect(target) as store:
            assert store.check().ok


def test_a_new_store_takes_at_most_two_mebibytes(path: Path) -> None:
    with kafkalite.connect(path) as store:
        store.topic("t").append(b"x")
        assert store.check().ok
    top = path if path.is_dir() else path.parent
    assert sum(disk.used_bytes(file) for file in top.rglob("*") if file.is_file()) <= 2 << 20


@pytest.mark.parametrize("read_only", [True, False])
def test_what_is_not_there_is_not_made_unasked(path: Path, read_only: bool) -> None:
    with pytest.raises(StoreNotFoundError, match="no store at"):
        kafkalite.connect(path, create=read_only, read_only=read_only)
    assert list(path.parent.iterdir()) == []


# Closing


def test_closing_leaves_journal_superblock_and_index(path: Path) -> None:
    filled(path)
    names = {file.name for file in (path if path.is_dir() else path.parent).iterdir()}
    assert names == (
        {"superblock", f"{1:020d}.segment", "index"} if path.is_dir() else {path.name, f"{path.name}-index"}
    )
    assert state_of(path).state is State.SEALED


def test_a_store_is_open_on_disk_before_anything_is_written(path: Path) -> None:
    filled(path)
    store = kafkalite.connect(path)
    assert state_of(path).state is State.OPEN
    assert store.check().ok
    store.close()


def test_the_last_handle_of_a_process_closes(path: Path) -> None:
    first, second = kafkalite.connect(path), kafkalite.connect(path)
    assert first._engine is second._engine
    first.close()
    first.close()
    assert state_of(path).state is State.OPEN
    assert second.check().ok
    second.close()
    assert state_of(path).state is State.SEALED


def test_opening_and_closing_interrupted_at_every_step_lose_nothing(path: Path) -> None:
    filled(path)
    for at in range(1, 100):
        try:
            with Fault(at, Killed):
                kafkalite.connect(path).close()
        except Killed:
            abandon_at(path)
        else:
            break
        with kafkalite.connect(path) as store:
            assert values(store) == NAMES
            assert store.check().ok
    assert at > 3


# Trust


def test_a_sealed_store_is_trusted(path: Path, rebuilds: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    filled(path)
    reboot(monkeypatch)
    holds(path)
    assert rebuilds == []
    assert state_of(path).era == 0


def test_a_killed_process_leaves_a_trusted_index(path: Path, rebuilds: list[Path]) -> None:
    code = """
import os, sys, kafkalite
store = kafkalite.connect(sys.argv[1])
for number in range(5):
    store.topic("t", partitions=2).append(b"%d" % number, partition=0)
os._exit(7)
"""
    with python(code, path) as child:
        assert child.wait() == 7
    assert state_of(path).state is State.OPEN
    holds(path)
    assert rebuilds == []


def test_a_page_of_another_boot_says_nothing_whatever_else_lies_beside_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be believed: how far flushes came, and what members have in hand, stand there only."""
    store = kafkalite.connect(path)
    store.topic("t").append(b"x")
    page, run = store._engine.wakeup.page, store._engine.place.run
    page.epochs[7] = 7
    page.set_flushed(2**63, 0)
    (run / "directory").mkdir()
    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: iter(sorted(listed(self))))  # what cannot be removed comes first
    abandon(store)
    reboot(monkeypatch)
    with kafkalite.connect(path) as store:
        page = store._engine.wakeup.page
        assert page.epochs[7] == 0
        assert page.flushed().end == store._engine.index.positions().durable < 2**63
        assert store.check().ok


@pytest.mark.parametrize("boot", ["another", "none"])
def test_another_boot_or_an_unknown_one_is_not_trusted(
    path: Path, rebuilds: list[Path], monkeypatch: pytest.MonkeyPatch, boot: str
) -> None:
    filled(path)
    if boot == "none":
        monkeypatch.setattr(disk, "boot_id", lambda: bytes(16))
    abandon(kafkalite.connect(path))
    if boot == "another":
        reboot(monkeypatch)
    holds(path)
    assert rebuilds == [path]
    assert state_of(path).era == 1


def _missing(path: Path) -> None:
    resolve(path).index.unlink()


def _empty(path: Path) -> None:
    resolve(path).index.write_bytes(b"")


def _garbage(path: Path) -> None:
    data = bytes(hash64(b"%d" % at) & 0xFF for at in range(16384))
    resolve(path).index.write_bytes(data)


def _zeros(path: Path) -> None:
    file = resolve(path).index
    file.write_bytes(bytes(file.stat().st_size))


def _another_inode(path: Path) -> None:
    file = resolve(path).index
    data = file.read_bytes()
    file.rename(file.with_name("old"))
    file.write_bytes(data)
    file.with_name("old").unlink()


def _another_database(path: Path) -> None:
    file = resolve(path).index
    file.unlink()
    with sqlite3.connect(file) as database:
        database.execute("create table t(x)")
    database.close()


def _another_schema(path: Path) -> None:
    found = state_of(path)
    file = resolve(path).file
    with file.open("r+b") as stream:
        changed = found._replace(index_schema=index.SCHEMA + 1, generation=found.generation + 1)
        stream.seek(changed.generation % 2 * superblock.SLOT_SIZE)
        stream.write(superblock.encode(changed))


DAMAGES: list[Callable[[Path], None]] = [
    _missing, _empty, _garbage, _zeros, _another_inode, _another_database, _another_schema,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_index_that_is_not_the_one_it_was_is_built_again(
    path: Path, rebuilds: list[Path], damage: Callable[[Path], None]
) -> None:
    filled(path)
    damage(path)
    holds(path)
    assert rebuilds == [path]


@pytest.mark.parametrize("damage", [_missing, _another_inode, _another_schema])
def test_the_same_after_a_crash(path: Path, rebuilds: list[Path], damage: Callable[[Path], None]) -> None:
    filled(path)
    abandon(kafkalite.connect(path))
    damage(path)
    holds(path)
    assert rebuilds == [path]


def test_an_older_copy_of_the_index_put_back_is_noticed(path: Path, rebuilds: list[Path]) -> None:
    with kafkalite.connect(path) as store:
        store.topic("t", partitions=2).append(NAMES[0], partition=0)
    old = resolve(path).index.read_bytes()
    with kafkalite.connect(path) as store:
        for name in NAMES[1:]:
            store.topic("t").append(name, partition=0)
    resolve(path).index.write_bytes(old)
    holds(path)
    assert rebuilds == [path]


# Fails (SIGBUS) as long as LMDB opens a sealed index without a look at its file's size.
def test_a_truncated_index_never_kills_the_process(path: Path) -> None:
    filled(path)
    with resolve(path).index.open("r+b") as stream:
        stream.truncate(2 * disk.PAGE)
    code = """
import sys, kafkalite
with kafkalite.connect(sys.argv[1]) as store:
    assert store.check().ok
"""
    with python(code, path) as child:
        assert child.wait() == 0


@pytest.mark.parametrize("leaves", ["sealed", "open"])
def test_a_copy_of_the_journal_alone_is_a_whole_store(
    path: Path, tmp_path: Path, rebuilds: list[Path], leaves: str
) -> None:
    store = kafkalite.connect(path)
    for name in NAMES:
        store.topic("t", partitions=2).append(name, partition=0)
    if leaves == "sealed":
        store.close()
    copy = copied(path, tmp_path, "copy")
    if leaves == "open":
        assert store.check().ok
        store.close()
    holds(copy)
    holds(path)
    assert rebuilds == [copy]


def test_a_copy_of_everything_is_another_store(path: Path, tmp_path: Path, rebuilds: list[Path]) -> None:
    filled(path)
    copy = tmp_path / "other" / path.name
    shutil.copytree(path, copy) if path.is_dir() else shutil.copytree(
        path.parent, copy.parent, ignore=lambda *_: {"other"}
    )
    holds(copy)
    holds(path)
    assert rebuilds == [copy]


def test_a_moved_store_is_trusted(path: Path, tmp_path: Path, rebuilds: list[Path]) -> None:
    filled(path)
    target = tmp_path / "moved"
    target.mkdir()
    for file in [path] if path.is_dir() else list(path.parent.glob(f"{path.name}*")):
        file.rename(target / file.name)
    holds(target / path.name)
    assert rebuilds == []


# Refused


def test_a_newer_format_is_refused_and_nothing_changed(path: Path) -> None:
    filled(path)
    file, state = resolve(path).file, state_of(path)
    with file.open("r+b") as stream:
        for number in range(2):
            slot = bytearray(superblock.encode(state._replace(generation=number + 8)))
            pack_into(">H", slot, 8, superblock.FORMAT_VERSION + 1)
            pack_into(">Q", slot, superblock.SLOT_SIZE - 8, hash64(bytes(slot[:-8])))
            stream.seek(number * superblock.SLOT_SIZE)
            stream.write(slot)
    before = content(path)
    with pytest.raises(StoreVersionError, match="upgrade"):
        kafkalite.connect(path)
    assert content(path) == before


@pytest.mark.parametrize("data", [b"hello\n", b"SQLite format 3\0" * 1000, b"\1" + bytes(9000)])
def test_a_file_that_is_not_a_store_is_refused_and_left_alone(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "notes.txt"
    file.write_bytes(data)
    with pytest.raises(NotAStoreError, match="absent or empty"):
        kafkalite.connect(file)
    assert content(file) == {"notes.txt": data}


def test_a_directory_that_is_not_a_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"jpg")
    with pytest.raises(NotAStoreError, match=r"photo\.jpg"):
        kafkalite.connect(tmp_path)
    assert content(tmp_path) == {"photo.jpg": b"jpg"}


def test_an_empty_file_and_an_empty_directory_become_stores(tmp_path: Path) -> None:
    (tmp_path / "s.klite").touch()
    (tmp_path / "d").mkdir()
    for target in (tmp_path / "s.klite", tmp_path / "d"):
        with kafkalite.connect(target) as store:
            assert store.check().ok


def test_a_pipe_is_not_a_store(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.klite")
    with pytest.raises(NotAStoreError, match="regular file"):
        kafkalite.connect(tmp_path / "pipe.klite")


def test_a_second_hard_link_is_refused(path: Path, tmp_path: Path) -> None:
    filled(path)
    (tmp_path / "second").hardlink_to(resolve(path).file)
    with pytest.raises(StoreLocationError, match="2 hard links"):
        kafkalite.connect(path)
    (tmp_path / "second").unlink()
    holds(path)


def test_a_symbolic_link_is_another_name_of_the_same_store(path: Path, tmp_path: Path) -> None:
    filled(path)
    (tmp_path / "link").symlink_to(path)
    with kafkalite.connect(path) as store, kafkalite.connect(tmp_path / "link") as other:
        assert store._engine is other._engine
        assert store.check().ok


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "fuse.sshfs"])
def test_a_network_file_system_is_refused_and_nothing_is_made(
    path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(disk, "file_system_type", lambda _: kind)
    with pytest.raises(StoreLocationError, match=f"network file system \\({kind}\\)"):
        kafkalite.connect(path)
    assert list(path.parent.iterdir()) == []


def test_a_store_open_in_another_pid_namespace_is_refused(path: Path) -> None:
    code = """
import sys, kafkalite
from kafkalite import disk
disk.pid_namespace = lambda: 1
try:
    kafkalite.connect(sys.argv[1])
except kafkalite.StoreLocationError as error:
    print("refused", error)
"""
    with kafkalite.connect(path) as store:
        with python(code, path) as child:
            assert "PID namespace" in child.wait_for("refused")
        assert store.check().ok


# Read-only


def as_nobody(action: Callable[[], object]) -> str:
    """What `action` gives or raises, as text, in a forked child of the user nobody."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.setgid(65534)
            os.setuid(65534)
            text = str(action())
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(write, text.encode()[:60_000])
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as stream:
        answer = stream.read()
    os.waitpid(pid, 0)
    return answer


@pytest.fixture
def public_path(path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path, in a directory that everybody may look into."""
    base = tmp_path_factory.getbasetemp()
    for directory in path.parents:
        if base in (directory, *directory.parents) or directory.name.startswith("pytest-"):
            directory.chmod(directory.stat().st_mode | 0o055)
    return path


def _values_of(path: Path) -> list[bytes | None]:
    with kafkalite.connect(path, read_only=True) as store:
        assert store.check().ok
        return values(store)


@pytest.mark.needs("root", "nobody")
def test_a_sealed_store_is_read_without_the_permission_to_write(public_path: Path) -> None:
    filled(public_path)
    before = content(public_path)
    assert as_nobody(lambda: _values_of(public_path)) == str(NAMES)
    assert content(public_path) == before

    def append() -> None:
        with kafkalite.connect(public_path, read_only=True) as store:
            store.topic("t").append(b"x")

    assert as_nobody(append).startswith("StorePermissionError")
    assert as_nobody(lambda: kafkalite.connect(public_path)).startswith("StorePermissionError")


@pytest.mark.needs("root", "nobody")
def test_a_store_that_was_not_closed_is_not_read_without_the_permission_to_write(public_path: Path) -> None:
    filled(public_path)
    abandon(kafkalite.connect(public_path))
    answer = as_nobody(lambda: _values_of(public_path))
    assert answer.startswith("StorePermissionError")
    assert str(resolve(public_path).file) in answer


@pytest.mark.needs("root", "nobody")
def test_a_reader_without_locks_notices_a_writer(public_path: Path) -> None:
    filled(public_path)
    opened, written = os.pipe(), os.pipe()

    def look_twice() -> list[bytes | None]:
        with kafkalite.connect(public_path, read_only=True) as store:
            found = values(store)
            os.write(opened[1], b"x")
            os.read(written[0], 1)
            return found + values(store)

    pid = os.fork()
    if not pid:
        os.read(opened[0], 1)
        holds(public_path)
        os.write(written[1], b"x")
        os._exit(0)
    answer = as_nobody(look_twice)
    os.write(opened[1], b"x")  # had it failed before it could say so
    os.waitpid(pid, 0)
    for fd in (*opened, *written):
        os.close(fd)
    assert answer.startswith("StoreFailedError")


def test_read_only_where_one_may_write_works_beside_writers(path: Path) -> None:
    filled(path)
    with kafkalite.connect(path, read_only=True) as store:
        assert values(store) == NAMES
        assert store.check().ok
