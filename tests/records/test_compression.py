"""Codecs: what is written and read, and frames that lie about their size."""

import threading
import tracemalloc

import pytest
import zstandard

from kafkalite.errors import CorruptRecordError, UnsupportedError
from kafkalite.records import compression
from kafkalite.records.compression import GZIP, LZ4, NONE, SNAPPY, ZSTD, compress, decompress

MIB = 1024 * 1024
MAGIC = bytes.fromhex("28b52ffd")
RUN_OF_ONE = b"\x0b\x00\x00a"  # the last block: one byte, once


def claiming(size: int) -> bytes:
    """A frame of 17 bytes that says it holds `size`."""
    return MAGIC + b"\xe0" + size.to_bytes(8, "little") + RUN_OF_ONE


def refused(payload: bytes) -> str:
    """The error's message; what was allocated on the way is little."""
    tracemalloc.start()
    try:
        with pytest.raises(CorruptRecordError) as caught:
            decompress(ZSTD, payload)
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    finally:
        tracemalloc.stop()
    return str(caught.value)


@pytest.mark.parametrize("codec", [NONE, ZSTD])
@pytest.mark.parametrize("size", [0, 1, 100, 128 * 1024, 3 * MIB])
def test_what_is_compressed_is_decompressed(codec: int, size: int) -> None:
    payload = bytes(size)
    packed = compress(codec, payload)
    assert bytes(decompress(codec, packed)) == payload
    assert bytes(decompress(codec, memoryview(packed))) == payload


def test_a_hand_made_frame_is_read_when_it_tells_the_truth() -> None:
    assert decompress(ZSTD, claiming(1)) == b"a"


@pytest.mark.parametrize("level", [1, 19, 22])
def test_the_densest_honest_frames_are_within_the_ratio(level: int) -> None:
    packed = zstandard.ZstdCompressor(level=level).compress(bytes(64 * MIB))
    assert len(decompress(ZSTD, packed)) == 64 * MIB


@pytest.mark.parametrize("size", [2, 4 * MIB, compression.MAX_PAYLOAD_BYTES, 2**40, 2**64 - 3])
def test_a_frame_that_claims_more_than_it_holds_is_refused_without_the_memory(size: int) -> None:
    refused(claiming(size))


def test_a_frame_without_content_size_is_refused() -> None:
    packed = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(64 * MIB))
    assert "does not say its size" in refused(packed)


def test_an_honest_frame_beyond_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "MAX_PAYLOAD_BYTES", MIB)
    assert f"at most {MIB}" in refused(compress(ZSTD, bytes(8 * MIB)))


@pytest.mark.parametrize("payload", [b"", b"(", MAGIC, MAGIC + b"\xe0", b"no frame at all"])
def test_what_is_no_frame_is_refused(payload: bytes) -> None:
    refused(payload)


def test_bytes_behind_the_frame_are_refused_not_dropped() -> None:
    refused(compress(ZSTD, b"value") + b"more")
    refused(compress(ZSTD, b"value") + compress(ZSTD, b"more"))


@pytest.mark.parametrize("codec", [GZIP, SNAPPY, LZ4, 5, 7])
def test_codecs_that_are_not_built_in_are_named(codec: int) -> None:
    name = compression.CODEC_NAMES.get(codec, str(codec))
    with pytest.raises(UnsupportedError, match=name):
        compress(codec, b"value")
    with pytest.raises(UnsupportedError, match=name):
        decompress(codec, b"value")


def test_names_and_numbers_are_kafkas() -> None:
    assert compression.CODECS == {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}


def test_threads_compress_side_by_side() -> None:
    payload = bytes(range(256)) * 2000
    wrong: list[int] = []

    def work(number: int) -> None:
        if any(decompress(ZSTD, compress(ZSTD, payload)) != payload for _ in range(20)):
            wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
