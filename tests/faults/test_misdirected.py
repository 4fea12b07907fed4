"""F5, whole blocks: duplicated, misdirected, zeroed, torn, of 512 bytes and of 4 KiB, in segments and the single file.

Every pair of blocks of the journal is tried, without the index, where the end has to be found, and where a seal names
it; some of them with the index, from end to end. A frame's chain covers its position, so a whole valid frame in another
place is no frame; what reads as zeros is told from the end of the journal by the frames behind it, which bear witness.

The rules are those of `test_bit_flips`: an error, the whole answer (only bytes that nothing covers were hit), or, of a
store that was not closed, all but the last commits, when no frame is left that bears witness of their flush.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

import kafkalite
from kafkalite import KafkaliteError
from kafkalite.storage import frame, superblock
from kafkalite.testing import damage
from kafkalite.testing.damage import PAGE, SECTOR, Damage
from tests.faults import small_store
from tests.faults.ledger import LEDGER
from tests.faults.small_store import LAYOUTS, LOGS, Apart, Image, Truth, derive
from tests.storage.kit import extents_of, frames_of, state_of

FAULT_CLASS = "F5"

Harm = tuple[str, Callable[[], Damage], list[int]]
"""What it is called, what does it, and the blocks whose bytes change."""


@pytest.fixture(params=LAYOUTS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    found: Path = tmp_path / request.param
    return found


def harms(file: Path, unit: int, start: int) -> Iterator[Harm]:
    """Every block damaged alone, every block over every other; from `start` on."""
    places = range(start, file.stat().st_size, unit)
    for at in places:
        yield "zeroed", lambda at=at: damage.zero_block(file, at, unit), [at]  # type: ignore[misc]
        yield "torn", lambda at=at: damage.tear(file, at, unit, max(unit // 8, 64)), [at]  # type: ignore[misc]
        for other in places:
            if other != at:
                yield (
                    "duplicated",
                    lambda at=at, other=other: damage.duplicate_block(file, at, other, unit),  # type: ignore[misc]
                    [other],
                )
                yield (
                    "misdirected",
                    lambda at=at, other=other: damage.misdirect_block(file, at, other, unit),  # type: ignore[misc]
                    [at, other],
                )


def outcome(truth: Truth, *, may_lose_from: int) -> str:
    """ "error", "whole", or "torn end" when what is missing was committed in the last flush."""
    try:
        found = derive(truth.path)
    except KafkaliteError:
        return "error"
    if found == truth.answer:
        return "whole"
    if found in truth.answers[may_lose_from:]:
        return "torn end"
    LEDGER.lost(max(0, truth.count - sum(map(len, found.values()))))
    LEDGER.wrong(1)
    return "wrong"


@pytest.mark.parametrize("unit", [SECTOR, PAGE])
@pytest.mark.parametrize("killed", [True, False], ids=["open", "sealed"])
def test_a_block_of_the_journal(path: Path, unit: int, killed: bool) -> None:
    truth = small_store.make(path, killed=killed, segment_size=8 * unit if unit == SECTOR else 2 * unit)
    outcomes = {"error": 0, "whole": 0, "torn end": 0, "wrong": 0}
    bad = []
    for file in small_store.journal_files(path):
        if file.name == "superblock":
            continue
        for name, harm, hit in harms(file, unit, superblock.SIZE if path.is_file() else 0):
            before = file.read_bytes()
            with harm():
                if file.read_bytes() == before:
                    continue
                got = outcome(truth, may_lose_from=witnessed(truth) if killed else len(truth.answers) - 1)
                if got == "wrong":
                    bad.append((file.name, name, hit))
            outcomes[got] += 1
            LEDGER.fault(f"derive {path.name} {killed}", f"{file.name}:{hit}", f"{name} {unit}")
    assert bad == []
    assert outcomes["error"] > outcomes["whole"]
    LEDGER.acknowledged(truth.count)
    assert derive(path) == truth.answer


def witnessed(truth: Truth) -> int:
    """The first answer that a store which was not closed may give: up to the last flush that a frame speaks of which
    is still whole, wherever the damage is.
    """
    durable = 0
    for position in LASTING[truth.path]:
        file, byte = place_of(truth, position)
        found = frame.decode(file.read_bytes(), byte, position)
        durable = max(durable, found.durable if found else 0)
    return next(number for number, tail in enumerate(truth.tails) if tail >= durable)


def place_of(truth: Truth, position: int) -> tuple[Path, int]:
    """File and byte of a position, of a journal whose headers may be damaged: noted before any damage."""
    number, byte = position >> 32, position & 0xFFFFFFFF
    if truth.path.is_dir():
        return truth.path / f"{number:020d}.segment", byte
    return truth.path, STARTS[truth.path][number] + byte


LASTING: dict[Path, list[int]] = {}
"""The positions of each store's frames, noted before any damage."""
STARTS: dict[Path, dict[int, int]] = {}
"""Where the segments of each single file start, noted likewise."""


@pytest.fixture(autouse=True)
def _note_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    make = small_store.make

    def noting(path: Path, **settings: Any) -> Truth:
        truth = make(path, **settings)
        STARTS[path] = {extent.number: extent.start for extent in extents_of(path)}
        LASTING[path] = [one.position for one in frames_of(path)]
        return truth

    monkeypatch.setattr(small_store, "make", noting)


# With the index


@pytest.mark.parametrize("unit", [SECTOR, PAGE])
def test_a_block_under_a_store_in_use(path: Path, unit: int) -> None:
    """The index names where a batch is: it is read right, or raises; every batch that was not hit is read.

    Each segment was read from before: to one that is touched for the first time, a damaged header is an error for all
    that lies in it.
    """
    truth = small_store.make(path)
    with kafkalite.connect(path) as store:
        assert small_store.contents(store) == truth.answer
        for file in small_store.journal_files(path):
            if file.name == "superblock":
                continue
            for number, (name, harm, hit) in enumerate(harms(file, unit, superblock.SIZE if path.is_file() else 0)):
                if number % 5 and name not in ("zeroed", "torn"):
                    continue
                before = file.read_bytes()
                with harm():
                    read_around(store, truth, file, before)
                LEDGER.fault(f"read {path.name}", f"{file.name}:{hit}", f"{name} {unit}")
        assert small_store.contents(store) == truth.answer
        assert store.check().ok


def read_around(store: kafkalite.Store, truth: Truth, file: Path, before: bytes) -> None:
    """Each record alone: an error exactly where its frame's bytes are other ones."""
    now = file.read_bytes()
    for position in LASTING[truth.path]:
        own, byte = place_of(truth, position)
        found = frame.decode(before, byte, position) if own == file else None
        if found is None or found.log_id not in LOGS:
            continue
        name, number = LOGS[found.log_id]
        base = int.from_bytes(found.batch[:8])
        size = frame.HEADER_SIZE + found.length
        topic = store.topic(name, create=False)
        is_hit = now[byte : byte + size] != before[byte : byte + size]
        with pytest.raises(kafkalite.CorruptRecordError) if is_hit else nullcontext():
            one = next(topic.read(number, start=base))
            assert (one.offset, one.timestamp_ms, one.key, one.value, one.headers) == truth.answer[found.log_id][base]


# The superblock, and the whole single file, from end to end


@pytest.mark.parametrize("unit", [SECTOR, PAGE])
def test_a_block_of_the_superblock(path: Path, tmp_path: Path, unit: int) -> None:
    """A slot over the other, or neither: right, or an error; never a new store."""
    truth = small_store.make(path)
    image = Image(path, tmp_path / "vault")
    file = path if path.is_file() else path / "superblock"
    with Apart(lambda: use(truth)) as apart:
        for number, (name, harm, hit) in enumerate(harms(file, unit, 0)):
            is_one_of_many = unit == SECTOR and number % 17 and name in ("duplicated", "misdirected")
            if min(hit) >= superblock.SIZE or is_one_of_many:
                continue
            image.restore()
            harm()
            said = apart()
            assert said.startswith(("right", "error: CorruptRecordError", "error: NotAStoreError")), (name, hit, said)
            LEDGER.fault(f"connect {path.name}", f"{file.name}:{hit}", f"{name} {unit}")


def use(truth: Truth) -> str:
    with kafkalite.connect(truth.path) as store:
        if not store.topics():
            return "wrong: a new store"
        for log_id, (name, number) in LOGS.items():
            rows = truth.answer[log_id]
            if store.topic(name, create=False).end_offsets()[number] != len(rows):
                return f"wrong: log {log_id} has another end"
            for row in rows:
                try:
                    one = next(store.topic(name, create=False).read(number, start=row[0]))
                except kafkalite.CorruptRecordError:
                    continue
                if (one.offset, one.timestamp_ms, one.key, one.value, one.headers) != row:
                    return f"wrong: {one}"
    return "right"


# Canaries


def test_canary_a_chain_that_does_not_cover_the_position(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With equal chains in two places, a frame that lies twice is taken for two: a scan that looks on sees both."""
    pack = frame.TRAILER.pack
    monkeypatch.setattr(frame, "_pack_trailer", lambda digest, _: pack(digest, 0))
    covered = frame._pack_covered
    monkeypatch.setattr(frame, "_pack_covered", lambda *fields: covered(*fields[:-1], 0))
    truth = small_store.make(tmp_path / "s", killed=True)
    frames = frames_of(tmp_path / "s")
    file = tmp_path / "s" / f"{2:020d}.segment"
    end = truth.tails[-1] & 0xFFFFFFFF
    last = frames[-1]
    with damage.overwrite(file, end, file.read_bytes()[last.position & 0xFFFFFFFF : end]):
        assert len(frames_of(tmp_path / "s")) == len(frames) + 1
    monkeypatch.undo()
    assert state_of(tmp_path / "s").state is superblock.State.OPEN


def test_canary_zeros_taken_for_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan that asks no witness loses what lies behind a lost block."""
    truth = small_store.make(tmp_path / "s", killed=True)
    monkeypatch.setattr("kafkalite.storage.recovery.Scan._search", lambda *_: None)
    file = tmp_path / "s" / f"{1:020d}.segment"
    with LEDGER.apart() as mine, damage.zero_block(file, SECTOR):
        assert outcome(truth, may_lose_from=len(truth.answers) - 1) == "wrong"
    assert mine.results["lost"] > 0
