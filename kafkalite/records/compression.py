"""Compression of payloads: Kafka's codec numbers, and zstandard, the one that in-process producers use.

A frame is written with its content size and refused without: what it may grow to is known before a byte is
decompressed, and never more than `MAX_PAYLOAD_BYTES`, nor more than the format can make of its bytes.
"""

import functools
import threading
from typing import Final

from kafkalite.config import GIB, KIB
from kafkalite.errors import CorruptRecordError, UnsupportedError

NONE: Final = 0
GZIP: Final = 1
SNAPPY: Final = 2
LZ4: Final = 3
ZSTD: Final = 4

CODEC_NAMES: Final = {NONE: "none", GZIP: "gzip", SNAPPY: "snappy", LZ4: "lz4", ZSTD: "zstd"}
CODECS: Final = {name: codec for codec, name in CODEC_NAMES.items()}

MAX_PAYLOAD_BYTES: Final = GIB
MAX_EXPANSION: Final = 128 * KIB // 4
"""A zstd block gives at most 128 KiB and takes at least 4 bytes: a claim beyond this ratio is a lie."""
LEVEL: Final = 3


class _Contexts(threading.local):
    """Zstandard's contexts serve one thread at a time."""

    def __init__(self) -> None:
        import zstandard  # noqa: PLC0415  (not everybody compresses, and it takes a tenth of the import)

        self.compressor = zstandard.ZstdCompressor(level=LEVEL, write_content_size=True)
        self.decompressor = zstandard.ZstdDecompressor()


@functools.cache
def _contexts() -> _Contexts:
    return _Contexts()


def compress(codec: int, payload: bytes) -> bytes:
    """The payload under a codec that in-process producers write: none or zstd."""
    if codec == NONE:
        return payload
    if codec == ZSTD:
        return _contexts().compressor.compress(payload)
    raise UnsupportedError(f"kafkalite does not write {CODEC_NAMES.get(codec, codec)}: use none or zstd")


def decompress(codec: int, payload: bytes | memoryview) -> bytes | memoryview:
    """The inverse; raises `CorruptRecordError` for what is no frame, or would grow beyond the limit."""
    if codec == NONE:
        return payload
    if codec != ZSTD:
        raise UnsupportedError(
            f"a batch is compressed with {CODEC_NAMES.get(codec, f'codec {codec}')}:"
            " in-process reading knows none and zstd"
        )
    import zstandard  # noqa: PLC0415  (as above)

    try:
        size = zstandard.frame_content_size(payload)
        limit = min(MAX_PAYLOAD_BYTES, len(payload) * MAX_EXPANSION)
        if not 0 <= size <= limit:
            claim = "does not say its size" if size < 0 else f"claims {size} bytes of content"
            raise CorruptRecordError(f"a zstd payload of {len(payload)} bytes {claim}: at most {limit} are read")
        return _contexts().decompressor.decompress(payload, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CorruptRecordError(f"a zstd payload of {len(payload)} bytes cannot be decompressed: {error}") from error
