"""Which partition librdkafka puts a key in: its partitioners by name, and the three hashes they are made of.

The default is `consistent_random`, CRC32 of the key: another than the Java client's (and kafkalite's own) murmur2. To
have Python and Java put keys in the same place, set `partitioner=murmur2_random`, as with librdkafka.
"""

import random
import zlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from kafkalite.partitioner import POSITIVE
from kafkalite.partitioner import murmur2 as _murmur2

FNV_OFFSET: Final = 0x811C9DC5
FNV_PRIME: Final = 0x01000193
MASK32: Final = 0xFFFF_FFFF

Partitioner = Callable[[bytes | None, int], int | None]
"""Key and partition count to partition; None leaves the choice to the producer, which fills one batch at a time."""


def _checked(key: bytes, partition_count: int) -> bytes:
    if not isinstance(key, bytes | bytearray | memoryview):
        raise TypeError(f"a bytes-like object is required, not {type(key).__name__!r}")
    if partition_count <= 0:
        raise ValueError(f"partition_count must be > 0, got {partition_count}")
    return bytes(key)


def murmur2(key: bytes, partition_count: int) -> int:
    """The partition of a key by murmur2, as the Java client chooses."""
    return (_murmur2(_checked(key, partition_count)) & POSITIVE) % partition_count


def consistent(key: bytes, partition_count: int) -> int:
    """The partition of a key by CRC32, librdkafka's default."""
    return zlib.crc32(_checked(key, partition_count)) % partition_count


def fnv1a(key: bytes, partition_count: int) -> int:
    """The partition of a key by FNV-1a, as Sarama (Go) chooses."""
    state = FNV_OFFSET
    for byte in _checked(key, partition_count):
        state = (state ^ byte) * FNV_PRIME & MASK32
    signed = state - (state >> 31 << 32)
    return abs(signed) % partition_count


def _hashed(choose: Callable[[bytes, int], int]) -> Partitioner:
    return lambda key, count: choose(key or b"", count)


def _hashed_unless_null(choose: Callable[[bytes, int], int]) -> Partitioner:
    return lambda key, count: None if key is None else choose(key, count)


def _random(key: bytes | None, count: int) -> int | None:
    """Any partition; without a key the producer's own choice, which makes fuller batches."""
    return None if key is None else random.randrange(count)  # noqa: S311  (spreads records, hides nothing)


def _consistent_random(key: bytes | None, count: int) -> int | None:
    return consistent(key, count) if key else _random(key, count)


PARTITIONERS: Final[Mapping[str, Partitioner]] = MappingProxyType(
    {
        "random": _random,
        "consistent": _hashed(consistent),
        "consistent_random": _consistent_random,
        "murmur2": _hashed(murmur2),
        "murmur2_random": _hashed_unless_null(murmur2),
        "fnv1a": _hashed(fnv1a),
        "fnv1a_random": _hashed_unless_null(fnv1a),
    }
)
