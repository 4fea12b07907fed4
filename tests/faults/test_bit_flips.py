"""F5, every single bit: detected when the record is read, with the place named, or harmless; never a wrong answer.

The journal of `small_store` is damaged one bit at a time, each bit, on a real file:

    open, no index      the hardest: the end has to be found. Damage in the last flush, which nothing witnesses, may
                        read as a torn end, and then exactly that commit is missing; anywhere else it is an error
    sealed, no index    always an error: the seal says where the journal ends
    index trusted       the batch hit raises, every other record is read

What no checksum covers, and what is therefore turned without any effect: the padding of up to 7 bytes behind a frame,
bytes 88 to 96 of a segment's header, what lies behind the last frame of a segment (`uncovered` lists them, and a test
proves that turning them changes no record), and the slot of the superblock that does not count.
"""

import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import kafkalite
from kafkalite import CorruptRecordError, KafkaliteError
from kafkalite.storage import frame, segment, superblock
from kafkalite.storage.journal import Journal
from kafkalite.storage.place import resolve
from kafkalite.testing import damage
from tests.faults import small_store
from tests.faults.ledger import LEDGER
from tests.faults.small_store import LAYOUTS, LOGS, Answer, Image, Truth, derive
from tests.storage.kit import Frame, abandon, copy, extents_of, frames_of, journal_of, reboot, state_of, where

FAULT_CLASS = "F5"
NAMED = r"topic .* partition \d, offsets \d+ to \d+: segment \d+, byte \d+"
PLACE = r"segment \d+|byte \d+|0x[0-9a-f]+|superblock|offset"
"""What an error must name, one of them at least."""


@pytest.fixture(params=LAYOUTS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    found: Path = tmp_path / request.param
    return found


Span = tuple[Path, int, int]
"""A file, and a run of bytes in it."""


def covered(path: Path) -> list[Span]:
    """The headers and frames of the journal, without what no checksum covers."""
    spans = [(extent, 0, segment.HEADER_SIZE - 8) for extent in (one.number for one in extents_of(path))]
    frames = [(one.position >> 32, one.position & 0xFFFFFFFF, _size(one)) for one in frames_of(path)]
    return [(*where(path, number << 32 | at), size) for number, at, size in [*spans, *frames]]


def _size(found: Frame) -> int:
    return frame.HEADER_SIZE + found.length


def uncovered(path: Path) -> list[Span]:
    """Padding, the last 8 bytes of each segment's header, and the unused end of each segment."""
    spans = []
    for extent in extents_of(path):
        first = extent.number << 32
        own = [one for one in frames_of(path) if one.position >> 32 == extent.number]
        spans.append((*where(path, first | 88), 8))
        spans += [(*where(path, one.position + _size(one)), -one.length % 8) for one in own]
        end = own[-1].end & segment.BYTE_MASK
        spans.append((*where(path, first | end), extent.size - end))
    return spans


def judged(truth: Truth, read: Callable[[], Answer], *, may_lose_last: bool) -> str:
    """What came of a damage: "whole", "torn end" or "error"; anything else fails, and is entered in the ledger."""
    try:
        answer = read()
    except CorruptRecordError as error:
        names_it(error)
        return "error"
    if answer == truth.answer:
        return "whole"
    if may_lose_last and answer == truth.answers[-2]:
        return "torn end"
    missing = truth.count - sum(map(len, answer.values()))
    LEDGER.lost(max(0, missing))
    LEDGER.wrong(1)
    pytest.fail(f"a wrong answer: {missing} records fewer, without an error")


def names_it(error: KafkaliteError) -> None:
    """An error about damage says where it is."""
    if not re.search(PLACE, str(error)):
        pytest.fail(f"no place is named: {error}")


def flip_each(spans: list[Span], bits: Callable[[int], range]) -> Iterator[tuple[Path, int, int]]:
    """Turn each bit of some spans in turn, and back; while it is turned, say which."""
    for file, start, size in spans:
        for at in range(start, start + size):
            for bit in bits(at):
                with damage.flip(file, at, bit):
                    yield file, at, bit


def count(operation: str, file: Path, at: int, kind: str, unit: int = 8) -> None:
    """Enter a fault: the bits of one word, or of one larger `unit`, are one fault of the ledger."""
    LEDGER.fault(operation, f"{file.name}:{at // unit * unit}", kind)


def every_bit(_: int) -> range:
    return range(8)


def one_bit(at: int) -> range:
    """Another bit in each byte."""
    return range(at % 8, at % 8 + 1)


def some_bits(at: int) -> range:
    """A bit in every ninth byte: each byte of a word, each bit, in turn."""
    return range(at // 9 % 8, at // 9 % 8 + 1) if at % 9 == 0 or at % 4096 in range(88, 96) else range(0)


# Without an index


def flips_without_index(truth: Truth, bits: Callable[[int], range], *, sealed: bool) -> dict[str, int]:
    """Turn bits of headers and frames; how often each outcome came."""
    path = truth.path
    last_file, last_byte = where(path, truth.tails[-2])
    outcomes = {"error": 0, "torn end": 0, "whole": 0}
    mode = f"{'sealed' if sealed else 'open'} {path.name}"
    for file, at, _ in flip_each(covered(path), bits):
        is_last = file == last_file and at >= last_byte
        outcome = judged(truth, lambda: derive(path), may_lose_last=is_last and not sealed)
        count(f"derive {mode}", file, at, "bit flip")
        outcomes[outcome] += 1
    return outcomes


@pytest.mark.parametrize("killed", [True, False], ids=["open", "sealed"])
def test_a_bit_of_the_journal_without_its_index(path: Path, killed: bool) -> None:
    """One of each byte, another each time; every one of them takes the long run."""
    truth = small_store.make(path, killed=killed)
    assert derive(path) == truth.answer
    outcomes = flips_without_index(truth, one_bit, sealed=not killed)
    last = truth.tails[-1] - truth.tails[-2]
    assert outcomes["whole"] == 0
    assert 0 < outcomes["torn end"] <= last * 8 if killed else outcomes["torn end"] == 0
    assert outcomes["error"] > outcomes["torn end"] * 10
    LEDGER.acknowledged(truth.count)
    check_end_to_end(truth)


@pytest.mark.long
@pytest.mark.parametrize("killed", [True, False], ids=["open", "sealed"])
def test_every_bit_of_the_journal_without_its_index(path: Path, killed: bool) -> None:
    truth = small_store.make(path, killed=killed)
    assert flips_without_index(truth, every_bit, sealed=not killed)["whole"] == 0
    check_end_to_end(truth)


@pytest.mark.parametrize("killed", [True, False], ids=["open", "sealed"])
def test_a_bit_that_no_checksum_covers_changes_no_record(path: Path, killed: bool) -> None:
    """Some bits are turned and the answer compared; with each bit of the unused end it is searched for frames."""
    truth = small_store.make(path, killed=killed)
    for file, at, _ in flip_each(uncovered(path), some_bits):
        assert derive(path) == truth.answer
        count(f"derive {path.name} {killed}", file, at, "bit flip, uncovered", damage.SECTOR)
    journal = journal_of(path)
    ends = [(one.position, one.end) for one in frames_of(path)]
    for _ in flip_each(uncovered(path)[-1:], every_bit):
        assert list(journal.search(truth.tails[-1])) == []
    assert [(one.position, one.end) for one in frames_of(path)] == ends
    journal.close()
    check_end_to_end(truth)


def check_end_to_end(truth: Truth) -> None:
    """Undone, all damage is gone: the store opens without its index, and proves itself."""
    resolve(truth.path).index.unlink()
    with kafkalite.connect(truth.path) as store:
        assert small_store.contents(store) == truth.answer
        assert store.check().ok


# With the index


def test_a_bit_of_a_batch_that_the_index_names(path: Path) -> None:
    """The batch hit raises when it is read; what lies before and behind it is read. Every bit in a directory."""
    truth = small_store.make(path)
    with kafkalite.connect(path) as store:
        for found in frames_of(path):
            if found.log_id in LOGS:
                name, number = LOGS[found.log_id]
                flip_batch(store.topic(name, create=False), number, found, path)
        assert small_store.contents(store) == truth.answer
        assert store.check().ok


def flip_batch(topic: "kafkalite.Topic[bytes | None, bytes | None]", partition: int, found: Frame, path: Path) -> None:
    """Turn each bit of a frame while the log is read from the frame's first offset on."""
    base = int.from_bytes(found.batch[:8])
    end = base + int.from_bytes(found.batch[23:27]) + 1
    rest = [one.value for one in topic.read(partition, start=end)]
    assert len([*topic.read(partition, start=base)]) == end - base + len(rest)
    file, start = where(path, found.position)
    for _, at, _ in flip_each([(file, start, _size(found))], every_bit if path.is_dir() else one_bit):
        count(f"read {path.name}", file, at, "bit flip")
        with pytest.raises(CorruptRecordError, match=NAMED):
            next(topic.read(partition, start=base))
        if at % 16 == 0:
            assert [one.value for one in topic.read(partition, start=end)] == rest
            before = itertools.takewhile(lambda one: one.offset < base, topic.read(partition, until={partition: base}))
            assert len(list(before)) == base


# The superblock


def reopened(path: Path) -> Truth:
    """A store that was closed, opened again and killed: of its slots the older may speak of another end."""
    truth = small_store.make(path)
    store = kafkalite.connect(path)
    store.topic("plain").append_many([b"since then"] * 3, partition=1)
    truth.answers.append(small_store.contents(store))
    truth.tails.append(store._engine.index.positions().tail)
    abandon(store)
    return truth


STORES = {
    "sealed": small_store.make,
    "killed": lambda path: small_store.make(path, killed=True),
    "reopened": reopened,
}


@pytest.mark.parametrize("kind", STORES)
def test_every_bit_of_the_superblock(path: Path, kind: str) -> None:
    """One slot is enough, whichever it is; of a store that has only one, its damage is an error."""
    truth = STORES[kind](path)
    file = resolve(path).file
    slots = min(file.stat().st_size, superblock.SIZE) // superblock.SLOT_SIZE
    answers = {state_of(path): derive(path)}
    with file.open("rb") as stream:
        bits = every_bit if path.is_dir() else one_bit  # the bytes are the same
        for _, at, _ in flip_each([(file, 0, slots * superblock.SLOT_SIZE)], bits):
            count(f"superblock {kind} {path.name}", file, at, "bit flip", unit=64)
            found = superblock.read(stream.fileno(), "s")
            assert found is not None
            if found not in answers:
                answers[found] = derive(path)
    assert set(map(repr, answers.values())) == {repr(truth.answer)}
    assert len(answers) == 2
    check_end_to_end(truth)


@pytest.mark.parametrize("kind", STORES)
def test_a_bit_of_the_superblock_from_end_to_end(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A bit of every other byte that means something, with the index there and after the machine was started anew."""
    truth = STORES[kind](path)
    image = Image(path, tmp_path / "vault")
    file = resolve(path).file
    fields = [*range(0, 128, 5), *range(4088, 4096, 3)]
    for number, at in enumerate([*fields, *(superblock.SLOT_SIZE + at for at in fields)]):
        image.restore()
        if number % 2:
            reboot(monkeypatch)
        damage.flip(file, at, at % 8)
        with kafkalite.connect(path, create=False) as store:
            assert small_store.contents(store) == truth.answer
            assert number % 4 or store.check().ok
        LEDGER.fault(f"connect {kind} {path.name}", at, "bit flip")


# From end to end


@pytest.mark.parametrize("kind", ["sealed", "killed"])
def test_a_bit_of_the_journal_from_end_to_end(path: Path, tmp_path: Path, kind: str) -> None:
    """Opened without its index, a damaged journal is refused and left as it is, or opens to what it may."""
    truth = STORES[kind](path)
    last_file, last_byte = where(path, truth.tails[-2])
    place = copy(path, tmp_path / "copy" / path.name)
    image = Image(place, tmp_path / "vault")
    spans = [(place / file.name if place.is_dir() else place, start, size) for file, start, size in covered(path)]
    for span, start, size in spans:
        for at in range(start, start + size, 61):
            image.restore()
            damage.flip(span, at, at % 8)
            before = {file: file.read_bytes() for file in small_store.files_of(place)}
            is_last = kind == "killed" and span.name == last_file.name and at >= last_byte
            if judged(truth, lambda: opened(place), may_lose_last=is_last) == "error":
                assert {file: file.read_bytes() for file in small_store.files_of(place)} == before
            LEDGER.fault(f"connect {kind} {path.name}", f"{span.name}:{at}", "bit flip")
    image.restore()
    assert opened(place) == truth.answer


def opened(path: Path) -> Answer:
    with kafkalite.connect(path, create=False) as store:
        assert store.check().ok
        return small_store.contents(store)


# Canaries: with the guard gone, these tests see it


def test_canary_without_checksums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame that is taken whatever its chain says gives wrong answers."""
    truth = small_store.make(tmp_path / "s", killed=True)
    right = frame.decode

    def blind(data: bytes, at: int, position: int) -> Frame | None:
        found = right(data, at, position)
        if found is None and data[at : at + 4] == frame.MAGIC:
            _, kind, flags, _, log_id, length, durable, previous = frame.HEAD.unpack_from(data, at)
            body = at + frame.HEADER_SIZE
            chain = frame.CHAIN.unpack_from(data, body - 8)[0]
            found = Frame(
                position, kind, flags, log_id, length, durable, previous, chain, bytes(data[body : body + length])
            )
        return found

    monkeypatch.setattr(frame, "decode", blind)
    with LEDGER.apart() as mine, pytest.raises((kafkalite.KafkaliteError, pytest.fail.Exception)):
        judge_flips(truth, covered(tmp_path / "s")[6:7])
    assert mine.results["wrong"] == 1


def judge_flips(truth: Truth, spans: list[Span]) -> None:
    for _ in flip_each(spans, one_bit):
        judged(truth, lambda: derive(truth.path), may_lose_last=False)


def test_canary_without_witnesses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan that takes every damage for a torn end loses what was acknowledged."""
    truth = small_store.make(tmp_path / "s", killed=True)
    monkeypatch.setattr(Journal, "search", lambda *_: iter(()))
    monkeypatch.setattr(Journal, "search_headless", lambda *_: iter(()))
    with LEDGER.apart() as mine, pytest.raises(pytest.fail.Exception, match="wrong answer"):
        flips_without_index(truth, one_bit, sealed=False)
    assert mine.results["lost"] > 0


def test_canary_a_reader_without_checksums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that are decoded unverified are other values."""
    truth = small_store.make(tmp_path / "s")
    file = max((tmp_path / "s").glob("*.segment"))
    with kafkalite.connect(tmp_path / "s") as store:
        monkeypatch.setattr(frame, "batch_of", lambda data, *_: memoryview(data)[frame.HEADER_SIZE :])
        with damage.flip(file, file.read_bytes().index(b"last 0") + 5):
            assert small_store.contents(store) != truth.answer
        monkeypatch.undo()
        assert store.check().ok


def test_canary_a_seal_that_outlives_its_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were an earlier life's seal left in the other slot, a bit in the newest would cut off all that came since."""
    write = superblock.write
    monkeypatch.setattr(superblock, "write", lambda fd, now: write(fd, now) if now.generation != 6 else None)
    truth = reopened(tmp_path / "s")
    with damage.flip(tmp_path / "s" / "superblock", state_of(tmp_path / "s").generation % 2 * 4096 + 40):
        assert derive(tmp_path / "s") == truth.answers[-2]
