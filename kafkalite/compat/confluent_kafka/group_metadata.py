"""A consumer's group metadata as bytes: what `consumer_group_metadata` gives `send_offsets_to_transaction`.

librdkafka's layout, so that a program may pass it between processes, and between this package and the real one:

    "CGMDv2:"   epoch, int32 little-endian   group id, NUL   member id, NUL   1, or 0, group instance id, NUL
"""

import struct
from typing import Final

from kafkalite import GroupMetadata
from kafkalite.compat.confluent_kafka.kafka_error import Code, KafkaException, failed

MAGIC: Final = b"CGMDv2:"
EPOCH: Final = struct.Struct("<i")
NO_INSTANCE: Final = b"\1"
LEAST: Final = len(MAGIC) + EPOCH.size + 3
IDS_AT: Final = len(MAGIC) + EPOCH.size


def packed(group: GroupMetadata) -> bytes:
    """Whose offsets these are, as bytes."""
    return MAGIC + EPOCH.pack(group.epoch) + f"{group.group_id}\0{group.member_id}\0".encode() + NO_INSTANCE


def unpacked(data: object) -> GroupMetadata:
    """What `packed` made, or librdkafka; raises `TypeError`, `KafkaException` (`_BAD_MSG`)."""
    if not isinstance(data, bytes):
        raise TypeError(f"expected bytes, {type(data).__name__} found")
    if len(data) < LEAST:
        raise _bad("is too short")
    if not data.startswith(MAGIC):
        raise _bad("is not a serialized consumer group metadata object")
    group_id, _, rest = data[IDS_AT:].partition(b"\0")
    member_id, _, instance = rest.partition(b"\0")
    is_whole = instance == NO_INSTANCE or (instance[:1] == b"\0" and instance.find(b"\0", 1) == len(instance) - 1)
    if not is_whole:
        raise _bad("bad length")
    try:
        return GroupMetadata(group_id.decode(), member_id.decode(), EPOCH.unpack_from(data, len(MAGIC))[0])
    except UnicodeDecodeError as error:
        raise _bad("group id is not safe") from error


def _bad(why: str) -> KafkaException:
    return failed(Code.BAD_MSG, f"Input buffer {why}")
