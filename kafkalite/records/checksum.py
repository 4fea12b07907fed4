"""The checksums of the format.

`batch_digest` is the 64-bit digest of a record batch from its attributes on, where Kafka's own CRC starts:
base offset and leader epoch can be assigned later without touching the records again. The header's fields go
in as the seed, so the payload, which may be large and lies in a buffer of its own, is hashed once and never
copied.
"""

from typing import Final

import xxhash

from kafkalite.errors import UnsupportedError

hash64 = xxhash.xxh3_64_intdigest
MASK32: Final = 0xFFFF_FFFF


def batch_digest(fields: bytes, payload: bytes | memoryview) -> int:
    """64-bit digest of a batch: XXH3 of the payload, seeded with XXH3 of the 40 header bytes before it."""
    return hash64(payload, hash64(fields))


def crc32c(fields: bytes, payload: bytes | memoryview) -> int:
    """Kafka's CRC-32C of a magic-2 batch, attributes to end; needs the `wire` extra."""
    try:
        import crc32c as library  # noqa: PLC0415  (an extra, needed for Kafka's own batches only)
    except ImportError as error:
        raise UnsupportedError(
            "a Kafka v2 batch needs CRC-32C, which is not installed: pip install 'kafkalite[wire]'"
        ) from error
    return library.crc32c(payload, library.crc32c(fields))
