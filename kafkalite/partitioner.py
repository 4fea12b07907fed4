"""Which partition a key belongs to: as Kafka's Java client chooses, so that both put a key in the same place.

    partition = (murmur2(key) & 0x7fffffff) % partition count

MurmurHash2, 32 bits, little-endian, with Kafka's seed. In pure Python it takes a microsecond or more a key,
so `KeyPartitions` remembers what it gave. A full cache is emptied, not thinned out: common keys are back
at once, and a hit costs no bookkeeping. A null key has no place of its own: the producer chooses.
"""

from struct import unpack_from
from typing import Final

SEED: Final = 0x9747B28C
MULTIPLIER: Final = 0x5BD1E995
MASK32: Final = 0xFFFF_FFFF
POSITIVE: Final = 0x7FFF_FFFF
MAX_CACHED_KEYS: Final = 100_000
MAX_CACHED_KEY_SIZE: Final = 128


def murmur2(key: bytes) -> int:
    """Kafka's 32-bit hash of a key, signed as Java's `int` is."""
    size = len(key)
    state = SEED ^ size
    for word in unpack_from(f"<{size >> 2}I", key):
        word = word * MULTIPLIER & MASK32  # noqa: PLW2901  (the hash's own way of writing it)
        state = (state * MULTIPLIER & MASK32) ^ ((word ^ word >> 24) * MULTIPLIER & MASK32)
    if size & 3:
        state = (state ^ int.from_bytes(key[size & ~3 :], "little")) * MULTIPLIER & MASK32
    state = (state ^ state >> 13) * MULTIPLIER & MASK32
    state ^= state >> 15
    return state - (state >> 31 << 32)


class KeyPartitions(dict[bytes, int]):
    """Key to partition, of a topic with this many partitions: `partitions[key]`.

    Holds at most `MAX_CACHED_KEYS` keys of at most `MAX_CACHED_KEY_SIZE` bytes; threads may share it.
    """

    def __init__(self, partition_count: int) -> None:
        assert partition_count > 0
        super().__init__()
        self.partition_count = partition_count

    def __missing__(self, key: bytes) -> int:
        partition = (murmur2(key) & POSITIVE) % self.partition_count
        if len(key) <= MAX_CACHED_KEY_SIZE:
            if len(self) >= MAX_CACHED_KEYS:
                self.clear()
            self[key] = partition
        return partition
