"""docs/format.md is true: its example is what is written, and a reader written from it alone reads every store.

`REWRITE=1 pytest tests/house/test_format.py` writes the example's bytes into the document anew: then read the diff as
a change of the format, which it is.
"""

import ast
import itertools
import os
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack
import pytest

import kafkalite
from kafkalite import clock, disk
from kafkalite.records import control, kafka_v2, native
from kafkalite.records.envelope import LOG_APPEND_TIME
from kafkalite.storage import opening
from kafkalite.storage.commit import Append
from kafkalite.testing import damage, procs
from tests.faults import small_store
from tests.storage import kit

from . import independent_reader as reader

if TYPE_CHECKING:
    from kafkalite.model import Headers

DOCUMENT = Path(__file__).parents[2] / "docs" / "format.md"
BEGIN, END = "<!-- example: begin", "<!-- example: end"
NOON = 1_357_041_600_000
LAYOUTS = ("store.klite", "store/")


# The example


@pytest.fixture
def fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is the same everywhere: clock, random bytes, boot, and inodes numbered as they are met."""
    seen: dict[tuple[int, int], int] = {}
    numbers = random.Random(1)
    identity, path_identity = disk.identity, disk.path_identity

    def known(found: tuple[int, int] | None) -> tuple[int, int] | None:
        return found and (0x801, seen.setdefault(found, 0x1001 + len(seen)))

    monkeypatch.setattr(disk, "identity", lambda fd: known(identity(fd)))
    monkeypatch.setattr(disk, "path_identity", lambda path: known(path_identity(path)))
    monkeypatch.setattr(disk, "random_bytes", numbers.randbytes)
    monkeypatch.setattr(disk, "boot_id", lambda: bytes(range(0xB0, 0xC0)))
    monkeypatch.setattr(disk, "pid_namespace", lambda: 0xF0000001)
    monkeypatch.setattr(disk, "path_size", lambda _: 32768)
    monkeypatch.setattr(opening, "_digest", lambda _: 0xD16E57)  # another LMDB lays its pages out in another way
    monkeypatch.setattr(clock, "wall_ns", lambda: NOON * 1_000_000)


def make_example(path: Path) -> bytes:
    """The store of the worked example, as the document makes it."""
    store = kafkalite.connect(path)
    orders = store.topic("orders", partitions=2)
    orders.append(b"42.0", key=b"alice", partition=0, timestamp_ms=1357041600000)
    orders.append_many(
        [b"7.5", None], keys=[None, b"bob"], partition=1,
        headers=[{"trace": b"\x01", "none": None}, ()], timestamps_ms=[1357041600000, 1357041600250],
    )  # fmt: skip
    assert store.check().ok
    store.close()
    return path.read_bytes()


SUPERBLOCK_FIELDS = (
    (8, "magic"), (2, "format version"), (1, "state"), (5, "zero"), (8, "generation"), (16, "store id"),
    (16, "boot id"), (8, "device"), (8, "PID namespace"), (8, "journal inode"), (8, "index inode"), (4, "index schema"),
    (4, "era"), (8, "era segment"), (8, "tail"), (8, "tail chain"), (8, "index size"),
    (8, "index digest"), (-3952, "zero"), (8, "checksum"),
)  # fmt: skip
HEADER_FIELDS = (
    (8, "magic"), (2, "format version"), (6, "zero"), (16, "store id"), (8, "number"), (8, "size"), (4, "era"),
    (4, "zero"), (8, "created"), (8, "predecessor"), (8, "predecessor chain"), (8, "checksum"), (8, "zero"),
)  # fmt: skip
FRAME_FIELDS = (
    (4, "magic"), (1, "kind"), (1, "flags"), (2, "zero"), (4, "log id"), (4, "length"), (8, "durable"), (8, "previous"),
    (8, "chain"),
)  # fmt: skip
BATCH_FIELDS = (
    (8, "base offset"), (4, "batch length"), (4, "partition leader epoch"), (1, "magic"), (4, "checksum"),
    (2, "attributes"), (4, "last offset delta"), (8, "base timestamp"), (8, "max timestamp"), (8, "producer id"),
    (2, "producer epoch"), (4, "base sequence"), (4, "record count"),
)  # fmt: skip
COLUMNS = ("values", "keys", "timestamp deltas", "headers", "offset deltas")
MSGPACK_ARRAY = 0x90
OPAQUE = ("magic", "zero", "store id", "boot id", "padding")
HEXADECIMAL = ("digest", "durable", "tail", "predecessor", "checksum", "previous", "PID namespace", "device", "inode")


class Dump:
    """Lines of a hex dump with a field on each, from a byte of the file on."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.lines: list[str] = []

    def title(self, text: str) -> None:
        self.lines += ["", text]

    def fields(self, fields: tuple[tuple[int, str], ...]) -> None:
        for size, name in fields:
            self.field(size, name)

    def field(self, size: int, name: str) -> None:
        """A field; one of negative size is too long to show, and zero throughout."""
        raw = self.data[self.at : self.at + abs(size)]
        if size < 0:
            assert not any(raw)
            self.lines.append(f"{self.at:06x}  {f'00 … ({-size} bytes)':<48}{name}")
        else:
            self._rows(raw, f"{name}{self._meaning(raw, name)}")
        self.at += abs(size)

    def _rows(self, raw: bytes, text: str) -> None:
        rows = [raw[start : start + 16] for start in range(0, len(raw), 16)]
        for number, row in enumerate(rows):
            shown = f"{self.at + 16 * number:06x}  {row.hex(' '):<48}{'' if number else text}"
            self.lines.append(shown.rstrip())

    def _meaning(self, raw: bytes, name: str) -> str:
        if name == "magic" and len(raw) > 1:
            return f" {raw.decode()}"
        if not raw or name == "payload" or (name in OPAQUE and name != "magic"):
            return ""
        if name.endswith(HEXADECIMAL) or "chain" in name:
            return f" {int.from_bytes(raw):#x}"
        signed = name in ("producer id", "producer epoch", "base sequence")
        return f" {int.from_bytes(raw, signed=signed)}"


def annotated(data: bytes) -> str:
    """Every byte of the example that is not zero, with the field it belongs to."""
    dump = Dump(data)
    for number in range(2):
        dump.title(f"superblock, slot {number}")
        dump.fields(SUPERBLOCK_FIELDS)
    dump.title("segment 1: header")
    dump.fields(HEADER_FIELDS)
    while data[dump.at : dump.at + 4] == b"klfr":
        length = struct.unpack_from(">I", data, dump.at + 12)[0]
        dump.title(f"frame at position {1 << 32 | dump.at - 8192:#x}")
        dump.fields(FRAME_FIELDS)
        dump.title("its batch")
        dump.fields(BATCH_FIELDS)
        payload = data[dump.at : dump.at + length - 61]
        dump.field(len(payload), "payload")
        if -length % 8:
            dump.field(-length % 8, "padding")
        dump.lines += [f"        # {line}" for line in described(payload)]
    assert not any(data[dump.at :])
    dump.title(f"{dump.at:06x} to {len(data):06x}: zeros, the unused end of the segment")
    return "\n".join(dump.lines).strip()


def described(payload: bytes) -> Iterator[str]:
    """The columns of a native payload, a line each; those of log 0 as the facts they are."""
    columns = msgpack.unpackb(payload)
    values, keys = columns[:2]
    if keys and all(key and key[0] & 0xF0 == MSGPACK_ARRAY for key in keys):
        for key, value in zip(keys, values, strict=True):
            yield f"{msgpack.unpackb(key)}: {msgpack.unpackb(value)}"
    else:
        for name, column in zip(COLUMNS, columns, strict=True):
            yield f"{name}: {column!r}"


@pytest.mark.usefixtures("fixed")
def test_the_example_is_what_is_written(tmp_path: Path) -> None:
    block = f"```text\n{annotated(make_example(tmp_path / 'example.klite'))}\n```\n"
    text = DOCUMENT.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    first_line, _, old = rest.partition("\n")
    old, end, after = old.partition(END)
    if os.environ.get("REWRITE") == "1":
        DOCUMENT.write_text(f"{before}{begin}{first_line}\n{block}{end}{after}", encoding="utf-8")
    else:
        assert old == block


def test_the_example_stands_in_the_document_as_it_is_made() -> None:
    code = DOCUMENT.read_text(encoding="utf-8").partition("```text\n")[2].partition("```")[0]
    (made,) = (
        node
        for node in ast.parse(Path(__file__).read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name == "make_example"
    )
    calls = [ast.dump(node) for node in ast.parse(code).body]
    ours = [ast.dump(node) for node in made.body]
    assert calls[1:] == [one for one in ours if one in calls[1:]]
    assert len(calls) == 5


# The independent reader


def test_the_reader_shares_no_code() -> None:
    tree = ast.parse(Path(reader.__file__).read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names == {
        "struct",
        "typing",
        "collections",
        "collections.abc",
        "pathlib",
        "io",
        "msgpack",
        "xxhash",
        "zstandard",
    }


def test_the_reader_is_short() -> None:
    """The format is simple enough for a reader of fewer than 150 lines, blank ones not counted."""
    assert len([line for line in Path(reader.__file__).read_text(encoding="utf-8").splitlines() if line.strip()]) < 150


Contents = dict[tuple[str, int], list[tuple[Any, ...]]]


def contents(store: kafkalite.Store) -> Contents:
    """What kafkalite reads of a store, in the independent reader's terms."""
    return {
        (name, partition): [tuple(record)[2:] for record in topic.read(partition)]
        for name in store.topics()
        for topic in [store.topic(name, create=False)]
        for partition in range(topic.partition_count)
    }


def sound(path: Path, **settings: Any) -> Contents:
    """What kafkalite reads of a store that it opens, checks and closes."""
    with kafkalite.connect(path, create=False, **settings) as store:
        report = store.check()
        assert report.ok, report
        return contents(store)


@pytest.fixture(params=LAYOUTS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where there is no store yet, in either layout."""
    place: Path = tmp_path / request.param
    if request.param.endswith("/"):
        place.mkdir()
    return place


def fill(store: kafkalite.Store, records: int, seed: int = 7) -> None:
    """Topics with all that records may have: keys, nulls, headers, times, compression, atomic commits, deletion."""
    choose = random.Random(seed)
    plain = store.topic("plain", partitions=3)
    store.topic("gone").append(b"not to be seen")
    stamped = store.topic("stamped", message_timestamp_type="LogAppendTime")
    headers: list[Headers] = [
        (),
        {"trace": b"\x00\xff", "null": None},
        [("twice", b"1"), ("twice", b""), ("größe", b"x")],
    ]
    with store.producer(compression_type="zstd", linger_ms=1000, batch_size=4096) as producer:
        for number in range(records):
            value = choose.choice([None, b"", b"%d" % number, choose.randbytes(choose.randrange(2000))])
            key = choose.choice([None, b"", b"key %d" % choose.randrange(50)])
            stamp = NOON + number * 10 - choose.randrange(1000)
            producer.send(plain, value, key=key, headers=choose.choice(headers), timestamp_ms=stamp)
    for number in range(5):
        plain.append(b"single", key=b"%d" % number, headers=headers[number % 3])
        stamped.append(b"stamped", timestamp_ms=5)
        plain.append_many([b"together", None], keys=[b"a", b"b"])
    store.delete_topic("gone")
    store.topic("empty", partitions=2)
    grown = store.topic("grown")
    grown.alter(partitions=grown.partition_count + 2)
    grown.append(b"in a partition that was added", partition=grown.partition_count - 1)


def test_both_layouts(path: Path) -> None:
    with kafkalite.connect(path) as store:
        fill(store, 300)
        expected = contents(store)
        assert store.check().ok
    assert sum(map(len, expected.values())) == 300 + 5 + 5 + 10 + 1
    assert reader.read(path) == expected


def test_rolls(path: Path) -> None:
    with kafkalite.connect(path, segment_bytes=512 * 1024) as store:
        topic = store.topic("long", partitions=2)
        for number in range(30):
            topic.append_many([bytes([number]) * 20_000] * 4, partition=number % 2)
        topic.append(bytes(1_000_000), key=b"needs a segment of its own")
        expected = contents(store)
        report = store.check()
        assert report.ok
        assert report.segments > 5
    assert reader.read(path) == expected


def test_a_store_in_use_and_one_without_topics(path: Path) -> None:
    with kafkalite.connect(path) as store:
        assert reader.read(path) == {}
        store.topic("t").append(b"x", timestamp_ms=0)
        assert reader.read(path) == contents(store) == {("t", 0): [(0, 0, None, b"x", ())]}
        assert store.check().ok


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_copied_single_file(tmp_path: Path, interrupted: bool) -> None:
    original, copy = tmp_path / "a.klite", tmp_path / "b.klite"
    with kafkalite.connect(original) as store:
        fill(store, 50)
        expected = contents(store)
        if interrupted:
            shutil.copy(original, copy)
        assert store.check().ok
    if not interrupted:
        shutil.copy(original, copy)
    assert reader.read(copy) == expected
    assert sound(copy) == expected
    assert reader.read(copy) == expected


@pytest.mark.parametrize("killed", [False, True])
def test_a_small_store_and_its_copy_with_every_feature(path: Path, tmp_path: Path, killed: bool) -> None:
    """The store that the faults are tried on: nulls, headers, zstd, a commit over several logs, an END and a roll."""
    truth = small_store.make(path, killed=killed)
    expected = {
        place: [(row[0], row[1], *row[2:]) for row in truth.answer[log_id]]
        for log_id, place in small_store.LOGS.items()
    }
    assert reader.read(path) == expected
    copy = kit.copied(path, tmp_path, "copy")
    assert reader.read(copy) == expected
    with kafkalite.connect(copy) as store:  # a rebuild, hence an era, in a new segment
        assert store.topic("plain").append(b"of the next era", partition=0, timestamp_ms=7).offset
        assert store.check().ok
    expected["plain", 0].append((len(expected["plain", 0]), 7, None, b"of the next era", ()))
    assert reader.read(copy) == expected


def test_the_reader_refuses_what_kafkalite_refuses(path: Path) -> None:
    """Each 37th byte of the journal flipped: an error in both, or the same records in both."""
    truth = small_store.make(path, killed=True)
    whole = reader.read(path)
    for file in small_store.journal_files(path):
        for at in range(3, file.stat().st_size, 37):
            with damage.flip(file, at, at % 8):
                try:
                    expected = small_store.derive(path)
                except kafkalite.KafkaliteError:
                    with pytest.raises((reader.Damaged, KeyError)):
                        reader.read(path)
                    continue
                found = reader.read(path)
                assert {log: found[place] for log, place in small_store.LOGS.items()} == expected
    assert reader.read(path) == whole
    assert truth.count == sum(map(len, whole.values()))


@pytest.mark.skipif(find_spec("crc32c") is None, reason="Kafka's own batches need the extra `wire`")
def test_kafka_batches_control_batches_and_gaps(path: Path) -> None:
    """What the public face does not write yet, and the format holds already."""
    headers = [(), (("h", None), ("g", b"1"))]
    batches = [
        kafka_v2.encode(
            [b"v2", None], keys=[None, b"k"], base_timestamp=NOON, timestamp_deltas=[0, -7], headers=headers
        ),
        kafka_v2.encode([b"z" * 5000], keys=[b"big"], base_timestamp=NOON, codec=4),
        control.encode(control.COMMIT, producer_id=7, producer_epoch=1, coordinator_epoch=0, timestamp_ms=NOON),
        native.encode([b"a", b"b"], base_timestamp=NOON, offset_deltas=[1, 4], last_offset_delta=9),
        native.encode([b"now"], base_timestamp=NOON, attributes=LOG_APPEND_TIME),
    ]  # fmt: skip
    with kafkalite.connect(path) as store:
        topic = store.topic("wire")
        store._engine.append([Append(topic._state.log_ids[0], batch, topic._state) for batch in batches])
        expected = contents(store)
        assert [record[0] for record in expected["wire", 0]] == [0, 1, 2, 5, 8, 14]
        assert store.check().ok
    assert reader.read(path) == expected


# Crashes


KILLED_AFTER_FILLING = """
import os, sys
import kafkalite
from tests.house.test_format import fill
store = kafkalite.connect(sys.argv[1] + sys.argv[2], segment_bytes=524288)
fill(store, 400, seed=int(sys.argv[3]))
for number in range(int(sys.argv[4])):
    store.topic("long").append(bytes(60_000))
os._exit(0)
"""


def fill_and_be_killed(path: Path, seed: int, appends: int = 0) -> None:
    with procs.python(KILLED_AFTER_FILLING, path, "/" if path.is_dir() else "", seed, appends) as child:
        child.succeed()


@pytest.fixture
def restart(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """The machine is restarted: its boot id is another one from now on."""
    boots = itertools.count(1)

    def restarted() -> None:
        boot_id = b"%16d" % next(boots)
        monkeypatch.setattr(disk, "boot_id", lambda: boot_id)

    return restarted


def test_eras(path: Path, restart: Callable[[], None]) -> None:
    """Each restart of the machine is a new era, in a new segment."""
    for era in range(1, 4):
        fill_and_be_killed(path, seed=era)
        found = reader.read(path)
        restart()
        with kafkalite.connect(path) as store:
            assert contents(store) == found
            metadata = store.topic("plain").append(b"era %d" % era, partition=0)
            (last,) = store.topic("plain").batches(0, start=metadata.offset)
            assert last.leader_epoch == era
            assert store.check().ok
            expected = contents(store)
        assert reader.read(path) == expected
        shutil.rmtree(path / "run" if path.is_dir() else path.with_name(path.name + "-run"), ignore_errors=True)


def journal_file(path: Path) -> Path:
    return max(path.glob("*.segment")) if path.is_dir() else path


def flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 0xFF
    file.write_bytes(data)


def test_a_torn_end_is_cut_and_what_lies_behind_the_cut_is_not_read(path: Path, restart: Callable[[], None]) -> None:
    code = """
import os, sys
import kafkalite
store = kafkalite.connect(sys.argv[1] + sys.argv[2], durability="none")
for number in range(10):
    store.topic("t").append(b"record %d of a power cut" % number, timestamp_ms=number)
os._exit(0)
"""
    with procs.python(code, path, "/" if path.is_dir() else "") as child:
        child.succeed()
    restart()
    file = journal_file(path)
    flip(file, file.read_bytes().index(b"record 6"))
    with_stale = reader.read(path)
    assert [record[0] for record in with_stale["t", 0]] == list(range(6))
    assert sound(path) == with_stale
    with kafkalite.connect(path) as store:
        assert store.topic("t").append(b"after", timestamp_ms=99).offset == 6
        assert store.check().ok
    flip(file, file.read_bytes().index(b"ecord 6") - 1)
    assert [record[3] for record in reader.read(path)["t", 0]][5:] == [b"record 5 of a power cut", b"after"]
    assert reader.read(path) == sound(path)


def test_damage_that_a_later_frame_witnesses_is_told_from_a_torn_end(path: Path, restart: Callable[[], None]) -> None:
    fill_and_be_killed(path, seed=1)
    file = journal_file(path)
    flip(file, file.read_bytes().index(b"single"))
    restart()
    with pytest.raises(reader.Damaged, match="was on disk"):
        reader.read(path)
    with pytest.raises(kafkalite.CorruptRecordError, match="witnesses"):
        kafkalite.connect(path)
    flip(file, file.read_bytes().index(b"single"[1:]) - 1)
    assert sound(path) == reader.read(path)


def test_a_seal_is_the_end_even_where_an_uncompleted_roll_connects_behind_it(path: Path, tmp_path: Path) -> None:
    """A roll is written, its process killed before the commit, the store closed without an append, then rebuilt."""
    code = """
import os, sys
import kafkalite
from kafkalite import disk
from kafkalite.storage.journal import Journal
store = kafkalite.connect(sys.argv[1] + sys.argv[2], segment_bytes=524288)
topic = store.topic("t")
begin_segment, write = Journal.begin_segment, Journal.write
has_rolled = False
def begin(self, header):
    global has_rolled
    begin_segment(self, header)
    has_rolled = True
def write_and_die(self, *arguments):
    write(self, *arguments)
    if has_rolled:
        os._exit(0)
Journal.begin_segment, Journal.write = begin, write_and_die
while True:
    topic.append(bytes(100_000))
"""
    with procs.python(code, path, "/" if path.is_dir() else "") as child:
        child.succeed()
    expected = sound(path)
    copy = tmp_path / ("copy" + path.suffix)
    if path.is_dir():
        shutil.copytree(path, copy)
    else:
        shutil.copy(path, copy)
    assert reader.read(copy) == expected
    assert sound(copy) == expected
    assert reader.read(copy) == expected


# Once broken: a damaged newest header was taken for a prepared segment's, and the journal shortened without a word.
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_damaged_newest_header_does_not_shorten_the_journal(
    tmp_path: Path, layout: str, restart: Callable[[], None]
) -> None:
    place = tmp_path / layout
    if layout.endswith("/"):
        place.mkdir()
    fill_and_be_killed(place, seed=1, appends=30)
    file = tmp_path / "store" if layout.endswith("/") else place
    newest = max(file.glob("*.segment"), key=header_number) if file.is_dir() else place
    flip(newest, newest.read_bytes().rindex(b"klsegmnt") + 50)
    restart()
    with pytest.raises(kafkalite.CorruptRecordError), kafkalite.connect(place):
        pass


def header_number(file: Path) -> int:
    """The number of a segment that has a header, 0 for one that is prepared."""
    return int(file.stem) if file.read_bytes().startswith(b"klsegmnt") else 0
