"""Partitions of keys: Kafka's own test vectors, and a cache that stays small."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kafkalite import partitioner
from kafkalite.partitioner import KeyPartitions, murmur2

VECTORS = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
    b"": 275646681,
}


@pytest.mark.parametrize(("key", "expected"), VECTORS.items())
def test_the_hash_is_kafkas(key: bytes, expected: int) -> None:
    assert murmur2(key) == expected


@settings(deadline=None)
@given(key=st.binary(max_size=70))
def test_the_hash_is_a_java_int_and_the_words_are_read_as_java_reads_them(key: bytes) -> None:
    assert murmur2(key) == plain_murmur2(key)
    assert -(2**31) <= murmur2(key) < 2**31


def plain_murmur2(key: bytes) -> int:
    """MurmurHash2 byte by byte, as its definition goes."""

    def multiply(number: int) -> int:
        return number * 0x5BD1E995 % 2**32

    state = 0x9747B28C ^ len(key)
    whole = len(key) // 4 * 4
    for at in range(0, whole, 4):
        word = multiply(key[at] + (key[at + 1] << 8) + (key[at + 2] << 16) + (key[at + 3] << 24))
        state = multiply(state) ^ multiply(word ^ word >> 24)
    rest = key[whole:]
    for shift, byte in enumerate(rest):
        state ^= byte << 8 * shift
    if rest:
        state = multiply(state)
    state = multiply(state ^ state >> 13)
    state ^= state >> 15
    return state if state < 2**31 else state - 2**32


@pytest.mark.parametrize("count", [1, 2, 3, 100_000])
def test_a_partition_is_the_positive_hash_modulo_the_count(count: int) -> None:
    partitions = KeyPartitions(count)
    for key, value in VECTORS.items():
        assert partitions[key] == (value & 0x7FFFFFFF) % count
        assert partitions[key] == (value & 0x7FFFFFFF) % count


def test_a_negative_hash_is_masked_not_negated() -> None:
    assert murmur2(b"21") < 0
    assert KeyPartitions(10)[b"21"] == (2**31 - 973932308) % 10


def test_a_known_key_is_not_hashed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    partitions = KeyPartitions(3)
    first = partitions[b"key"]
    monkeypatch.setattr(partitioner, "murmur2", None)
    assert partitions[b"key"] == first


def test_a_full_cache_is_emptied_and_answers_stay_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitioner, "MAX_CACHED_KEYS", 10)
    partitions = KeyPartitions(7)
    keys = [b"key-%d" % number for number in range(35)]
    first = [partitions[key] for key in keys]
    assert len(partitions) == 5
    assert [partitions[key] for key in keys] == first
    assert len(partitions) <= 10


def test_a_key_too_long_to_keep_is_hashed_each_time() -> None:
    partitions = KeyPartitions(7)
    longest, longer = bytes(partitioner.MAX_CACHED_KEY_SIZE), bytes(partitioner.MAX_CACHED_KEY_SIZE + 1)
    assert partitions[longest] == (murmur2(longest) & 0x7FFFFFFF) % 7
    assert partitions[longer] == (murmur2(longer) & 0x7FFFFFFF) % 7
    assert list(partitions) == [longest]


def test_looking_a_key_up_softly_adds_nothing() -> None:
    partitions = KeyPartitions(3)
    assert partitions.get(b"key") is None
    assert len(partitions) == 0


def test_a_topic_without_partitions_is_a_programmers_error() -> None:
    with pytest.raises(AssertionError):
        KeyPartitions(0)
