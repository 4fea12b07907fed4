"""What broke simpler designs, one test each: the rule that mends it stands in `docs/internals.md`."""

import random
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import kafkalite
from kafkalite import disk
from kafkalite.errors import CorruptRecordError, StoreFailedError, StoreFullError
from kafkalite.storage import frame, locks
from kafkalite.storage.commit import Append, Operation
from kafkalite.storage.place import resolve
from kafkalite.testing.procs import python

from .kit import (
    LOG,
    Fault,
    Killed,
    abandon,
    append,
    copied,
    flip,
    frames_of,
    patch,
    reboot,
    sized,
    state_of,
    values,
    where,
)

APPEND = """
import sys, kafkalite
with kafkalite.connect(sys.argv[1]) as store:
    print("end", store.topic("t").append(b"child").offset)
"""


def test_cut_then_rebuild(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Frames behind a cut reached the disk all the same: a later scan must not follow them into the past."""
    store = kafkalite.connect(path)
    for name in (b"A", b"B"):
        store.topic("t").append(name)
    acknowledged = store._engine.index.positions().tail
    for name in (b"C", b"D"):
        store._engine.committer.submit(append(name), 60)
    whole = [(found.position, found.end) for found in frames_of(path, LOG)][2:]
    place = copied(path, tmp_path, "copy")
    abandon(store)
    kept = [_bytes(place, start, end) for start, end in whole]
    patch(place, acknowledged, bytes(whole[-1][1] - acknowledged))
    with kafkalite.connect(place) as cut:
        assert values(cut) == [b"A", b"B"]
        assert cut.topic("t").append(b"E").offset == 2
    for (start, _), data in zip(whole, kept, strict=True):
        patch(place, start, data)
    for era in range(2, 4):
        reboot(monkeypatch)
        resolve(place).index.unlink()
        with kafkalite.connect(place) as store:
            assert values(store) == [b"A", b"B", b"E"]
            assert state_of(place).era == era
            assert store.check().ok


def _bytes(path: Path, start: int, end: int) -> bytes:
    file, at = where(path, start)
    return file.read_bytes()[at : at + end - start]


def test_search_on_misses_nothing(path: Path, tmp_path: Path) -> None:
    """One bit of a middle frame's header: what follows is found though its neighbour is broken."""
    store = kafkalite.connect(path)
    for name in (b"A", b"B", b"C"):
        store.topic("t").append(name)
    frames = frames_of(path, LOG)
    place = copied(path, tmp_path, "copy")
    assert store.check().ok
    store.close()
    for at in (0, 5, 15, 23, 31, 39):
        flip(place, frames[1].position + at)
        with pytest.raises(CorruptRecordError):
            kafkalite.connect(place)
        flip(place, frames[1].position + at)
    with kafkalite.connect(place) as again:
        assert values(again) == [b"A", b"B", b"C"]
        assert again.check().ok


def test_search_on_invents_nothing(path: Path, tmp_path: Path) -> None:
    """A torn last frame whose value holds frames, whole and aligned, that claim to be durable far ahead."""
    store = kafkalite.connect(path)
    store.topic("t").append(b"A")
    at = store._engine.index.positions().tail
    for position in range(at, at + 512, 8):
        inner = b"".join(frame.encode_end(2**62, number, position)[0] for number in range(3))
        store._engine.committer.submit(append(bytes(position % 8), inner), 60)
    copy = b"".join(_bytes(path, found.position, found.end) for found in frames_of(path, LOG))
    store._engine.committer.submit(append(copy), 60)
    last = frames_of(path, LOG)[-1]
    place = copied(path, tmp_path, "copy")
    store.flush()
    assert store.check().ok
    store.close()
    flip(place, last.position + 10)
    with kafkalite.connect(place) as again:
        assert values(again)[0] == b"A"
        assert copy not in values(again)
        assert again.check().ok


def test_orphan_group(path: Path, tmp_path: Path) -> None:
    """Killed between the journal's write and the index' commit, then a roll, then a rebuild: no offset twice."""
    store = kafkalite.connect(path)
    engine = store._engine
    engine._prepare_is_due = True
    topic = store.topic("t")
    topic.append_many([b"committed"] * 10)
    with pytest.raises(Killed), Fault(2, Killed):
        engine.commit(append(*[b"orphan"] * 10))
    assert frames_of(path, LOG)[-1].position == engine.index.positions().tail
    engine._prepare_now()
    large = sized(engine.index.positions().segment_size)
    assert engine.commit(Operation([Append(LOG, large)])).offsets == [10]
    topic.append(b"last")
    expected = values(store)
    place = copied(path, tmp_path, "copy")
    assert store.check().ok
    store.close()
    with kafkalite.connect(place) as again:
        assert values(again) == expected
        assert [record.offset for record in again.topic("t").read()] == list(range(12))
        assert again.check().ok


def test_lock_file_closed(path: Path) -> None:
    """Something else in the process opens and closes LMDB's lock file, which frees LMDB's own locks."""
    with kafkalite.connect(path) as store:
        store.topic("t").append(b"parent")
        place = resolve(path)
        write = store._engine.locks.write
        with write.threads:
            write.lock(60)
            for file in (place.index_lock, place.index, place.file):
                file.open("rb").close()
            with python(APPEND, path) as child:
                fd = disk.open_file(place.file, write=True)
                assert not disk.is_taken(disk.lock_call(fd, locks.FIRST_BYTE + locks.WRITE))
                disk.close(fd)
                threading.Event().wait(0.3)
                assert child.is_running()
                assert child.lines == []
                write.unlock()
                assert child.wait_for("end") == "end 1"
                assert child.wait() == 0
        assert values(store) == [b"parent", b"child"]
        assert store.check().ok


@pytest.mark.parametrize("names", [["lock"], ["index"], ["index", "lock"]])
def test_index_deleted(path: Path, names: list[str]) -> None:
    """The index deleted while the store is open: never two writers that do not see each other."""
    place = resolve(path)
    files = {"index": place.index, "lock": place.index_lock}
    with kafkalite.connect(path) as store:
        store.topic("t").append(b"before")
        for name in names:
            files[name].unlink()
        with python(APPEND, path) as child:
            status = child.wait()
        assert status == 1
        assert any("was removed or replaced while the store is open" in line for line in child.complaints)
        store.topic("t").append(b"after")
        expected = [b"before", b"after"]
        assert values(store) == expected
        assert store.check().ok
    with kafkalite.connect(path) as store:
        assert values(store) == expected
        assert store.check().ok


def test_torn_index_pages(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut leaves each page of the index old or new: it is not even opened, the answers are right."""
    store = kafkalite.connect(path, durability="none")
    topic = store.topic("t", partitions=5)
    for number in range(300):
        topic.append(b"%d" % number)
    old = resolve(path).index.read_bytes()
    for number in range(300, 500):
        topic.append(b"%d" % number)
    expected = values(store)
    new = resolve(path).index.read_bytes()
    abandon(store)
    random_ = random.Random(1)
    for share in (0.02, 0.5, 0.98):
        pages = [
            (new if random_.random() < share or at >= len(old) else old)[at : at + 4096]
            for at in range(0, len(new), 4096)
        ]
        resolve(path).index.write_bytes(b"".join(pages))
        reboot(monkeypatch)
        store = kafkalite.connect(path)
        assert values(store) == expected
        assert store.check().ok
        abandon(store)


def test_published_past_durable(path: Path) -> None:
    """Durability is the store's: no connection publishes what another has not flushed."""
    with kafkalite.connect(path) as store:
        with pytest.raises(kafkalite.StoreSettingsError):
            kafkalite.connect(path, durability="none")
        topic = store.topic("t")
        for number in range(5):
            store._engine.committer.submit(append(b"%d" % number), 60)
            positions = store._engine.index.positions()
            assert positions.published <= positions.durable < positions.tail
            assert topic.end_offsets() == {0: 0}
            assert list(topic.read()) == []
        with python(APPEND, path) as child:
            assert child.wait_for("end") == "end 5"
            assert child.wait() == 0
        assert topic.end_offsets() == {0: 6}
        assert store.check().ok


def test_stuck_reader(path: Path) -> None:
    """An iterator that is not asked for more holds no snapshot: the index' pages are used again."""
    with kafkalite.connect(path, durability="none") as store:
        topic = store.topic("t")
        topic.append_many([b"x"] * 10)
        iterator = topic.read()
        next(iterator)
        for _ in range(200):
            topic.append(b"y")
        readers = store._engine.index.env.readers()
        assert "(no active readers)" in readers or " - " in readers
        assert len(list(iterator)) == 9
        assert store.check().ok


def test_map_shrink(path: Path) -> None:
    """Another program opens the index with a small map: nothing is truncated under us."""
    code = """
import sys, lmdb
environment = lmdb.open(sys.argv[1], subdir=False, map_size=1 << 16, sync=False)
environment.close()
"""
    with kafkalite.connect(path, durability="none") as store:
        topic = store.topic("t", partitions=10)
        for number in range(3000):
            topic.append(b"%d" % number)
        before = resolve(path).index.stat().st_size
        with python(code, resolve(path).index) as child:
            child.wait()
        assert resolve(path).index.stat().st_size >= before
        for number in range(3000, 4000):
            topic.append(b"%d" % number)
        assert sum(topic.end_offsets().values()) == 4000
        assert store.check().ok


def fill_up(topic: kafkalite.Topic[bytes, bytes | None], acknowledged: list[bytes], size: int) -> None:
    """Append until it raises."""
    for number in range(100_000):
        value = b"%d" % number + bytes(size)
        topic.append(value, partition=0)
        acknowledged.append(value)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.needs("root", "mount")
@pytest.mark.parametrize("durability", ["commit", "none"])
@pytest.mark.parametrize("name", ["store.klite", "store"])
@pytest.mark.parametrize("size", [100, 20_000])
def test_full_disk(small_disk: Path, durability: str, name: str, size: int) -> None:
    """Full under the journal or under the index: an error that says so, nothing lost, and on it goes afterwards."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(2 << 20))
    with kafkalite.connect(small_disk / name, durability=durability) as store:  # type: ignore[arg-type]
        topic = store.topic("t", partitions=4)
        acknowledged: list[bytes] = []
        with pytest.raises(StoreFullError, match="free space"):
            fill_up(topic, acknowledged, size)
        assert values(store) == acknowledged
        for _ in range(3):
            with pytest.raises((StoreFullError, StoreFailedError)):
                topic.append_many([bytes(100_000)] * 20, partition=1)
        assert values(store) == acknowledged
        ballast.unlink()
        subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
        topic.append(b"goes on", partition=0)
        assert values(store) == [*acknowledged, b"goes on"]
        assert store.check().ok
    with kafkalite.connect(small_disk / name) as store:
        assert values(store) == [*acknowledged, b"goes on"]
        assert store.check().ok


# Fails (SIGBUS) as long as LMDB makes its lock file without space behind it.
@pytest.mark.needs("root", "mount")
@pytest.mark.parametrize("name", ["store.klite", "store"])
@pytest.mark.parametrize("left", [0, 4096, 16_384, 65_536])
def test_opening_on_a_full_disk(small_disk: Path, name: str, left: int) -> None:
    """An error or a store, never a dead process, whatever space is left; and nothing is lost."""
    with kafkalite.connect(small_disk / name) as store:
        store.topic("t").append(b"kept")
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(disk.free_bytes(small_disk) - left))
    with python(APPEND, small_disk / name) as child:
        assert child.wait() >= 0
    ballast.unlink()
    with kafkalite.connect(small_disk / name) as store:
        assert values(store)[0] == b"kept"
        assert store.check().ok
