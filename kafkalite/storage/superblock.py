"""The superblock: what a store is, and whether its index may be trusted, decided before LMDB is touched.

Two slots of 4 KiB at the start of the file `superblock`, or of a single-file store, written in turn; the valid one
of the higher generation counts, so a torn write leaves the other. Big-endian:

    at    size  field
       0     8  magic             b"kafkalit"
       8     2  format version    1; a newer one is refused
      10     1  state             1 open, 2 sealed (closed cleanly), 3 failed (a failed flush was beyond rewriting)
      11     5  zero
      16     8  generation        raised with each write; the slot is generation mod 2
      24    16  store id          drawn at creation, stands in every segment's header
      40    16  boot id           of the machine when it was opened; zeros where the system has none
      56     8  device            of the journal's file
      64     8  PID namespace     of the processes that have it open
      72     8  journal inode     of this file: a copy has another
      80     8  index inode       of the index that belongs to it; 0 while there is none
      88     4  index schema      version of the index's tables
      92     4  era               raised by each rebuild: in a store that is no cluster's, the leader epoch
      96     8  era segment       the segment that the era began with: a journal without it is damaged
     104     8  tail              position at which the journal ends, when sealed
     112     8  tail chain        the chain there, when sealed
     120     8  index size        least size of the index's file, which never shrinks: a shorter one was cut
     128     8  index digest      XXH3 of the index's file, when sealed; 0 when it was not taken
    4088     8  checksum          XXH3 of bytes 0 to 4088

A file of length zero, with both slots all zeros, or with one and the other's first write torn, is a creation that was
not finished (creation writes both slots before it is answered); anything else without the magic is not a store.
"""

from enum import IntEnum
from struct import Struct
from typing import Final, NamedTuple

from kafkalite import disk
from kafkalite.errors import CorruptRecordError, NotAStoreError, StoreVersionError
from kafkalite.records.checksum import hash64

MAGIC: Final = b"kafkalit"
FORMAT_VERSION: Final = 1
SLOT_SIZE: Final = 4096
SIZE: Final = 2 * SLOT_SIZE
_LAYOUT: Final = Struct(">8sHB5xQ16s16sQQQQIIQQQQQ")
_CHECKSUM: Final = Struct(">Q")
_CHECKED: Final = SLOT_SIZE - _CHECKSUM.size
assert _LAYOUT.size == 136


class State(IntEnum):
    """Whether the index may be trusted."""

    OPEN = 1
    SEALED = 2
    FAILED = 3


STATES: Final = frozenset(State)


class Superblock(NamedTuple):
    """The fields of the layout in order, without magic and version."""

    state: State
    generation: int
    store_id: bytes
    boot_id: bytes
    device: int
    pid_namespace: int
    journal_inode: int
    index_inode: int
    index_schema: int
    era: int
    era_segment: int
    tail: int
    tail_chain: int
    index_size: int
    index_digest: int = 0


def encode(superblock: Superblock) -> bytes:
    """One slot."""
    slot = _LAYOUT.pack(MAGIC, FORMAT_VERSION, *superblock).ljust(_CHECKED, b"\0")
    return slot + _CHECKSUM.pack(hash64(slot))


def decode(slot: bytes, name: str = "the store") -> Superblock | None:
    """A slot's superblock; None when it fails its check; raises `StoreVersionError` for a newer format."""
    if len(slot) != SLOT_SIZE or _CHECKSUM.unpack_from(slot, _CHECKED)[0] != hash64(slot[:_CHECKED]):
        return None
    magic, version, state, *rest = _LAYOUT.unpack_from(slot)
    if magic != MAGIC:
        return None
    if version > FORMAT_VERSION:
        raise StoreVersionError(
            f"{name} has format {version}, this kafkalite knows {FORMAT_VERSION}: upgrade kafkalite"
        )
    if state not in STATES:
        return None
    return Superblock(State(state), *rest)


def write(fd: int, superblock: Superblock) -> None:
    """Write the slot in turn and return when it is on the disk."""
    with disk.translated("cannot write the superblock"):
        disk.write(fd, [encode(superblock)], (superblock.generation % 2) * SLOT_SIZE, SLOT_SIZE)
        disk.flush(fd)


def read(fd: int, name: str) -> Superblock | None:
    """The store's superblock; None for a creation that was not finished.

    Raises `NotAStoreError`, `StoreVersionError`, or `CorruptRecordError` when both slots are damaged.
    """
    data = disk.read(fd, SIZE, 0)
    slots = [data[:SLOT_SIZE], data[SLOT_SIZE:]]
    valid = [found for found in (decode(slot, name) for slot in slots) if found]
    if valid:
        return max(valid, key=lambda found: found.generation)
    if not data.strip(b"\0") or _is_first_write_torn(slots):
        return None
    if not any(slot.startswith(MAGIC) for slot in slots):
        raise NotAStoreError(f"{name} is not a store of kafkalite: choose an absent or empty path")
    raise CorruptRecordError(
        f"both superblocks of {name} are damaged: restore the file from a backup, or let `kafkalite repair` keep "
        "what is whole"
    )


def _is_first_write_torn(slots: list[bytes]) -> bool:
    """Whether only one slot was ever written, and only one of the two sectors of it that are not zeros: the fields or
    the checksum.
    """
    written = [slot for slot in slots if slot.strip(b"\0")]
    if len(written) != 1:
        return False
    fields, rest, checksum = written[0][: _LAYOUT.size], written[0][_LAYOUT.size : _CHECKED], written[0][_CHECKED:]
    is_fields = fields.startswith(MAGIC) and not checksum.strip(b"\0")
    is_checksum = written[0] is slots[0] and not fields.strip(b"\0")  # creation begins with the first slot
    return (is_fields or is_checksum) and not rest.strip(b"\0")
