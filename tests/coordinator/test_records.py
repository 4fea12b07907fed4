"""The records of the internal logs, byte for byte as Apache Kafka 4.3 writes them.

`golden_records/kafka-4.3.0.txt` was printed by Kafka's own classes (`Golden.java` beside it): name, version, key and
value of each record in `CASES`.
"""

import random
import struct
import tracemalloc
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafkalite.coordinator import group_records as groups
from kafkalite.coordinator.group_records import (
    ClassicMember,
    ClassicMemberMetadata,
    ClassicProtocol,
    ConsumerGroupCurrentMemberAssignment,
    ConsumerGroupMemberMetadata,
    ConsumerGroupMetadata,
    ConsumerGroupTargetAssignmentMember,
    GroupMetadata,
    PartitionRacks,
    TopicMetadata,
    TopicName,
    TopicPartitions,
)
from kafkalite.coordinator.records import (
    KINDS,
    MAX_GROUP_ID_SIZE,
    MAX_KEY_SIZE,
    MAX_MEMBER_ID_SIZE,
    RECORDS,
    OffsetCommit,
    OffsetCommits,
    ShareSnapshot,
    ShareUpdate,
    StateBatch,
    TransactionLog,
    Unknown,
    check_group_id,
    decode,
    group_prefix,
)
from kafkalite.coordinator.schema import (
    CONSUMER_OFFSETS,
    MAX_STRING_SIZE,
    SHARE_GROUP_STATE,
    TRANSACTION_STATE,
    Record,
    encode_value,
)
from kafkalite.errors import ConfigError, CorruptRecordError, InvalidGroupIdError

GOLDEN = Path(__file__).parent / "golden_records" / "kafka-4.3.0.txt"
ONE = bytes(range(1, 17))
TWO = b"\xff" * 8 + struct.pack(">q", 2)
NOON = 1_357_041_600_000
GROUP = "größe"
MEMBER = "member-1"
INDEX_KEY_LIMIT = 511

OFFSET = OffsetCommit(GROUP, "orders", 3, 42, NOON)
CLASSIC = GroupMetadata(
    GROUP,
    "consumer",
    5,
    "range",
    MEMBER,
    members=(ClassicMember(MEMBER, None, "c", "/127.0.0.1", -1, 45_000, b"\x01\x02\x03", b""),),
)
JOINED = ConsumerGroupMemberMetadata(
    GROUP, MEMBER, "i", "r", "c", "/127.0.0.1", ("orders", "pages"), "a|b", 300_000, "uniform"
)
CURRENT = ConsumerGroupCurrentMemberAssignment(GROUP, MEMBER, 9, 8, 1, {ONE: (0, 1)}, {TWO: (4,)})
ONGOING = TransactionLog("payments-1", 7, 2, 60_000, 1, {"orders": (0, 3), "pages": (1,)}, NOON, -1)

CASES: dict[str, Record] = {
    "offset_bare": OFFSET,
    "offset_full": replace(OFFSET, offset=2**63 - 1, leader_epoch=7, metadata="é" * 100, topic_id=ONE),
    "offset_topic_id": replace(OFFSET, topic_id=ONE, leader_epoch=0),
    "offset_metadata": replace(OFFSET, metadata="m"),
    "offset_expires": replace(OFFSET, expire_timestamp_ms=NOON + 1),
    "offset_legacy": OFFSET,
    "classic_empty": GroupMetadata(GROUP, "", 0),
    "classic_full": CLASSIC,
    "classic_newest": replace(
        CLASSIC,
        current_state_timestamp_ms=NOON,
        members=(CLASSIC.members[0]._replace(group_instance_id="i", rebalance_timeout_ms=300_000),),
    ),
    "group": ConsumerGroupMetadata(GROUP, 9),
    "group_hash": ConsumerGroupMetadata(GROUP, 9, -3),
    "group_later": ConsumerGroupMetadata(GROUP, 9, -3),
    "group_topics": groups.ConsumerGroupPartitionMetadata(
        GROUP,
        (TopicMetadata(ONE, "orders", 2, (PartitionRacks(1, ("a", "b")),)), TopicMetadata(TWO, "pages", 1)),
    ),
    "regex": groups.ConsumerGroupRegularExpression(GROUP, "order.*", ("orders", "orders-2"), 11, NOON),
    "member_bare": ConsumerGroupMemberMetadata(GROUP, MEMBER),
    "member_full": JOINED,
    "member_classic": replace(
        JOINED,
        classic_member_metadata=ClassicMemberMetadata(45_000, (ClassicProtocol("range", b"\x09\x08"),)),
    ),
    "target": groups.ConsumerGroupTargetAssignmentMetadata(GROUP, 9),
    "target_time": groups.ConsumerGroupTargetAssignmentMetadata(GROUP, 9, NOON),
    "target_member": ConsumerGroupTargetAssignmentMember(GROUP, MEMBER, {ONE: (0, 2, 2**31 - 1), TWO: ()}),
    "current_bare": ConsumerGroupCurrentMemberAssignment(GROUP, MEMBER, 0, 0, 0, {}, {}),
    "current_full": CURRENT,
    "current_epochs": CURRENT,
    "share_member": groups.ShareGroupMemberMetadata(GROUP, MEMBER, None, "c", "h", ("orders",)),
    "share_group": groups.ShareGroupMetadata(GROUP, 3, 5),
    "share_target": groups.ShareGroupTargetAssignmentMetadata(GROUP, 3, NOON),
    "share_target_member": groups.ShareGroupTargetAssignmentMember(GROUP, MEMBER, {ONE: (1,)}),
    "share_current": groups.ShareGroupCurrentMemberAssignment(GROUP, MEMBER, 3, 2, 0, {ONE: (1,)}),
    "share_state_partitions": groups.ShareGroupStatePartitionMetadata(
        GROUP, (TopicPartitions(ONE, "orders", (0, 1)),), (), (TopicName(TWO, "pages"),)
    ),
    "share_snapshot_bare": ShareSnapshot(GROUP, ONE, 1, 0, 0, 0, 0, 0, 0),
    "share_snapshot": ShareSnapshot(
        *(GROUP, ONE, 1, 1, 2, 3, 2**40, NOON, NOON + 1),
        state_batches=(StateBatch(10, 19, 0, 2), StateBatch(20, 20, 4, 5)),
        delivery_complete_count=6,
    ),
    "share_update": ShareUpdate(GROUP, ONE, 1, 1, 3, state_batches=(StateBatch(10, 19, 2, 1),)),
    "transaction_empty": replace(ONGOING, status=0, partitions=None),
    "transaction_ongoing": ONGOING,
    "transaction_full": replace(
        ONGOING,
        previous_producer_id=5,
        next_producer_id=9,
        next_producer_epoch=0,
        client_transaction_version=2,
    ),
}

SAYS_MORE = {"group_later", "current_epochs"}
"""Kafka's bytes have tagged fields there that are passed over."""
OLD_KEY = {"offset_legacy"}
KINDS_OF_OFFSETS = {b"\0\0", b"\0\1"}


def golden() -> Iterator[tuple[str, int, bytes, bytes]]:
    for line in GOLDEN.read_text().splitlines():
        name, version, key, value = line.split()
        yield name, int(version), bytes.fromhex(key), bytes.fromhex(value)


every_golden = pytest.mark.parametrize(
    ("name", "version", "key", "value"),
    [pytest.param(*case, id=f"{case[0]}-{case[1]}") for case in golden()],
)
every_stored = pytest.mark.parametrize(
    ("name", "key", "value"),
    [pytest.param(name, key, value, id=f"{name}-{version}") for name, version, key, value in golden()],
)
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


# As Kafka writes them


def test_every_case_was_written_by_kafka_and_every_kind_is_a_case() -> None:
    assert {name for name, *_ in golden()} == set(CASES)
    assert {type(record) for record in CASES.values()} == set(KINDS)


@every_golden
def test_kafkas_bytes_are_read(name: str, version: int, key: bytes, value: bytes) -> None:
    assert decode(CASES[name].SCHEMA.log_id, key, value) == CASES[name]
    assert version <= CASES[name].SCHEMA.version


@every_golden
def test_the_same_records_give_kafkas_bytes(name: str, version: int, key: bytes, value: bytes) -> None:
    record = CASES[name]
    if name not in OLD_KEY:
        assert record.key().hex() == key.hex()
    if name not in SAYS_MORE:
        assert encode_value(record, version).hex() == value.hex()


def test_a_value_is_written_in_the_newest_version() -> None:
    newest = {name: value for name, version, _, value in golden() if version == CASES[name].SCHEMA.version}
    for name in newest.keys() - SAYS_MORE:
        assert CASES[name].value().hex() == newest[name].hex(), name


def test_an_offset_that_expires_is_written_in_the_one_version_that_can_say_so() -> None:
    record = replace(OFFSET, expire_timestamp_ms=NOON + 1, leader_epoch=3, topic_id=ONE, metadata="m")
    assert record.value()[:2] == b"\x00\x01"
    assert decode(CONSUMER_OFFSETS, record.key(), record.value()) == replace(
        record, leader_epoch=-1, topic_id=bytes(16)
    )


@every_kind
def test_a_schema_names_what_the_record_has(kind: type[Record]) -> None:
    named = [field.name for field in (*kind.SCHEMA.key, *kind.SCHEMA.value)]
    assert sorted(named) == sorted(field.name for field in fields(kind))  # type: ignore[arg-type]


@every_kind
def test_a_tagged_field_has_a_number_of_its_own_and_the_default_that_python_gives_it(kind: type[Record]) -> None:
    tagged = [field for field in kind.SCHEMA.value if field.tag is not None]
    assert len({field.tag for field in tagged}) == len(tagged)
    defaults = {field.name: field.default for field in fields(kind)}  # type: ignore[arg-type]
    assert {field.name: field.default for field in tagged} == {field.name: defaults[field.name] for field in tagged}


def test_no_two_kinds_share_a_number() -> None:
    assert len(RECORDS) == len(KINDS) + 1
    assert {log_id for log_id, _ in RECORDS} == {CONSUMER_OFFSETS, TRANSACTION_STATE, SHARE_GROUP_STATE} == {1, 2, 3}


# There and back


def number(bits: int) -> st.SearchStrategy[int]:
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


TEXT = st.text(max_size=200)
MAYBE = st.none() | TEXT
NAMES = st.lists(TEXT, max_size=4).map(tuple)
ID = st.binary(min_size=16, max_size=16)
NUMBERS = st.lists(number(32), max_size=4).map(tuple)
CONTENT = st.binary(max_size=200)
ASSIGNMENT = st.dictionaries(ID, NUMBERS, max_size=3)


def tuples(*parts: Any) -> Any:
    """Tuples of named tuples: the class, then its fields."""
    return st.lists(st.builds(*parts), max_size=3).map(tuple)


INTEGERS: dict[int, tuple[str, ...]] = {
    8: ("state", "status"),
    16: ("producer_epoch", "next_producer_epoch", "client_transaction_version"),
    32: (
        *("partition", "generation", "epoch", "leader_epoch", "snapshot_epoch", "state_epoch", "assignment_epoch"),
        *("member_epoch", "previous_member_epoch", "rebalance_timeout_ms", "transaction_timeout_ms"),
        "delivery_complete_count",
    ),
    64: (
        *("offset", "start_offset", "metadata_hash", "version", "producer_id", "previous_producer_id"),
        *("next_producer_id", "timestamp_ms", "commit_timestamp_ms", "current_state_timestamp_ms"),
        *("assignment_timestamp_ms", "create_timestamp_ms", "write_timestamp_ms", "last_update_timestamp_ms"),
        "start_timestamp_ms",
    ),
}
TOPIC_PARTITIONS = tuples(TopicPartitions, ID, TEXT, NUMBERS)
BY_NAME: dict[str, st.SearchStrategy[Any]] = {
    **{name: number(bits) for bits, names in INTEGERS.items() for name in names},
    **dict.fromkeys(("group_id", "member_id", "transactional_id", "regular_expression", "topic", "metadata"), TEXT),
    **dict.fromkeys(("protocol_type", "client_id", "client_host"), TEXT),
    **dict.fromkeys(("protocol", "leader", "instance_id", "rack_id", "server_assignor"), MAYBE),
    **dict.fromkeys(("assigned_partitions", "partitions_pending_revocation", "topic_partitions"), ASSIGNMENT),
    **dict.fromkeys(("initializing_topics", "initialized_topics"), TOPIC_PARTITIONS),
    "subscribed_topic_regex": MAYBE,
    "subscribed_topic_names": NAMES,
    "topic_id": ID,
    "expire_timestamp_ms": st.just(-1),
    "members": tuples(ClassicMember, TEXT, MAYBE, TEXT, TEXT, number(32), number(32), CONTENT, CONTENT),
    "classic_member_metadata": st.none()
    | st.builds(ClassicMemberMetadata, number(32), tuples(ClassicProtocol, TEXT, CONTENT)),
    "deleting_topics": tuples(TopicName, ID, TEXT),
    "state_batches": tuples(StateBatch, number(64), number(64), number(8), number(16)),
    "partitions": st.none() | st.dictionaries(TEXT, NUMBERS, max_size=3),
    "topics": tuples(TopicMetadata, ID, TEXT, number(32), tuples(PartitionRacks, number(32), NAMES)),
}
OVERRIDES: dict[type[Record], dict[str, st.SearchStrategy[Any]]] = {
    OffsetCommit: {"partition": number(32)},
    groups.ConsumerGroupRegularExpression: {"topics": NAMES},
}


def records_of(kind: type[Record]) -> st.SearchStrategy[Record]:
    known = BY_NAME | OVERRIDES.get(kind, {})
    return st.builds(kind, **{field.name: known[field.name] for field in fields(kind)})  # type: ignore[arg-type]


@given(st.sampled_from(KINDS).flatmap(records_of))
def test_what_was_written_is_read(record: Record) -> None:
    assert decode(record.SCHEMA.log_id, record.key(), record.value()) == record


@given(records_of(OffsetCommit))
def test_the_fast_encoder_of_commits_writes_what_the_schema_says(record: OffsetCommit) -> None:
    encoder = OffsetCommits(record.group_id)
    for _ in range(2):
        assert encoder.key(record.topic, record.partition) == record.key()
    assert record.value() == encoder.value(
        record.offset, record.commit_timestamp_ms, record.metadata, record.leader_epoch, record.topic_id
    )


def test_the_fast_encoder_of_commits_writes_an_offset_of_a_topic_without_an_id() -> None:
    encoder = OffsetCommits(GROUP)
    assert encoder.value(42, NOON) == OFFSET.value()
    assert encoder.value(42, NOON, "m") == CASES["offset_metadata"].value()


def test_the_keys_that_an_encoder_keeps_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OffsetCommits, "MAX_KEPT", 2)
    encoder = OffsetCommits(GROUP)
    for partition in [0, 1, 2, 3, 0, 3]:
        assert encoder.key("orders", partition) == replace(OFFSET, partition=partition).key()
        assert len(encoder._keys) <= 2


# What is not known


@pytest.mark.parametrize("log_id", [CONSUMER_OFFSETS, TRANSACTION_STATE, SHARE_GROUP_STATE])
@pytest.mark.parametrize("kind", [-1, 9, 17, 23, 32_767])
def test_a_kind_that_is_not_known_is_kept_as_it_is(log_id: int, kind: int) -> None:
    key, value = struct.pack(">h", kind) + b"whatever", b""
    assert decode(log_id, key, value) == Unknown(log_id, key, value)


@every_kind
@pytest.mark.parametrize("version", [-1, 5, 32_767])
def test_a_version_that_is_not_known_is_kept_as_it_is(kind: type[Record], version: int) -> None:
    record = next(record for record in CASES.values() if type(record) is kind)
    value = struct.pack(">h", version) + b"whatever"
    assert decode(kind.SCHEMA.log_id, record.key(), value) == Unknown(kind.SCHEMA.log_id, record.key(), value)


def test_tagged_fields_of_a_later_kafka_are_passed_over() -> None:
    by_name = {name: (key, value) for name, _, key, value in golden()}
    assert by_name["group_later"][1] != by_name["group_hash"][1]
    assert decode(CONSUMER_OFFSETS, *by_name["group_later"]) == decode(CONSUMER_OFFSETS, *by_name["group_hash"])


def test_the_first_version_of_a_transaction_has_no_tagged_fields() -> None:
    written = encode_value(CASES["transaction_full"], 0)
    assert decode(TRANSACTION_STATE, ONGOING.key(), written) == ONGOING


# What is damaged


def answers(log_id: int, key: bytes, value: bytes) -> Record | Unknown | None:
    """What `decode` makes of it, None for a `CorruptRecordError`; any other error is the test's failure."""
    try:
        return decode(log_id, key, value)
    except CorruptRecordError:
        return None


@every_stored
def test_a_record_that_is_cut_short_or_has_more_behind_it_is_corrupt(name: str, key: bytes, value: bytes) -> None:
    log_id = CASES[name].SCHEMA.log_id
    assert [cut for cut in range(len(key)) if answers(log_id, key[:cut], value) is not None] == []
    assert [cut for cut in range(len(value)) if answers(log_id, key, value[:cut]) is not None] == []
    assert answers(log_id, key + b"\0", value) is None
    assert answers(log_id, key, value + b"\0") is None


@every_stored
def test_a_flipped_bit_gives_another_record_or_is_corrupt(name: str, key: bytes, value: bytes) -> None:
    log_id = CASES[name].SCHEMA.log_id
    for bit in range(8 * len(value)):
        answers(log_id, key, flipped(value, bit))
    for bit in range(8 * len(key)):
        is_same = answers(log_id, flipped(key, bit), value) == CASES[name]
        assert not is_same or flipped(key, bit)[:2] in KINDS_OF_OFFSETS


def flipped(raw: bytes, bit: int) -> bytes:
    bad = bytearray(raw)
    bad[bit // 8] ^= 1 << bit % 8
    return bytes(bad)


def test_whatever_the_bytes_are_nothing_but_corruption_is_reported() -> None:
    rng = random.Random(5)
    refused = 0
    for name, version, key, _ in golden():
        for size in [0, 1, 3, 10, 40, 200]:
            value = struct.pack(">h", version) + rng.randbytes(size)
            refused += answers(CASES[name].SCHEMA.log_id, key, value) is None
            answers(CASES[name].SCHEMA.log_id, key[:2] + rng.randbytes(size), value)
    assert refused > 200


@given(
    st.sampled_from(sorted(RECORDS)), st.binary(max_size=60), st.integers(0, 4), st.binary(max_size=100), st.booleans()
)
def test_random_bytes_are_a_record_unknown_or_corrupt(
    which: tuple[int, int], key: bytes, version: int, value: bytes, is_cut: bool
) -> None:
    log_id, kind = which
    bad = b"" if is_cut else struct.pack(">h", version)
    found = answers(log_id, struct.pack(">h", kind) + key, bad + value)
    if isinstance(found, Record) and kind > 0:
        assert found.key() == struct.pack(">h", kind) + key


COUNTS = {
    "members of a classic group, fixed": (CLASSIC, "0000 0000 00000005 0000 0000 7fffffff"),
    "negative members": (CLASSIC, "0000 0000 00000005 0000 0000 fffffffe"),
    "null for members": (CLASSIC, "0000 0000 00000005 0000 0000 ffffffff"),
    "topics, flexible": (CURRENT, "0000 00000009 00000008 01 ffffffff0f 00"),
    "null for topics": (CURRENT, "0000 00000009 00000008 01 00 01 00"),
    "a varint without end": (CURRENT, "0000 00000009 00000008 01 ffffffffffff 00"),
    "partitions": (CURRENT, "0000 00000009 00000008 01 02" + ONE.hex() + "ffffffff0f"),
    "more partitions than a quarter of the bytes": (CURRENT, "0000 00000009 00000008 01 02" + ONE.hex() + "05 000000"),
    "tagged fields": (ConsumerGroupMetadata(GROUP, 9), "0000 00000009 ffffffff0f"),
    "the size of a tagged field": (ConsumerGroupMetadata(GROUP, 9), "0000 00000009 01 05 ffffffff0f 00"),
    "a tagged field of another size than its type": (ConsumerGroupMetadata(GROUP, 9), "0000 00000009 01 00 02 0000"),
    "a tagged field with bytes left over": (
        ConsumerGroupMetadata(GROUP, 9),
        "0000 00000009 01 00 09 000000000000000000",
    ),
    "a string": (OFFSET, "0004 000000000000002a ffffffff ffffffff0f 00"),
    "null for a string": (OFFSET, "0000 000000000000002a ffff 0000013bf5fb8600"),
    "a string that is not UTF-8": (OFFSET, "0000 000000000000002a 0001 ff 0000013bf5fb8600"),
}


@pytest.mark.parametrize("what", COUNTS)
def test_what_is_announced_and_not_there_is_corrupt_and_costs_no_memory(what: str) -> None:
    record, value = COUNTS[what]
    tracemalloc.start()
    try:
        with pytest.raises(CorruptRecordError):
            decode(record.SCHEMA.log_id, record.key(), bytes.fromhex(value))
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_string_longer_than_kafka_reads_is_corrupt() -> None:
    head = bytes.fromhex("0004 000000000000002a ffffffff")
    for size, length in [(MAX_STRING_SIZE, "808002"), (MAX_STRING_SIZE + 1, "818002")]:
        value = head + bytes.fromhex(length) + b"m" * size + bytes.fromhex("0000013bf5fb8600 00")
        found = answers(CONSUMER_OFFSETS, OFFSET.key(), value)
        assert found == (replace(OFFSET, metadata="m" * size) if size == MAX_STRING_SIZE else None)


def test_a_topic_that_comes_twice_in_an_assignment_is_corrupt() -> None:
    once = ConsumerGroupTargetAssignmentMember(GROUP, MEMBER, {ONE: (7,)}).value()
    entry = once[3:-1]
    twice = once[:2] + b"\x03" + entry + entry + b"\0"
    with pytest.raises(CorruptRecordError, match="twice"):
        decode(CONSUMER_OFFSETS, CURRENT.key()[:1] + b"\x07" + CURRENT.key()[2:], twice)


def test_the_error_names_the_record_and_its_bytes() -> None:
    with pytest.raises(CorruptRecordError) as caught:
        decode(CONSUMER_OFFSETS, CURRENT.key(), b"\x00\x00\x00\x2a")
    for part in ("ConsumerGroupCurrentMemberAssignment", "__consumer_offsets", CURRENT.key().hex(), "0000002a"):
        assert part in str(caught.value)
    with pytest.raises(CorruptRecordError, match="record of __share_group_state"):
        decode(SHARE_GROUP_STATE, b"\x00", b"")


# What cannot be written


@pytest.mark.parametrize("text", ["x" * (MAX_STRING_SIZE + 1), "é" * (MAX_STRING_SIZE // 2 + 1), "\ud800"])
def test_a_text_that_no_record_can_hold_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        replace(OFFSET, metadata=text).value()
    with pytest.raises(ConfigError):
        OffsetCommits(GROUP).value(42, NOON, text)
    with pytest.raises(ConfigError):
        OffsetCommits(GROUP).key(text, 0)
    with pytest.raises(ConfigError):
        ConsumerGroupMemberMetadata(GROUP, text).key()


@pytest.mark.parametrize(
    "record",
    [
        replace(OFFSET, offset=2**63),
        replace(OFFSET, partition=-(2**31) - 1),
        replace(OFFSET, topic_id=bytes(15)),
        replace(CURRENT, assigned_partitions={ONE + b"x": (0,)}),
        replace(CURRENT, assigned_partitions={ONE: (2**31,)}),
        replace(CLASSIC, protocol_type=None),  # type: ignore[arg-type]
    ],
)
def test_a_value_outside_its_type_is_a_defect_of_the_caller(record: Record) -> None:
    with pytest.raises(AssertionError):
        _ = record.key() + record.value()


def test_the_fast_encoder_takes_no_topic_id_of_another_size() -> None:
    for metadata in ("", "m"):
        with pytest.raises(AssertionError):
            OffsetCommits(GROUP).value(42, NOON, metadata, topic_id=ONE + b"x")


def test_the_longest_text_is_written_and_read() -> None:
    record = replace(OFFSET, metadata="x" * MAX_STRING_SIZE)
    assert decode(CONSUMER_OFFSETS, record.key(), record.value()) == record


# Keys of one group


def test_a_prefix_holds_the_keys_of_its_kind_and_group_and_no_others() -> None:
    records: list[Record] = [
        kind(group, *rest)
        for group in ("a", "ab", "", "ä")
        for kind, rest in (
            (ConsumerGroupMetadata, (1,)),
            (ConsumerGroupMemberMetadata, ("m",)),
            (ConsumerGroupMemberMetadata, ("a",)),
            (OffsetCommit, ("b", 0, 1, NOON)),
        )
    ]
    for wanted in records:
        prefix = group_prefix(type(wanted), wanted.group_id)  # type: ignore[attr-defined]
        for record in records:
            is_of_it = type(record) is type(wanted) and record.group_id == wanted.group_id  # type: ignore[attr-defined]
            assert record.key().startswith(prefix) is is_of_it


def test_the_longest_keys_fit_the_index() -> None:
    group = "g" * MAX_GROUP_ID_SIZE
    check_group_id(group)
    longest: list[Record] = [
        OffsetCommit(group, "t" * 249, 2**31 - 1, 0, NOON),
        ConsumerGroupMemberMetadata(group, "m" * MAX_MEMBER_ID_SIZE),
        ShareUpdate(group, ONE, 0, 0, 0),
    ]
    assert max(len(record.key()) for record in longest) == MAX_KEY_SIZE
    assert len(b"\x08" + bytes([CONSUMER_OFFSETS])) + MAX_KEY_SIZE == INDEX_KEY_LIMIT


@pytest.mark.parametrize("name", ["g", "größe", " ", "a.b/c:d", "g" * 249, "ö" * 124])
def test_a_group_may_have_any_name_that_is_short_enough(name: str) -> None:
    check_group_id(name)


@pytest.mark.parametrize("name", ["", "g" * 250, "ö" * 125, "a\0b", "\0", "\ud800"])
def test_a_group_may_not_have_a_name_that_is_no_key(name: str) -> None:
    with pytest.raises(InvalidGroupIdError, match="choose") as caught:
        check_group_id(name)
    assert isinstance(caught.value, ConfigError)
