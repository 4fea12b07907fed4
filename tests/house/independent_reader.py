"""A reader of kafkalite's stores, written from docs/format.md alone: it shares no code with kafkalite.

`read(path)` gives {(topic, partition): [(offset, timestamp_ms, key, value, headers), …]} for a store.
"""

import struct
from collections import namedtuple
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import msgpack
import xxhash
import zstandard

hash64 = xxhash.xxh3_64_intdigest
BATCH_KIND, END_KIND, COMMIT, MUST_UNDERSTAND = 1, 2, 1, 128
LOG_APPEND_TIME, CONTROL, NATIVE, ZSTD = 8, 32, 107, 4
Boundary = tuple[int, int]


class Damaged(Exception): ...  # noqa: N818


# A boundary is a position and the chain there; frames begin at `first`, which is (0, 0) where there is no valid header.
Segment = namedtuple("Segment", "data number first predecessor")  # noqa: PYI024  (half the lines)
Frame = namedtuple("Frame", "kind flags log_id durable previous batch end")  # noqa: PYI024


def superblock(data: bytes) -> dict[str, Any]:
    slots = []
    for slot in (data[:4096], data[4096:8192]):
        if slot[:8] == b"kafkalit" and struct.pack(">Q", hash64(slot[:4088])) == slot[4088:]:
            version, state, generation, store_id, era, tail, chain = struct.unpack_from(">8xHB5xQ16s56xQQQ", slot)
            if version > 1:
                raise Damaged(f"format {version}")
            slots.append((generation, {"id": store_id, "era": era, "seal": (tail, chain) if state == 2 else None}))
    if not slots:
        raise Damaged("no slot of the superblock is valid")
    return max(slots, key=lambda slot: slot[0])[1]


def segment(data: bytes, at: int, store_id: bytes) -> Segment | None:
    if data[at : at + 8] != b"klsegmnt" or len(data) < at + 96:
        return None
    owner, number, size, before, chain, checksum = struct.unpack_from(">16x16sQQ16xQQQ", data, at)
    if hash64(data[at : at + 80]) != checksum or owner != store_id:
        return None
    if at + size > len(data):
        raise Damaged(f"segment {number} is short")
    return Segment(data[at : at + size], number, (number << 32 | 96, checksum), (before, chain))


def segments(path: Path, store_id: bytes) -> Iterator[Segment]:
    """All of them; what has no valid header under the number that it would have."""
    for file in path.glob("*.segment"):
        data = file.read_bytes()
        found = segment(data, 0, store_id) or Segment(data, int(file.stem), (0, 0), (0, 0))
        assert found.number == int(file.stem)
        yield found
    data, at, gap, number = b"" if path.is_dir() else path.read_bytes(), 8192, 8192, 0
    while at < len(data):
        if found := segment(data, at, store_id):
            yield found
            number, gap = found.number, at + len(found.data)
        at = gap if found else at + 4096
    yield Segment(data[gap:], number + 1, (0, 0), (0, 0))


def frame(data: bytes, at: int, number: int) -> Frame | None:
    if data[at : at + 4] != b"klfr" or at + 40 > len(data):
        return None
    kind, flags, log_id, length, durable, previous, chain = struct.unpack_from(">4xBB2xIIQQQ", data, at)
    batch = data[at + 40 : at + 40 + length]
    digest = hash64(batch[61:], hash64(batch[21:61])) if length else 0
    prefix, place = batch[:21] if length else bytes(21), number << 32 | at
    if len(batch) != length or hash64(data[at : at + 32] + prefix + struct.pack(">QQ", digest, place)) != chain:
        return None
    if kind not in (BATCH_KIND, END_KIND) and flags & MUST_UNDERSTAND:
        raise Damaged(f"a frame of kind {kind}")
    return Frame(kind, flags, log_id, durable, previous, batch, (number << 32 | (at + 47 + length) // 8 * 8, chain))


def follow(segment: Segment) -> Iterator[Frame]:
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


def frames(path: list[Segment], others: list[Segment], seal: Boundary | None) -> Iterator[Frame]:
    bounds = [*(one.predecessor for one in path[1:]), seal]
    for one, bound in zip(path, bounds, strict=True):
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
    for one in [] if seal else [path[-1], *(other for other in others if other.number > path[-1].number)]:
        for place in range(at[0] & 0xFFFFFFFF if one is path[-1] else 96, len(one.data), 8):
            if (witness := frame(one.data, place, one.number)) and witness.durable > at[0]:
                raise Damaged(f"{witness.durable} was on disk, followed to {at[0]}")


def kafka_records(data: bytes, count: int) -> Iterator[tuple[Any, ...]]:
    stream = BytesIO(data)

    def varint() -> int:
        number = shift = 0
        while (byte := stream.read(1)[0]) > 127:
            number, shift = number | (byte & 127) << shift, shift + 7
        number |= byte << shift
        return number >> 1 ^ -(number & 1)

    def piece() -> bytes | None:
        return None if (size := varint()) < 0 else stream.read(size)

    for _ in range(count):
        varint(), stream.read(1)
        timestamp, offset, key, value = varint(), varint(), piece(), piece()
        yield offset, timestamp, key, value, tuple([((piece() or b"").decode(), piece()) for _ in range(varint())])


def native_records(data: bytes, count: int) -> Iterator[tuple[Any, ...]]:
    values, keys, timestamps, headers, offsets = msgpack.unpackb(data)
    nulls = [None] * count
    columns = offsets or range(count), timestamps or [0] * count, keys or nulls, values, headers or nulls
    for *rest, pairs in zip(*columns, strict=True):
        yield *rest, tuple((name, content) for name, content in pairs or ())


def records(batch: bytes) -> Iterator[tuple[Any, ...]]:
    base, magic, attributes, first, latest, count = struct.unpack_from(">q8xb4xh4xqq14xi", batch)
    if attributes & CONTROL:
        return
    data = zstandard.decompress(batch[61:]) if attributes & 7 == ZSTD else batch[61:]
    for offset, timestamp, *rest in (native_records if magic == NATIVE else kafka_records)(data, count):
        yield base + offset, latest if attributes & LOG_APPEND_TIME else first + timestamp, *rest


def read(path: Path) -> dict[tuple[str, int], list[tuple[Any, ...]]]:
    block = superblock((path / "superblock" if path.is_dir() else path).read_bytes()[:8192])
    seal, logs = block["seal"], dict[int, list[tuple[Any, ...]]]()
    some = [*segments(path, block["id"])]
    found = {one.number: one for one in some if one.first[0] and (not seal or one.number <= seal[0] >> 32)}
    for one in frames(find_path(found, block["era"]), some, seal):
        if one.kind == BATCH_KIND:
            logs.setdefault(one.log_id, []).extend(records(one.batch))
    facts = {msgpack.unpackb(key, use_list=False): value for _, _, key, value, _ in logs.get(0, [])}
    store = {}
    for key, value in facts.items():
        if key[0] == "topic" and value is not None:
            pairs = msgpack.unpackb(value)["logs"]
            for partition, log_id in enumerate(one for first, count in pairs for one in range(first, first + count)):
                start = msgpack.unpackb(facts.get(("log_start", log_id)) or b"\0")
                store[key[1], partition] = [record for record in logs.get(log_id, []) if record[0] >= start]
    return store
