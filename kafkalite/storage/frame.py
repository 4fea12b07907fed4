"""Frames: what the journal is made of. Each can be checked alone.

A frame starts at a multiple of 8 bytes and holds a record batch, or nothing. Big-endian throughout:

    at  size  field
     0     4  magic       b"klfr"
     4     1  kind        1 BATCH: a record batch of a log follows; 2 END: the segment ends here, on purpose
     5     1  flags       1 COMMIT: last frame of its commit; 2 RELOCATED: the cleaner's copy; 128 MUST UNDERSTAND
     6     2  zero
     8     4  log id      the internal logs are 0 to 3, users' partitions begin at 16
    12     4  length      bytes of the batch, without the padding to the next multiple of 8
    16     8  durable     position up to which the journal was known to be on disk when this was written
    24     8  previous    chain of the frame before, or of the segment's header
    32     8  chain       XXH3 of bytes 0 to 32, the batch's first 21 bytes, its digest (8) and the frame's position (8)
    40        the batch

A *position* is one 64-bit number: the segment's number in the high half, the byte within it in the low half. The
chain covers the position, so a frame that lies anywhere else than where it was written, or bytes inside a value that
look like one, never pass; it covers its predecessor's, so a run of frames is in order and complete. Because every
frame names both chains, one damaged frame does not hide the ones after it: a chain made only of running state, as
simpler logs have it, cannot tell a torn tail from a flipped bit in the middle.

The digest (`records.checksum.batch_digest`) covers the batch from byte 21 on; all else is in the chain's own hash.
"""

from struct import Struct
from typing import Final, NamedTuple

from kafkalite.disk import Map
from kafkalite.errors import StoreVersionError
from kafkalite.records.checksum import batch_digest, hash64
from kafkalite.records.envelope import HEADER_SIZE as BATCH_HEADER_SIZE
from kafkalite.records.envelope import LENGTH_FIELD_END, PREFIX, PREFIX_SIZE, SealedBatch

MAGIC: Final = b"klfr"
HEAD: Final = Struct(">4sBBHIIQQ")
CHAIN: Final = Struct(">Q")
TRAILER: Final = Struct(">QQ")
HEADER_SIZE: Final = 40
ALIGNMENT: Final = 8
assert HEAD.size + CHAIN.size == HEADER_SIZE

BATCH: Final = 1
END: Final = 2
COMMIT: Final = 1
RELOCATED: Final = 2
MUST_UNDERSTAND: Final = 128
KINDS: Final = (BATCH, END)
NO_PREFIX: Final = bytes(PREFIX_SIZE)
MOST_OVERHEAD: Final = HEADER_SIZE + BATCH_HEADER_SIZE + ALIGNMENT - 1
"""Bytes that a frame takes beyond its batch's payload, at most."""
PADDING: Final = tuple(bytes(-size % ALIGNMENT) for size in range(ALIGNMENT))

_FIELDS: Final = HEADER_SIZE + PREFIX_SIZE
_PAYLOAD: Final = HEADER_SIZE + BATCH_HEADER_SIZE

_COVERED: Final = Struct(HEAD.format + PREFIX.format[1:] + TRAILER.format[1:])
_HEAD_END: Final = HEAD.size
_PREFIX_END: Final = HEAD.size + PREFIX_SIZE
_pack_covered = _COVERED.pack
_pack_head = HEAD.pack
_pack_chain = CHAIN.pack
_pack_trailer = TRAILER.pack


class Frame(NamedTuple):
    """A frame that passed its check. `position` is where it starts, `end` where the next one does."""

    position: int
    kind: int
    flags: int
    log_id: int
    length: int
    durable: int
    previous: int
    chain: int
    batch: bytes

    @property
    def end(self) -> int:
        return self.position + padded_size(self.length)

    @property
    def is_commit(self) -> bool:
        return bool(self.flags & COMMIT)


def padded_size(length: int) -> int:
    """Bytes that a frame with a batch of `length` bytes takes in its segment."""
    return HEADER_SIZE + length + (-length % ALIGNMENT)


def encode_batch(
    batch: SealedBatch,
    log_id: int,
    base_offset: int,
    leader_epoch: int,
    flags: int,
    durable: int,
    previous: int,
    position: int,
) -> tuple[bytes, int]:
    """A BATCH frame at `position` up to where the payload follows, and its chain."""
    magic, checksum, fields, payload, digest, _, _, _, _, _, _ = batch  # half the cost of five attributes
    length = BATCH_HEADER_SIZE + len(payload)
    covered = _pack_covered(
        MAGIC,
        BATCH,
        flags,
        0,
        log_id,
        length,
        durable,
        previous,
        base_offset,
        length - LENGTH_FIELD_END,
        leader_epoch,
        magic,
        checksum,
        digest,
        position,
    )
    chain = hash64(covered)
    return covered[:_HEAD_END] + _pack_chain(chain) + covered[_HEAD_END:_PREFIX_END] + fields, chain


def encode_end(durable: int, previous: int, position: int) -> tuple[bytes, int]:
    """The END frame at `position`, and its chain."""
    head = _pack_head(MAGIC, END, COMMIT, 0, 0, 0, durable, previous)
    chain = hash64(head + NO_PREFIX + _pack_trailer(0, position))
    return head + _pack_chain(chain), chain


def batch_of(data: bytes, position: int, log_id: int) -> memoryview | None:
    """The batch of the frame that `data` is, or None when it is not a BATCH frame of this log that was written here.

    What `decode` checks, for a reader that knows what it looks for: no copy, no object.
    """
    magic, kind, _, _, owner, length, _, _ = HEAD.unpack_from(data)
    if magic != MAGIC or kind != BATCH or owner != log_id or len(data) != HEADER_SIZE + length:
        return None
    view = memoryview(data)
    digest = batch_digest(data[_FIELDS:_PAYLOAD], view[_PAYLOAD:])
    covered = data[: HEAD.size] + data[HEADER_SIZE:_FIELDS] + _pack_trailer(digest, position)
    return view[HEADER_SIZE:] if CHAIN.pack(hash64(covered)) == data[HEAD.size : HEADER_SIZE] else None


def decode(data: bytes | memoryview | Map, at: int, position: int) -> Frame | None:
    """The frame at `data[at:]`, whose place in the journal is `position`; None unless it passes its check.

    Raises `StoreVersionError` for a frame of an unknown kind that must be understood.
    """
    if len(data) - at < HEADER_SIZE:
        return None
    magic, kind, flags, _, log_id, length, durable, previous = HEAD.unpack_from(data, at)
    if magic != MAGIC or at + HEADER_SIZE + length > len(data) or 0 < length < BATCH_HEADER_SIZE:
        return None
    body = at + HEADER_SIZE
    (chain,) = CHAIN.unpack_from(data, body - CHAIN.size)
    batch = bytes(data[body : body + length])
    if length:
        fields = batch[PREFIX_SIZE:BATCH_HEADER_SIZE]
        digest = batch_digest(fields, memoryview(batch)[BATCH_HEADER_SIZE:])
        prefix = batch[:PREFIX_SIZE]
    else:
        digest, prefix = 0, NO_PREFIX
    if hash64(bytes(data[at : at + HEAD.size]) + prefix + _pack_trailer(digest, position)) != chain:
        return None
    if kind not in KINDS and flags & MUST_UNDERSTAND:
        raise StoreVersionError(f"the frame at {position:#x} is of kind {kind}, which a newer kafkalite wrote: upgrade")
    return Frame(position, kind, flags, log_id, length, durable, previous, chain, batch)
