"""kafkalite: the SQLite of Kafka. Topics, producers and readers on one file, in process.

    import kafkalite

    with kafkalite.connect("shop.klite") as store:
        orders = store.topic("orders", partitions=3)
        orders.append(b"42", key=b"alice")
        for record in orders.read():
            print(record.partition, record.offset, record.key, record.value)

kafkalite is not affiliated with the Apache Software Foundation; Apache Kafka is its trademark.
"""

import importlib
from typing import TYPE_CHECKING, Any

from kafkalite.delivery import Delivery
from kafkalite.errors import (
    ClosedError,
    ConcurrentUseError,
    ConfigError,
    CorruptRecordError,
    DeliveryError,
    DeserializationError,
    FencedMemberError,
    ForkedError,
    GroupNotEmptyError,
    GroupNotFoundError,
    InvalidGroupIdError,
    InvalidPartitionsError,
    InvalidRecordStateError,
    InvalidTopicError,
    KafkaliteError,
    KafkaTimeoutError,
    NotAStoreError,
    OffsetConflictError,
    OffsetOutOfRangeError,
    OutcomeUnknownError,
    ProducerFencedError,
    RecordTooLargeError,
    SequenceError,
    SerializationError,
    StaleMemberEpochError,
    StoreBusyError,
    StoreExistsError,
    StoreFailedError,
    StoreFullError,
    StoreLocationError,
    StoreNotFoundError,
    StorePermissionError,
    StoreSettingsError,
    StoreVersionError,
    TopicSettingsError,
    TransactionStateError,
    UnknownPartitionError,
    UnknownTopicError,
    UnsupportedError,
    WorkerError,
)
from kafkalite.iteration import RecordBatch
from kafkalite.model import GroupMetadata, Record, RecordMetadata, TopicPartition
from kafkalite.producer import Producer
from kafkalite.serde import JSON, MSGPACK, Serde, json, optional
from kafkalite.store import Store, connect
from kafkalite.topic import Topic

if TYPE_CHECKING:
    from kafkalite.consumer_group import ConsumerGroup
    from kafkalite.copying import CopiedTopic, copy_topics
    from kafkalite.group_admin import GroupInfo, GroupMember, GroupPartition
    from kafkalite.share_group import ShareGroup
    from kafkalite.share_records import ShareRecord
    from kafkalite.storage.backup import BackupReport
    from kafkalite.storage.check import Report
    from kafkalite.storage.repair import RepairReport, repair
    from kafkalite.storage.repair import check_store as check
    from kafkalite.storage.stats import Stats
    from kafkalite.transaction import Transaction

__version__ = "0.1.0"

__all__ = [
    "BackupReport",
    "ClosedError",
    "ConcurrentUseError",
    "ConfigError",
    "ConsumerGroup",
    "CopiedTopic",
    "CorruptRecordError",
    "Delivery",
    "DeliveryError",
    "DeserializationError",
    "FencedMemberError",
    "ForkedError",
    "GroupInfo",
    "GroupMember",
    "GroupMetadata",
    "GroupNotEmptyError",
    "GroupNotFoundError",
    "GroupPartition",
    "InvalidGroupIdError",
    "InvalidRecordStateError",
    "InvalidPartitionsError",
    "InvalidTopicError",
    "JSON",
    "KafkaTimeoutError",
    "KafkaliteError",
    "MSGPACK",
    "NotAStoreError",
    "OffsetConflictError",
    "OffsetOutOfRangeError",
    "OutcomeUnknownError",
    "Producer",
    "ProducerFencedError",
    "Record",
    "RecordBatch",
    "RecordMetadata",
    "RecordTooLargeError",
    "RepairReport",
    "Report",
    "SequenceError",
    "Serde",
    "SerializationError",
    "StaleMemberEpochError",
    "ShareGroup",
    "ShareRecord",
    "Stats",
    "Store",
    "StoreBusyError",
    "StoreExistsError",
    "StoreFailedError",
    "StoreFullError",
    "StoreLocationError",
    "StoreNotFoundError",
    "StorePermissionError",
    "StoreSettingsError",
    "StoreVersionError",
    "Topic",
    "TopicPartition",
    "TopicSettingsError",
    "Transaction",
    "TransactionStateError",
    "UnknownPartitionError",
    "UnknownTopicError",
    "UnsupportedError",
    "WorkerError",
    "__version__",
    "check",
    "connect",
    "copy_topics",
    "json",
    "optional",
    "repair",
]

_LATER = {
    "BackupReport": "kafkalite.storage.backup",
    "ConsumerGroup": "kafkalite.consumer_group",
    "CopiedTopic": "kafkalite.copying",
    "GroupInfo": "kafkalite.group_admin",
    "GroupMember": "kafkalite.group_admin",
    "GroupPartition": "kafkalite.group_admin",
    "RepairReport": "kafkalite.storage.repair",
    "Report": "kafkalite.storage.check",
    "ShareGroup": "kafkalite.share_group",
    "ShareRecord": "kafkalite.share_records",
    "Stats": "kafkalite.storage.stats",
    "Transaction": "kafkalite.transaction",
    "check": "kafkalite.storage.repair",
    "copy_topics": "kafkalite.copying",
    "repair": "kafkalite.storage.repair",
}
"""Names that are imported when they are first asked for (PEP 562): groups, and what looks after a store, cost as much
as all the rest."""
_THERE = {"check": "check_store"}
"""What some of them are called where they come from."""


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), _THERE.get(name, name))
    raise AttributeError(f"module 'kafkalite' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Tab completion shows them as well."""
    return sorted({*globals(), *_LATER})
