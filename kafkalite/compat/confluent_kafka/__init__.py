"""confluent_kafka on a store: code written for confluent-kafka 2.16 runs with one import changed.

    from kafkalite.compat.confluent_kafka import Consumer, Producer

    producer = Producer({"bootstrap.servers": "file:shop.klite"})
    producer.produce("orders", key="alice", value="42")
    producer.flush()

`bootstrap.servers` is `file:PATH`, a store in this process, or `host:port`, a cluster, reached through the real library
if it is installed. `KAFKALITE_BOOTSTRAP=file:…` in the environment stands in place of what the program says.

What confluent_kafka has and this package does not stands in `ABSENT`, each name with its reason;
`python -m kafkalite.compat.confluent_kafka` prints it.
"""
# ruff: noqa: SLF001  (gives each client class its remote twin)

from kafkalite.compat.confluent_kafka import admin, error, remote, serialization
from kafkalite.compat.confluent_kafka.absent import ABSENT, absent_class
from kafkalite.compat.confluent_kafka.admin import AdminClient as _AdminClient
from kafkalite.compat.confluent_kafka.cimpl import ShareConsumer
from kafkalite.compat.confluent_kafka.constants import (
    OFFSET_BEGINNING,
    OFFSET_END,
    OFFSET_INVALID,
    OFFSET_STORED,
    TIMESTAMP_CREATE_TIME,
    TIMESTAMP_LOG_APPEND_TIME,
    TIMESTAMP_NOT_AVAILABLE,
)
from kafkalite.compat.confluent_kafka.consumer import Consumer
from kafkalite.compat.confluent_kafka.deserializing_consumer import DeserializingConsumer
from kafkalite.compat.confluent_kafka.hashing import consistent, fnv1a, murmur2
from kafkalite.compat.confluent_kafka.kafka_error import (
    ConcurrentModificationException,
    IllegalStateException,
    KafkaError,
    KafkaException,
)
from kafkalite.compat.confluent_kafka.model import (
    AcknowledgeType,
    ConsumerGroupState,
    ConsumerGroupTopicPartitions,
    ConsumerGroupType,
    ElectionType,
    IsolationLevel,
    Message,
    Messages,
    Node,
    ThrottleEvent,
    TopicCollection,
    TopicPartition,
    TopicPartitionInfo,
    Uuid,
)
from kafkalite.compat.confluent_kafka.producer import Producer
from kafkalite.compat.confluent_kafka.serializing_producer import SerializingProducer
from kafkalite.compat.confluent_kafka.versions import libversion, version

DeserializingShareConsumer = absent_class("DeserializingShareConsumer")

__version__ = version()

__all__ = [
    "ABSENT",
    "AcknowledgeType",
    "ConcurrentModificationException",
    "Consumer",
    "ConsumerGroupState",
    "ConsumerGroupTopicPartitions",
    "ConsumerGroupType",
    "DeserializingConsumer",
    "DeserializingShareConsumer",
    "ElectionType",
    "IllegalStateException",
    "IsolationLevel",
    "KafkaError",
    "KafkaException",
    "Message",
    "Messages",
    "Node",
    "OFFSET_BEGINNING",
    "OFFSET_END",
    "OFFSET_INVALID",
    "OFFSET_STORED",
    "Producer",
    "SerializingProducer",
    "ShareConsumer",
    "TIMESTAMP_CREATE_TIME",
    "TIMESTAMP_LOG_APPEND_TIME",
    "TIMESTAMP_NOT_AVAILABLE",
    "ThrottleEvent",
    "TopicCollection",
    "TopicPartition",
    "TopicPartitionInfo",
    "Uuid",
    "admin",
    "consistent",
    "error",
    "fnv1a",
    "libversion",
    "murmur2",
    "serialization",
    "version",
]

for _local in (Producer, Consumer, _AdminClient):
    _local._remote = remote.remote_twin(_local, _local.__name__)
