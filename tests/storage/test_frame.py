"""Frames: each can be checked alone; nothing that is not exactly what was written there passes."""

from pathlib import Path
from struct import pack_into

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafkalite.errors import StoreVersionError
from kafkalite.records.checksum import hash64
from kafkalite.storage import frame, segment
from kafkalite.testing import golden

from .kit import batch, hexdump

AT = segment.position_of(3, 4096)
DURABLE = segment.position_of(3, 96)
BATCH = batch(b"value", b"", keys=[b"k", None])


def encoded(position: int = AT, previous: int = 77, flags: int = frame.COMMIT, log_id: int = 16) -> bytes:
    head, _ = frame.encode_batch(BATCH, log_id, 42, 2, flags, DURABLE, previous, position)
    return head + BATCH.payload + frame.PADDING[BATCH.size % frame.ALIGNMENT]


def test_the_bytes_of_version_1() -> None:
    end, _ = frame.encode_end(DURABLE, 77, AT)
    text = f"a batch\n{hexdump(encoded())}the end of a segment\n{hexdump(end)}"
    golden.compare(Path(__file__).parent / "golden" / "frame.hex", text)


def test_what_is_written_is_read() -> None:
    data = encoded()
    found = frame.decode(data, 0, AT)
    assert found is not None
    assert found[:7] == (AT, frame.BATCH, frame.COMMIT, 16, BATCH.size, DURABLE, 77)
    assert found.batch == BATCH.prefix(42, 2) + BATCH.fields + BATCH.payload
    assert found.end == AT + len(data)
    assert found.is_commit
    assert frame.decode(b"\0" * 8 + data, 8, AT) == found
    assert bytes(frame.batch_of(data[: frame.HEADER_SIZE + found.length], AT, 16) or b"") == found.batch


def test_an_end_is_a_commit_of_nothing() -> None:
    data, chain = frame.encode_end(DURABLE, 77, AT)
    found = frame.decode(data, 0, AT)
    assert found == (AT, frame.END, frame.COMMIT, 0, 0, DURABLE, 77, chain, b"")
    assert found is not None
    assert found.end == AT + frame.HEADER_SIZE == AT + len(data)
    assert frame.batch_of(data, AT, 0) is None


@pytest.mark.parametrize("kind", ["batch", "end"])
def test_every_flipped_bit_is_detected(kind: str) -> None:
    length = frame.HEADER_SIZE + (BATCH.size if kind == "batch" else 0)
    whole = encoded() if kind == "batch" else frame.encode_end(DURABLE, 77, AT)[0]
    data = bytearray(whole)
    for at in range(length):
        for bit in range(8):
            data[at] ^= 1 << bit
            assert frame.decode(bytes(data), 0, AT) is None, (at, bit)
            assert frame.batch_of(bytes(data[:length]), AT, 16) is None, (at, bit)
            data[at] ^= 1 << bit
    assert frame.decode(bytes(data), 0, AT) is not None


def test_every_shorter_piece_is_none() -> None:
    data = encoded()
    for size in range(frame.HEADER_SIZE + BATCH.size):
        assert frame.decode(data[:size], 0, AT) is None, size


@pytest.mark.parametrize("position", [AT + 8, AT - 8, segment.position_of(4, 4096), 0])
def test_a_frame_that_lies_elsewhere_does_not_pass(position: int) -> None:
    assert frame.decode(encoded(), 0, position) is None
    assert frame.batch_of(encoded()[: frame.HEADER_SIZE + BATCH.size], position, 16) is None


def test_a_frame_of_another_log_is_not_that_batch() -> None:
    data = encoded()[: frame.HEADER_SIZE + BATCH.size]
    assert frame.batch_of(data, AT, 17) is None


def test_the_chain_depends_on_everything_before() -> None:
    first, second = frame.decode(encoded(), 0, AT), frame.decode(encoded(previous=78), 0, AT)
    assert first is not None
    assert second is not None
    assert first.chain != second.chain


@pytest.mark.parametrize("flags", [0, frame.COMMIT, frame.COMMIT | frame.MUST_UNDERSTAND])
def test_an_unknown_kind_is_refused_only_if_it_must_be_understood(flags: int) -> None:
    head = bytearray(frame.HEAD.pack(frame.MAGIC, 9, flags, 0, 0, 0, DURABLE, 77))
    chain = hash64(bytes(head) + frame.NO_PREFIX + frame.TRAILER.pack(0, AT))
    data = bytes(head) + frame.CHAIN.pack(chain)
    if flags & frame.MUST_UNDERSTAND:
        with pytest.raises(StoreVersionError, match="kind 9"):
            frame.decode(data, 0, AT)
    else:
        found = frame.decode(data, 0, AT)
        assert found is not None
        assert found.kind == 9


@pytest.mark.parametrize("length", [1, 60, 2**31, 2**32 - 1])
def test_a_length_that_cannot_be_is_none_without_reading_it(length: int) -> None:
    data = bytearray(encoded())
    pack_into(">I", data, 12, length)
    assert frame.decode(bytes(data), 0, AT) is None


@given(st.binary(max_size=200), st.integers(0, 2**63))
def test_other_bytes_never_pass(data: bytes, position: int) -> None:
    assert frame.decode(frame.MAGIC + data, 0, position) is None


@given(st.integers(0, 1 << 20))
def test_frames_are_aligned(length: int) -> None:
    size = frame.padded_size(length)
    assert size % frame.ALIGNMENT == 0
    assert 0 <= size - frame.HEADER_SIZE - length < frame.ALIGNMENT
