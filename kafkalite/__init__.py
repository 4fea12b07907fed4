"""kafkalite: the SQLite of Kafka. Topics, producers and readers on one file, in process.

    import kafkalite

    with kafkalite.connect("shop.klite") as store:
        orders = store.topic("orders", partitions=3)
        orders.append(b"42", key=b"alice")
        for record in orders.read():
            print(record.partition, record.offset, record.key, record.value)

kafkalite is not affiliated with the Apache Software Foundation; Apache Kafka is its trademark.
"""

import logging

from kafkalite.copying import CopiedTopic, copy_topics
from kafkalite.delivery import Delivery
from kafkalite.errors import (
    ClosedError,
    ConcurrentUseError,
    ConfigError,
    CorruptRecordError,
    DeliveryError,
    DeserializationError,
    ForkedError,
    InvalidGroupIdError,
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
    UnknownPartitionError,
    UnknownTopicError,
    UnsupportedError,
)
from kafkalite.iteration import RecordBatch
from kafkalite.model import Record, RecordMetadata, TopicPartition
from kafkalite.producer import Producer
from kafkalite.serde import JSON, MSGPACK, Serde, json, optional
from kafkalite.storage.backup import BackupReport
from kafkalite.storage.check import Report
from kafkalite.storage.repair import RepairReport, repair
from kafkalite.storage.repair import check_store as check
from kafkalite.storage.stats import Stats
from kafkalite.store import Store, connect
from kafkalite.topic import Topic

__version__ = "0.1.0"

__all__ = [
    "BackupReport",
    "ClosedError",
    "ConcurrentUseError",
    "ConfigError",
    "CopiedTopic",
    "CorruptRecordError",
    "Delivery",
    "DeliveryError",
    "DeserializationError",
    "ForkedError",
    "InvalidGroupIdError",
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
    "UnknownPartitionError",
    "UnknownTopicError",
    "UnsupportedError",
    "__version__",
    "check",
    "connect",
    "copy_topics",
    "json",
    "optional",
    "repair",
]

logging.getLogger("kafkalite").addHandler(logging.NullHandler())
