"""F10, hostile bytes: whatever a decoder or a file is given, an error from the table, in bounded memory and time.

Arbitrary bytes, valid bytes with some changed, claims of absurd lengths and counts, nesting without end, and compressed
payloads that say they are, or are, far larger than they look. Examples are the same in each quick run; with `-m long`
they are other ones, and more.
"""

import itertools
import struct
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kafkalite
from kafkalite import KafkaliteError, partitioner, serde
from kafkalite.records import batch, compression, control, envelope, native
from kafkalite.records.checksum import hash64
from kafkalite.storage import catalogue, frame, index, segment, superblock
from kafkalite.storage.place import resolve
from kafkalite.testing import damage
from tests.faults import small_store
from tests.faults.ledger import LEDGER
from tests.faults.small_store import LAYOUTS, Apart, forked

FAULT_CLASS = "F10"
MIB = 1 << 20
QUICK = settings(derandomize=True, max_examples=120, database=None, suppress_health_check=list(HealthCheck))
DEEP = b"\x91" * 100_000 + b"\xc0"
"""Msgpack: a list in a list in a list …"""


@dataclass
class Order:
    """A type of a user's."""

    id: int
    lines: list[str]


def zstd(size: int) -> bytes:
    """A frame that is small and is `size` bytes."""
    return zstandard.ZstdCompressor(level=19).compress(bytes(size))


CLAIM = bytes.fromhex("28b52ffd") + b"\xe0" + struct.pack("<Q", 4 << 30) + b"\x01\x00\x00"
"""A zstd frame that says it holds 4 GiB, in one empty block."""

BATCHES = [
    native.encode([b"a", None], keys=[None, b"k"], base_timestamp=5, headers=[(("h", b"1"),), None]),
    native.encode([b"z" * 500] * 5, base_timestamp=5, codec=4, timestamp_deltas=[0, 1, 2, 3, 4]),
    native.encode([b"a", b"b"], base_timestamp=5, offset_deltas=[1, 4], last_offset_delta=9),
    control.encode(control.COMMIT, producer_id=7, producer_epoch=1, coordinator_epoch=0, timestamp_ms=1),
]


def whole(sealed: envelope.SealedBatch) -> bytes:
    return sealed.prefix(0, 0) + sealed.fields + sealed.payload


def with_payload(payload: bytes, *, magic: int, codec: int = 0, count: int = 1, delta: int | None = None) -> bytes:
    """A batch whose envelope is right and whose payload is not looked at."""
    fields = envelope.FIELDS.pack(codec, count - 1 if delta is None else delta, 0, 0, -1, -1, -1, count)
    prefix = envelope.PREFIX.pack(0, envelope.LENGTH_OVERHEAD + len(payload), 0, magic, 0)
    return prefix + fields + payload


def decode_batch(data: bytes) -> None:
    header, columns = batch.decode(data)
    assert len(columns.values) == header.count == len(columns.keys) == len(columns.offsets)
    if header.is_control:
        control.decode(header, memoryview(data)[envelope.HEADER_SIZE :])


def decode_payload(magic: int, codec: int) -> Callable[[bytes], None]:
    def decode(data: bytes) -> None:
        decode_batch(with_payload(data, magic=magic, codec=codec, count=2))

    return decode


def decode_frame(data: bytes) -> None:
    found = frame.decode(data, 0, 1 << 32 | 96)
    assert found is None or found.end > found.position
    if len(data) >= frame.HEADER_SIZE:
        frame.batch_of(data, 1 << 32 | 96, 16)


def decode_superblock(data: bytes) -> None:
    superblock.decode(data.ljust(superblock.SLOT_SIZE, b"\0")[: superblock.SLOT_SIZE])


def decode_resealed_superblock(data: bytes) -> None:
    """Past the checksum: whoever can make one may write any field."""
    slot = (b"kafkalit\0\x01" + data).ljust(superblock.SLOT_SIZE - 8, b"\0")[: superblock.SLOT_SIZE - 8]
    superblock.decode(slot + struct.pack(">Q", hash64(slot)))


def decode_catalogue(data: bytes) -> None:
    for sealed in (
        native.encode([data], keys=[data], base_timestamp=0),
        native.encode([data], keys=[b"\xa0"], base_timestamp=0),
    ):
        raw = whole(sealed)
        catalogue.rows(native.decode(envelope.parse(raw), raw[envelope.HEADER_SIZE :]))


SERDES: dict[str, Any] = {
    "str": serde.resolve(str),
    "int": serde.resolve(int),
    "JSON": serde.JSON,
    "MSGPACK": serde.MSGPACK,
    "dataclass": serde.resolve(Order),
    "list": serde.json(list[list[int]]),
    "optional": serde.optional(Order),
}


def read_with(name: str) -> Callable[[bytes], None]:
    return lambda data: SERDES[name].deserialize_many([data])  # type: ignore[no-any-return]


DECODERS: dict[str, Callable[[bytes], object]] = {
    "batch": decode_batch,
    "verify": envelope.verify,
    "resealed": envelope.resealed,
    "native": decode_payload(107, 0),
    "native zstd": decode_payload(107, 4),
    "v2": decode_payload(2, 0),
    "v2 zstd": decode_payload(2, 4),
    "gzip": decode_payload(2, 1),
    "frame": decode_frame,
    "segment header": segment.decode_header,
    "superblock": decode_superblock,
    "resealed superblock": decode_resealed_superblock,
    "catalogue": decode_catalogue,
    "zstd": lambda data: compression.decompress(4, data),
    "murmur2": partitioner.murmur2,
    "partitions": lambda data: partitioner.KeyPartitions(7)[data],
    **{f"serde {name}": read_with(name) for name in SERDES},
}

SEEDS = [
    *map(whole, BATCHES),
    *(sealed.payload for sealed in BATCHES),
    segment.Header(bytes(16), 1, 4096, 0, 0, 0, 0).encode(),
    frame.encode_end(5, 6, 7)[0],
    zstd(1000), CLAIM, DEEP,
    b'{"id": 1, "lines": ["a"]}', b"[[1, 2]]", b"null", b"[" * 5000, b"1" * 5000, b"\xff\xfe",
    msgpack.packb([[b"a"], None, None, None, None]), msgpack.packb([{"a": 1}, [1.5], None, [[1, 2, 3]], [-1]]),
    msgpack.packb(["topic", "t"]), b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdf\x7f\xff\xff\xff",
]  # fmt: skip


@st.composite
def hostile(draw: st.DrawFn) -> bytes:
    """Bytes of any kind, or valid ones of which some were changed, cut out, put in or repeated."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=300))
    data = bytearray(draw(st.sampled_from(SEEDS))[:2000])
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 8))] = draw(st.binary(max_size=8))
    return bytes(data)


def bounded(name: str, data: bytes, most: int = 16 * MIB) -> None:
    """A decoder gives something or an error from the table, and takes no more memory than `most` bytes."""
    tracemalloc.start()
    try:
        with suppress(KafkaliteError):
            DECODERS[name](data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < most + 40 * len(data), f"{name}: {peak} bytes for {len(data)}"
    LEDGER.fault(name, f"{hash64(data):x}"[:3], "hostile bytes")


@pytest.mark.parametrize("name", DECODERS)
def test_bytes_of_any_kind(name: str) -> None:
    @QUICK
    @given(hostile())
    def check(data: bytes) -> None:
        bounded(name, data)

    check()


@pytest.mark.long
@pytest.mark.parametrize("name", DECODERS)
def test_more_bytes_of_any_kind(name: str) -> None:
    @settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
    @given(hostile())
    def check(data: bytes) -> None:
        bounded(name, data)

    check()


@pytest.mark.parametrize("name", DECODERS)
def test_every_seed_as_it_is(name: str) -> None:
    for data in SEEDS:
        bounded(name, data)


# Bombs and claims


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (CLAIM, "claims"),
        (CLAIM * 1000, "claims|cannot be decompressed"),
        (zstd(MIB)[:-1], "cannot be decompressed"),
        (zstd(100) + b"more", "cannot be decompressed"),
        (zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 100), "does not say"),
        (b"", "cannot be decompressed"),
    ],
    ids=lambda data: str(len(data)),
)
def test_a_payload_that_says_it_is_larger_than_it_can_be(data: bytes, why: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(kafkalite.CorruptRecordError, match=why):
            compression.decompress(4, data)
        assert tracemalloc.get_traced_memory()[1] < 3 * MIB
    finally:
        tracemalloc.stop()
    LEDGER.fault("decompress", len(data), why)


def test_a_small_frame_that_grows_hugely_is_bounded_by_what_it_says() -> None:
    """64 MiB of zeros are 2 KiB of zstd: legal, no more than said is allocated, and as columns they are refused."""
    bomb = zstd(64 * MIB)
    assert len(bomb) < 10_000
    for magic in envelope.MAGICS:
        tracemalloc.start()
        try:
            with pytest.raises(kafkalite.CorruptRecordError):
                batch.decode(with_payload(bomb, magic=magic, codec=4, count=2))
            assert tracemalloc.get_traced_memory()[1] < 200 * MIB
        finally:
            tracemalloc.stop()
        LEDGER.fault("decompress", magic, "bomb")


@pytest.mark.parametrize("count", [-1, 2, 100, 2**31 - 1])
@pytest.mark.parametrize("magic", envelope.MAGICS)
def test_a_count_that_the_payload_does_not_hold(magic: int, count: int) -> None:
    payload = msgpack.packb([[b"a"], None, None, None, None]) if magic == envelope.MAGIC_NATIVE else bytes(7)
    data = with_payload(payload, magic=magic, count=count, delta=2**31 - 1)
    tracemalloc.start()
    try:
        with pytest.raises(kafkalite.CorruptRecordError):
            batch.decode(data)
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()
    LEDGER.fault("batch", count, f"count, magic {magic}")


@pytest.mark.parametrize("length", [1, 60, 61, 4096, 2**31, 2**32 - 1])
def test_a_frame_longer_than_its_segment(length: int) -> None:
    head = frame.HEAD.pack(frame.MAGIC, frame.BATCH, 1, 0, 16, length, 0, 0) + bytes(8)
    assert frame.decode(head + bytes(100), 0, 1 << 32) is None
    assert frame.batch_of(head + bytes(100), 1 << 32, 16) is None
    LEDGER.fault("frame", length, "length")


@pytest.mark.parametrize(
    "data",
    [DEEP, b"\x81\xa1a" * 50_000 + b"\xc0", b"[" * 100_000, b'{"a":' * 100_000],
    ids=["msgpack lists", "msgpack maps", "JSON lists", "JSON maps"],
)
def test_nesting_without_end(data: bytes) -> None:
    for name, decode in DECODERS.items():
        with suppress(KafkaliteError):
            decode(data)
        LEDGER.fault(name, len(data), f"nesting {data[:1]!r}")


# Whole files


@pytest.mark.parametrize("name", LAYOUTS)
def test_hostile_files(tmp_path: Path, name: str) -> None:
    """Each file of a store in turn is other bytes, its header and magic kept in half of the cases."""
    path = tmp_path / name
    truth = small_store.make(path)
    image = small_store.Image(path, tmp_path / "vault")

    def use() -> str:
        with kafkalite.connect(path) as store:
            found = small_store.contents(store)
            return "right" if found == truth.answer else f"wrong: {found}"

    cases = itertools.product(small_store.files_of(path), enumerate([*SEEDS, bytes(5000), b"\xff" * 9000]))
    with Apart(use) as apart:
        for file, (number, data) in cases:
            image.restore()
            at = 0 if number % 2 else (8192 + 96 if file == path else 96)
            room = file.stat().st_size - at
            damage.overwrite(file, at, (data * (room // max(1, len(data)) + 1))[:room])
            said = apart()
            LEDGER.dead(said.startswith("signal"))
            LEDGER.wrong(said.startswith("wrong"))
            assert said == "right" or said.split(": ")[1] in TABLE, (file.name, number, said)
            LEDGER.fault(f"connect {name}", f"{file.name} {number}", "hostile file")


TABLE = {error.__name__ for error in kafkalite.errors.ERRORS}


def test_a_size_in_a_segment_header_that_is_absurd(tmp_path: Path) -> None:
    """The checksum is right: only whoever writes stores by hand makes such a thing."""
    truth = small_store.make(tmp_path / "s")
    file = tmp_path / "s" / f"{1:020d}.segment"
    header = segment.decode_header(file.read_bytes())
    assert header is not None
    for size in (0, 1, 95, 4097, 2**40, 2**63, 2**64 - 1):
        with damage.overwrite(file, 0, header._replace(size=size).encode()):
            resolve(truth.path).index.rename(tmp_path / "kept")
            said = forked(lambda: str(small_store.derive(truth.path)))
            (tmp_path / "kept").rename(resolve(truth.path).index)
            assert said.startswith("error: CorruptRecordError"), (size, said)
        LEDGER.fault("segment header", size, "absurd size")
    with kafkalite.connect(truth.path) as store:
        assert store.check().ok


def test_rows_of_the_index_that_are_absurd(tmp_path: Path) -> None:
    """Rows that name no frame: an error that names the place, never bytes of something else."""
    truth = small_store.make(tmp_path / "s")
    with kafkalite.connect(tmp_path / "s") as store:
        for position in (0, 1, 1 << 32, 1 << 32 | 0xFFFFFFFF, 2**63, 2**64 - 1, 3 << 32 | 96):
            for length in (0, 61, 2**32 - 1):
                key = index.BATCH_KEY.pack(index.BATCH, 16, 0)
                with store._engine.index.writing() as transaction:
                    kept = transaction.replace(key, index.BATCH_ROW.pack(position, length, 0))
                said = read_first(store)
                with store._engine.index.writing() as transaction:
                    transaction.put(key, kept)
                assert said in ("CorruptRecordError", "nothing"), (position, length, said)
                LEDGER.fault("index row", f"{position:x} {length}", "absurd")
        assert small_store.contents(store) == truth.answer
        assert store.check().ok


def read_first(store: kafkalite.Store) -> str:
    try:
        found = next(store.topic("plain", create=False).read(0), None)
    except KafkaliteError as error:
        return type(error).__name__
    return "nothing" if found is None else f"offset {found.offset}"


# Canaries


def test_canary_a_decoder_that_raises_what_is_in_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    def raw(data: bytes) -> object:
        return msgpack.unpackb(data)

    monkeypatch.setitem(DECODERS, "raw", raw)
    with LEDGER.apart(), pytest.raises((ValueError, msgpack.exceptions.UnpackException)):
        bounded("raw", b"\xff\xfe")


def test_canary_a_decoder_that_believes_a_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DECODERS, "credulous", lambda data: bytearray(int.from_bytes(data[:4])))
    with LEDGER.apart(), pytest.raises(AssertionError, match="bytes for"):
        bounded("credulous", b"\x10\0\0\0")
