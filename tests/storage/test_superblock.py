"""The superblock: what a torn write, a flipped bit and a newer version look like to who opens the store."""

import os
from collections.abc import Iterator
from pathlib import Path
from struct import pack_into

import pytest

from kafkalite import disk
from kafkalite.errors import CorruptRecordError, NotAStoreError, StoreVersionError
from kafkalite.records.checksum import hash64
from kafkalite.storage import superblock
from kafkalite.storage.superblock import SIZE, SLOT_SIZE, State, Superblock
from kafkalite.testing import golden

from .kit import hexdump

EXAMPLE = Superblock(
    State.SEALED,
    7,
    bytes(range(16)),
    bytes(range(16, 32)),
    0x801,
    0xF0000001,
    1234,
    1235,
    1,
    2,
    3,
    3 << 32 | 4096,
    99,
    65536,
)


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    found = disk.open_file(tmp_path / "superblock", write=True, create=True)
    yield found
    disk.close(found)


def test_the_bytes_of_version_1() -> None:
    golden.compare(Path(__file__).parent / "golden" / "superblock.hex", hexdump(superblock.encode(EXAMPLE)))


@pytest.mark.parametrize("state", State)
def test_what_is_written_is_read(fd: int, state: State) -> None:
    superblock.write(fd, EXAMPLE._replace(state=state))
    assert superblock.read(fd, "it") == EXAMPLE._replace(state=state)


def test_extreme_numbers_fit() -> None:
    most, half, id_ = 2**64 - 1, 2**32 - 1, b"\xff" * 16
    greatest = Superblock(State.OPEN, most, id_, id_, most, most, most, most, half, half, most, most, most, most)
    assert superblock.decode(superblock.encode(greatest)) == greatest


def test_every_flipped_bit_of_a_slot_is_detected() -> None:
    slot = bytearray(superblock.encode(EXAMPLE))
    for at in range(len(slot)):
        for bit in range(8):
            slot[at] ^= 1 << bit
            assert superblock.decode(bytes(slot)) is None, (at, bit)
            slot[at] ^= 1 << bit
    assert superblock.decode(bytes(slot)) == EXAMPLE


def test_every_torn_write_leaves_the_generation_before(fd: int) -> None:
    old, new = EXAMPLE, EXAMPLE._replace(generation=8, tail=0)
    superblock.write(fd, old)
    superblock.write(fd, old._replace(generation=6))
    before, slot = disk.read(fd, SLOT_SIZE, 0), superblock.encode(new)
    for cut in range(0, SLOT_SIZE, 8):
        os.pwrite(fd, slot[:cut] + before[cut:], 0)
        found = superblock.read(fd, "it")
        assert found in (old, new), cut
        os.pwrite(fd, before, 0)


def test_slots_are_written_in_turn_and_the_later_one_counts(fd: int) -> None:
    for generation in range(1, 6):
        superblock.write(fd, EXAMPLE._replace(generation=generation))
        found = superblock.read(fd, "it")
        assert found is not None
        assert found.generation == generation
    assert disk.file_size(fd) == SIZE


@pytest.mark.parametrize("size", [0, 1, SLOT_SIZE, SIZE, 3 * SIZE])
def test_nothing_but_zeros_is_an_unfinished_creation(fd: int, size: int) -> None:
    os.pwrite(fd, bytes(size), 0)
    assert superblock.read(fd, "it") is None


@pytest.mark.parametrize("data", [b"x", b"kafka", b"\x7fELF" * 5000, bytes(8192)[:-1] + b"x"])
def test_other_bytes_are_not_a_store(fd: int, data: bytes) -> None:
    os.pwrite(fd, data, 0)
    with pytest.raises(NotAStoreError, match="the name"):
        superblock.read(fd, "the name")


def test_two_damaged_slots_are_corruption_and_not_an_empty_store(fd: int) -> None:
    for generation in (1, 2):
        superblock.write(fd, EXAMPLE._replace(generation=generation))
    for at in (100, SLOT_SIZE + 100):
        os.pwrite(fd, b"\xff", at)
    with pytest.raises(CorruptRecordError, match="both superblocks"):
        superblock.read(fd, "it")


def test_one_damaged_slot_does_not_matter(fd: int) -> None:
    for generation in (1, 2):
        superblock.write(fd, EXAMPLE._replace(generation=generation))
    os.pwrite(fd, bytes(SLOT_SIZE), 0)
    assert superblock.read(fd, "it") == EXAMPLE._replace(generation=1)


def test_a_newer_format_is_refused_even_beside_an_old_slot(fd: int) -> None:
    superblock.write(fd, EXAMPLE)
    slot = bytearray(superblock.encode(EXAMPLE._replace(generation=8)))
    pack_into(">H", slot, 8, superblock.FORMAT_VERSION + 1)
    pack_into(">Q", slot, SLOT_SIZE - 8, hash64(bytes(slot[:-8])))
    os.pwrite(fd, bytes(slot), 0)
    with pytest.raises(StoreVersionError, match="upgrade"):
        superblock.read(fd, "it")
