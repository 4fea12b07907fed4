"""A reader of kafkalite's stores, written from docs/format.md alone: it shares no code with kafkalite.

`read(path)` gives {(topic, partition): [(offset, timestamp_ms, key, value, headers), …]} for a store.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import msgpack
import xxhash
import zstandard

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

hash64 = xxhash.xxh3_64_intdigest
SUPERBLOCK = struct.Struct(">8sHB5xQ16s16sQQQQIIQQQ")
HEADER = struct.Struct(">8sH6x16sQQI4xqQQQ")
FRAME = struct.Struct(">4sBBHIIQQQ")
BATCH = struct.Struct(">qiibIhiqqqhii")
BATCH_KIND, END_KIND, COMMIT, MUST_UNDERSTAND = 1, 2, 1, 128
LOG_APPEND_TIME, CONTROL, NATIVE, ZSTD = 8, 32, 107, 4


class Damaged(Exception): ...  # noqa: N818


class Segment(NamedTuple):
    data: bytes
    number: int
    first: tuple[int, int]
    """Boundary at which its frames begin: a position and a chain."""
    predecessor: tuple[int, int]


class Frame(NamedTuple):
    kind: int
    flags: int
    log_id: int
    durable: int
    previous: int
    batch: bytes
    end: tuple[int, int]
    """Boundary behind it."""


def superblock(data: bytes) -> dict[str, Any]:
    slots = []
    for slot in (data[:4096], data[4096:8192]):
        if slot[:8] == b"kafkalit" and struct.pack(">Q", hash64(slot[:4088])) == slot[4088:]:
            _, version, state, generation, store_id, *_, era_segment, tail, chain = SUPERBLOCK.unpack_from(slot)
            if version > 1:
                raise Damaged(f"format {version}")
            slots.append((generation, {"id": store_id, "era": era_segment, "seal": (tail, chain), "state": state}))
    return max(slots, key=lambda slot: slot[0])[1]


def segment(data: bytes, at: int, store_id: bytes) -> Segment | None:
    if data[at : at + 8] != b"klsegmnt":
        return None
    _, _, owner, number, size, _, _, *predecessor, checksum = HEADER.unpack_from(data, at)
    if hash64(data[at : at + 80]) != checksum or owner != store_id:
        return None
    if at + size > len(data):
        raise Damaged(f"segment {number} is short")
    return Segment(data[at : at + size], number, (number << 32 | 96, checksum), (predecessor[0], predecessor[1]))


def segments(path: Path, store_id: bytes) -> Iterator[Segment]:
    if path.is_dir():
        for file in path.glob("*.segment"):
            if found := segment(file.read_bytes(), 0, store_id):
                assert found.number == int(file.stem)
                yield found
        return
    data, at = path.read_bytes(), 8192
    while at < len(data):
        found = segment(data, at, store_id)
        if found:
            yield found
        at += len(found.data) if found else 4096


def frame(data: bytes, at: int, number: int) -> Frame | None:
    """The frame at a byte of a segment, if it is valid."""
    if data[at : at + 4] != b"klfr" or at + 40 > len(data):
        return None
    _, kind, flags, _, log_id, length, durable, previous, chain = FRAME.unpack_from(data, at)
    batch = data[at + 40 : at + 40 + length]
    if len(batch) != length:
        return None
    digest = hash64(batch[61:], hash64(batch[21:61])) if length else 0
    prefix = batch[:21] if length else bytes(21)
    if hash64(data[at : at + 32] + prefix + struct.pack(">QQ", digest, number << 32 | at)) != chain:
        return None
    if kind not in (BATCH_KIND, END_KIND) and flags & MUST_UNDERSTAND:
        raise Damaged(f"a frame of kind {kind}")
    end = number << 32 | (at + 40 + length + 7) // 8 * 8
    return Frame(kind, flags, log_id, durable, previous, batch, (end, chain))


def follow(segment: Segment) -> Iterator[Frame]:
    """The frames of a segment as far as the chain goes."""
    position, chain = segment.first
    while (found := frame(segment.data, position & 0xFFFFFFFF, segment.number)) and found.previous == chain:
        yield found
        if found.kind == END_KIND:
            return
        position, chain = found.end


def find_path(found: dict[int, Segment], era_segment: int) -> list[Segment]:
    for newest in sorted(found, reverse=True):
        path = [found[newest]]
        while (boundary := path[0].predecessor)[0]:
            before = found.get(boundary[0] >> 32)
            if before is None or not (boundary == before.first or any(one.end == boundary for one in follow(before))):
                break
            path.insert(0, before)
        else:
            if era_segment not in [one.number for one in path]:
                break
            return path
    raise Damaged("segments are missing")


def frames(path: list[Segment], others: list[Segment], seal: tuple[int, int] | None) -> Iterator[Frame]:
    """The frames of all commits that count."""
    for number, one in enumerate(path):
        bound = path[number + 1].predecessor if number + 1 < len(path) else seal
        at, group = one.first, []
        for found in follow(one):
            if at == bound:
                break
            at = found.end
            group.append(found)
            if found.flags & COMMIT:
                yield from group
                group.clear()
        if bound and at != bound:
            raise Damaged(f"followed to {at}, not to {bound}")
    end = at[0]
    for one in [path[-1], *(other for other in others if other.number > path[-1].number)]:
        start = end & 0xFFFFFFFF if one is path[-1] else 96
        for place in range(start, len(one.data), 8):
            witness = None if seal else frame(one.data, place, one.number)
            if witness and witness.durable > end:
                raise Damaged(f"{witness.durable} was on disk, followed to {end}")


def varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        number |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return number >> 1 ^ -(number & 1), at


def piece(data: bytes, at: int) -> tuple[bytes | None, int]:
    size, at = varint(data, at)
    return (None, at) if size < 0 else (data[at : at + size], at + size)


def kafka_records(data: bytes, count: int) -> Iterator[tuple[Any, ...]]:
    at = 0
    for _ in range(count):
        _, at = varint(data, at)
        timestamp, at = varint(data, at + 1)
        offset, at = varint(data, at)
        key, at = piece(data, at)
        value, at = piece(data, at)
        size, at = varint(data, at)
        headers = []
        for _ in range(size):
            name, at = piece(data, at)
            content, at = piece(data, at)
            headers.append(((name or b"").decode(), content))
        yield offset, timestamp, key, value, tuple(headers)


def native_records(data: bytes, count: int) -> Iterator[tuple[Any, ...]]:
    values, keys, timestamps, headers, offsets = msgpack.unpackb(data)
    nulls = [None] * count
    columns = offsets or range(count), timestamps or [0] * count, keys or nulls, values, headers or nulls
    for offset, timestamp, key, value, pairs in zip(*columns, strict=True):
        yield offset, timestamp, key, value, tuple((name, content) for name, content in pairs or ())


def records(batch: bytes) -> Iterator[tuple[Any, ...]]:
    base, _, _, magic, _, attributes, _, first, latest, *_, count = BATCH.unpack_from(batch)
    if attributes & CONTROL:
        return
    data = zstandard.decompress(batch[61:]) if attributes & 7 == ZSTD else batch[61:]
    for offset, timestamp, *rest in (native_records if magic == NATIVE else kafka_records)(data, count):
        yield base + offset, latest if attributes & LOG_APPEND_TIME else first + timestamp, *rest


def read(path: Path) -> dict[tuple[str, int], list[tuple[Any, ...]]]:
    block = superblock((path / "superblock" if path.is_dir() else path).read_bytes()[:8192])
    seal = block["seal"] if block["state"] == 2 else None
    found = {one.number: one for one in segments(path, block["id"]) if not seal or one.number <= seal[0] >> 32}
    logs: dict[int, list[tuple[Any, ...]]] = {}
    for one in frames(find_path(found, block["era"]), list(found.values()), seal):
        if one.kind == BATCH_KIND:
            logs.setdefault(one.log_id, []).extend(records(one.batch))
    facts = {msgpack.unpackb(key, use_list=False): value for _, _, key, value, _ in logs.get(0, [])}
    store = {}
    for key, value in facts.items():
        if key[0] == "topic" and value is not None:
            pairs = msgpack.unpackb(value)["logs"]
            ids = [log_id for first, count in pairs for log_id in range(first, first + count)]
            for partition, log_id in enumerate(ids):
                start = msgpack.unpackb(facts.get(("log_start", log_id)) or b"\0")
                store[key[1], partition] = [record for record in logs.get(log_id, []) if record[0] >= start]
    return store
