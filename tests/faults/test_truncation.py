"""F5, every length that a file may be cut to: a clear error, or a correct prefix only where nothing is left to witness.

Where a prefix is allowed, as docs/durability.md has it ("a whole tail that disappears"): in a store that was not
closed, whose index is gone, when the cut takes the newest segment with its header. All else is an error, or right:

    superblock     one whole slot is enough; none is an error, also at length zero while segments hold records
    segments       shorter than the header says: an error; without its header: an error in a closed store, and of the
                   segment that began the era
    index          shorter than the superblock, or its own count of pages, says: rebuilt
    index-lock     made whole again
    single file    all of the above; of length zero it is a new store, since nothing is left that could speak
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import kafkalite
from kafkalite import KafkaliteError, disk
from kafkalite.storage import opening, superblock
from kafkalite.storage.place import resolve
from kafkalite.testing import damage
from tests.faults import small_store
from tests.faults.ledger import LEDGER
from tests.faults.small_store import LAYOUTS, Apart, Image, Truth, derive, files_of, forked
from tests.storage.kit import extents_of, reboot, state_of

FAULT_CLASS = "F5"


@pytest.fixture(params=LAYOUTS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    found: Path = tmp_path / request.param
    return found


@pytest.fixture(params=[False, True], ids=["sealed", "killed"])
def truth(request: pytest.FixtureRequest, path: Path) -> Truth:
    return small_store.make(path, killed=request.param)


def lengths(file: Path) -> Iterator[int]:
    """Cut a file to each length in turn, from the longest to nothing; afterwards it is whole."""
    size = file.stat().st_size
    with damage.overwrite(file, 0, file.read_bytes()):
        for length in range(size - 1, -1, -1):
            os.truncate(file, length)
            yield length


def until_last_segment(truth: Truth) -> small_store.Answer:
    """What there was when the newest segment was begun."""
    last = truth.tails[-1] >> 32
    return next(
        answer for answer, tail in zip(truth.answers[::-1], truth.tails[::-1], strict=True) if tail >> 32 < last
    )


def outcome(truth: Truth, prefix: small_store.Answer | None) -> str:
    """ "error", "whole", or "prefix" where that is allowed; all else fails, and is entered as lost."""
    try:
        found = derive(truth.path)
    except KafkaliteError:
        return "error"
    if found == truth.answer:
        return "whole"
    if found == prefix:
        return "prefix"
    LEDGER.lost(truth.count - sum(map(len, found.values())))
    return "wrong"


# The journal, without its index


def test_every_length_of_every_segment(truth: Truth) -> None:
    """Without its header the newest segment of a store that was not closed reads as a tail that disappeared."""
    is_open = state_of(truth.path).state is superblock.State.OPEN
    last = extents_of(truth.path)[-1]
    prefix = until_last_segment(truth) if is_open else None
    for file in small_store.journal_files(truth.path)[-2:]:
        is_newest = file.name in (f"{last.number:020d}.segment", truth.path.name)
        for length in lengths(file) if file.name != "superblock" else ():
            is_headless = is_newest and last.start <= length < last.start + 96
            assert outcome(truth, prefix) == ("prefix" if is_open and is_headless else "error"), (file, length)
            LEDGER.fault(f"derive {truth.path.name} {is_open}", f"{file.name}:{length // 64}", "cut")
            if length == superblock.SIZE and truth.path.is_file():
                break
    assert derive(truth.path) == truth.answer


def test_every_length_of_the_superblock(truth: Truth) -> None:
    """One whole slot is enough."""
    file = resolve(truth.path).file
    with damage.cut(file, min(file.stat().st_size - 1, superblock.SIZE)):
        for length in lengths(file):
            found = outcome(truth, {})
            if truth.path.is_dir():
                assert found == ("whole" if length >= superblock.SLOT_SIZE else "error"), length
            else:
                assert found == ("error" if length > 0 else "prefix"), length
            LEDGER.fault(f"derive {truth.path.name}", length // 64, "superblock cut")
    assert derive(truth.path) == truth.answer


def test_a_superblock_of_no_length_is_no_licence_to_begin_anew(truth: Truth) -> None:
    """Segments that hold records are not a creation that was never finished: they are not removed."""
    if truth.path.is_file():
        zeros = damage.zero_block(truth.path, 0, superblock.SIZE)
    else:
        zeros = damage.cut(truth.path / "superblock", 0)
    before = {file: file.read_bytes() for file in small_store.journal_files(truth.path)}
    for settings in ({}, {"create": False}, {"read_only": True}):
        with pytest.raises(KafkaliteError, match=r"superblock|never finished"):
            kafkalite.connect(truth.path, **settings)
        assert {file: file.read_bytes() for file in small_store.journal_files(truth.path)} == before
        LEDGER.fault(f"connect {truth.path.name}", str(settings), "empty superblock")
    zeros.undo()
    with kafkalite.connect(truth.path) as store:
        assert small_store.contents(store) == truth.answer
        assert store.check().ok


def test_a_creation_that_was_not_finished_is_begun_anew(path: Path) -> None:
    """What a creation leaves that was killed before its superblock, with settings or without: no record is in it."""
    for settings in ({}, {"durability": "interval"}):
        with kafkalite.connect(path, config=settings) as store:
            assert store.check().ok
        if path.is_file():
            damage.zero_block(path, 0, superblock.SIZE)
        else:
            damage.cut(path / "superblock", 0)
        with kafkalite.connect(path) as store:
            assert store.topics() == []
            assert store.check().ok
        for file in files_of(path):
            file.unlink()


def test_a_large_file_that_begins_with_zeros_is_not_taken_for_an_unfinished_store(tmp_path: Path) -> None:
    """Such as the image of a disk: a creation that was not finished has one segment of the first size at most."""
    path = tmp_path / "disk.img"
    data = bytes(1 << 20) + b"years of work"
    path.write_bytes(data)
    with pytest.raises(kafkalite.NotAStoreError, match="begins with zeros"):
        kafkalite.connect(path)
    assert path.read_bytes() == data
    LEDGER.fault("connect", "disk.img", "a file of somebody else's")


# The index and its lock


def test_every_length_of_the_index(truth: Truth) -> None:
    """Below the size that the superblock names it is not trusted, hence not opened."""
    place, found = resolve(truth.path), state_of(truth.path)
    fd = disk.open_file(place.file, write=False)
    try:
        assert opening.is_trusted(place, fd, found)
        with damage.cut(place.index, found.index_size - 1):
            for length in lengths(place.index):
                assert not opening.is_trusted(place, fd, found)
                LEDGER.fault(f"open {truth.path.name} {found.state.name}", length // 256, "index cut")
        assert opening.is_trusted(place, fd, found)
    finally:
        disk.close(fd)


def test_an_index_that_was_cut_after_it_had_grown(truth: Truth, tmp_path: Path) -> None:
    """Killed, a store's superblock names the size that the index had when it was opened: shorter than it is."""
    image = Image(truth.path, tmp_path / "vault")
    index = resolve(truth.path).index
    dead = []
    with Apart(lambda: use(truth)) as apart:
        for length in range(0, index.stat().st_size, 2048):
            image.restore()
            damage.cut(index, length)
            said = apart()
            LEDGER.fault(f"connect {truth.path.name}", length, "index cut")
            dead += [length] if said.startswith("signal") else []
            assert said in ("right", *(f"signal {number}" for number in (7, 11))), (length, said)
    LEDGER.dead(len(dead))
    assert dead == []


def test_an_index_lock_of_any_length(truth: Truth, tmp_path: Path) -> None:
    """It holds nothing that has to survive: it is made whole again."""
    lock = resolve(truth.path).index_lock
    if not lock.exists():
        lock.write_bytes(bytes(65_664))
    image = Image(truth.path, tmp_path / "vault")
    some = (0, 1, 7, 8, 24, 64, 100, 127, 128, 129, 192, 4095, 4096, 4097)
    with Apart(lambda: use(truth)) as apart:
        for length in (*some, *range(9_000, 65_664, 14_000), 65_663):
            image.restore()
            damage.cut(lock, length)
            assert apart() == "right", length
            LEDGER.fault(f"connect {truth.path.name}", length, "index-lock cut")


def use(truth: Truth) -> str:
    """Open a store, read all of it, append, check."""
    with kafkalite.connect(truth.path, create=False) as store:
        if small_store.contents(store) != truth.answer:
            return f"wrong: {small_store.contents(store)}"
        offset = len(truth.answer[17])
        if store.topic("plain").append(b"more", partition=1).offset != offset:
            return "wrong: an offset was given out twice"
        report = store.check()
        return "right" if report.ok else f"wrong: {report}"


# From end to end


@pytest.mark.parametrize("is_rebooted", [False, True])
def test_a_cut_journal_from_end_to_end(
    truth: Truth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_rebooted: bool
) -> None:
    """Opened with its index or rebuilt: what can be read is right, what is gone is an error that names it."""
    if is_rebooted:
        reboot(monkeypatch)
    image = Image(truth.path, tmp_path / "vault")
    is_open = state_of(truth.path).state is superblock.State.OPEN
    for file in small_store.journal_files(truth.path):
        whole = file.stat().st_size
        for length in sorted(
            {1, 8, 95, 96, 97, 2000, 4095, 4096, 4097, 8191, 8192, 8193, *range(600, whole, 900), whole - 1}
        ):
            if length >= whole:
                continue
            image.restore()
            damage.cut(file, length)
            said = forked(lambda: read_what_is_left(truth, may_lose=is_open and is_rebooted))
            LEDGER.dead(said.startswith("signal"))
            assert said.startswith(("right", "error: ")), (file, length, said)
            LEDGER.fault(f"connect {truth.path.name} {is_rebooted}", f"{file.name}:{length}", "cut")


def read_what_is_left(truth: Truth, *, may_lose: bool) -> str:
    """Every log from each of its offsets on: the right record, or an error."""
    with kafkalite.connect(truth.path, create=False) as store:
        ends = {
            log_id: store.topic(name, create=False).end_offsets()[number]
            for log_id, (name, number) in small_store.LOGS.items()
            if name in store.topics()
        }
        if may_lose and small_store.contents(store) == until_last_segment(truth):
            return "right, a prefix"
        for log_id, (name, number) in small_store.LOGS.items():
            if ends.get(log_id) != len(truth.answer[log_id]):
                return f"wrong: log {log_id} ends at {ends.get(log_id)}"
            for row in truth.answer[log_id]:
                try:
                    one = next(store.topic(name, create=False).read(number, start=row[0]))
                except kafkalite.CorruptRecordError:
                    continue
                if (one.offset, one.timestamp_ms, one.key, one.value, one.headers) != row:
                    return f"wrong: {one}"
    return "right"


# Canaries


def test_canary_a_segment_of_any_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were a segment's file not compared with its header, a cut one would read as a torn end, or kill the process."""
    truth = small_store.make(tmp_path / "s", killed=True)
    monkeypatch.setattr(disk, "file_size", lambda _: 1 << 20)
    with LEDGER.apart() as mine, damage.cut(max((tmp_path / "s").glob("*.segment")), 96):
        said = forked(lambda: outcome(truth, None))
        assert said in ("wrong", "signal 7") or "mmap" in said
    assert mine.faults == set()


def test_canary_an_index_trusted_at_any_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened as it is, a cut index kills the process, or fails it."""
    truth = small_store.make(tmp_path / "s")
    image = Image(truth.path, tmp_path / "vault")
    monkeypatch.setattr(opening, "is_trusted", lambda *_: True)
    said = []
    for pages in (1, 2, 4, 6):
        image.restore()
        damage.cut(resolve(truth.path).index, pages * 4096)
        said.append(forked(lambda: use(truth)))
    assert any(one != "right" for one in said)
