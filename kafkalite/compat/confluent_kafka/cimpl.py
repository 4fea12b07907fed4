"""confluent_kafka.cimpl: where programs also import names from that confluent_kafka itself gives."""

from typing import Final

from kafkalite.compat.confluent_kafka.absent import absent_class
from kafkalite.compat.confluent_kafka.admin import AdminClient as _AdminClientImpl
from kafkalite.compat.confluent_kafka.admin_types import NewPartitions, NewTopic
from kafkalite.compat.confluent_kafka.constants import (
    OFFSET_BEGINNING,
    OFFSET_END,
    OFFSET_INVALID,
    OFFSET_SPEC_EARLIEST,
    OFFSET_SPEC_LATEST,
    OFFSET_SPEC_MAX_TIMESTAMP,
    OFFSET_STORED,
    TIMESTAMP_CREATE_TIME,
    TIMESTAMP_LOG_APPEND_TIME,
    TIMESTAMP_NOT_AVAILABLE,
)
from kafkalite.compat.confluent_kafka.consumer import Consumer
from kafkalite.compat.confluent_kafka.hashing import consistent, fnv1a, murmur2
from kafkalite.compat.confluent_kafka.kafka_error import (
    ConcurrentModificationException,
    IllegalStateException,
    KafkaError,
    KafkaException,
)
from kafkalite.compat.confluent_kafka.model import Message, TopicPartition, Uuid
from kafkalite.compat.confluent_kafka.producer import Producer
from kafkalite.compat.confluent_kafka.versions import libversion, version

ShareConsumer = absent_class("ShareConsumer")

ACL_OPERATION_ALL: Final = 2
ACL_OPERATION_ALTER: Final = 7
ACL_OPERATION_ALTER_CONFIGS: Final = 11
ACL_OPERATION_ANY: Final = 1
ACL_OPERATION_CLUSTER_ACTION: Final = 9
ACL_OPERATION_CREATE: Final = 5
ACL_OPERATION_DELETE: Final = 6
ACL_OPERATION_DESCRIBE: Final = 8
ACL_OPERATION_DESCRIBE_CONFIGS: Final = 10
ACL_OPERATION_IDEMPOTENT_WRITE: Final = 12
ACL_OPERATION_READ: Final = 3
ACL_OPERATION_UNKNOWN: Final = 0
ACL_OPERATION_WRITE: Final = 4
ACL_PERMISSION_TYPE_ALLOW: Final = 3
ACL_PERMISSION_TYPE_ANY: Final = 1
ACL_PERMISSION_TYPE_DENY: Final = 2
ACL_PERMISSION_TYPE_UNKNOWN: Final = 0
ALTER_CONFIG_OP_TYPE_APPEND: Final = 2
ALTER_CONFIG_OP_TYPE_DELETE: Final = 1
ALTER_CONFIG_OP_TYPE_SET: Final = 0
ALTER_CONFIG_OP_TYPE_SUBTRACT: Final = 3
CONFIG_SOURCE_DEFAULT_CONFIG: Final = 5
CONFIG_SOURCE_DYNAMIC_BROKER_CONFIG: Final = 2
CONFIG_SOURCE_DYNAMIC_DEFAULT_BROKER_CONFIG: Final = 3
CONFIG_SOURCE_DYNAMIC_TOPIC_CONFIG: Final = 1
CONFIG_SOURCE_GROUP_CONFIG: Final = 8
CONFIG_SOURCE_STATIC_BROKER_CONFIG: Final = 4
CONFIG_SOURCE_UNKNOWN_CONFIG: Final = 0
CONSUMER_GROUP_STATE_COMPLETING_REBALANCE: Final = 2
CONSUMER_GROUP_STATE_DEAD: Final = 4
CONSUMER_GROUP_STATE_EMPTY: Final = 5
CONSUMER_GROUP_STATE_PREPARING_REBALANCE: Final = 1
CONSUMER_GROUP_STATE_STABLE: Final = 3
CONSUMER_GROUP_STATE_UNKNOWN: Final = 0
CONSUMER_GROUP_TYPE_CLASSIC: Final = 2
CONSUMER_GROUP_TYPE_CONSUMER: Final = 1
CONSUMER_GROUP_TYPE_UNKNOWN: Final = 0
ELECTION_TYPE_PREFERRED: Final = 0
ELECTION_TYPE_UNCLEAN: Final = 1
ISOLATION_LEVEL_READ_COMMITTED: Final = 1
ISOLATION_LEVEL_READ_UNCOMMITTED: Final = 0
RESOURCE_ANY: Final = 1
RESOURCE_BROKER: Final = 4
RESOURCE_GROUP: Final = 3
RESOURCE_PATTERN_ANY: Final = 1
RESOURCE_PATTERN_LITERAL: Final = 3
RESOURCE_PATTERN_MATCH: Final = 2
RESOURCE_PATTERN_PREFIXED: Final = 4
RESOURCE_PATTERN_UNKNOWN: Final = 0
RESOURCE_TOPIC: Final = 2
RESOURCE_TRANSACTIONAL_ID: Final = 5
RESOURCE_UNKNOWN: Final = 0
SCRAM_MECHANISM_SHA_256: Final = 1
SCRAM_MECHANISM_SHA_512: Final = 2
SCRAM_MECHANISM_UNKNOWN: Final = 0
SHARE_ACKNOWLEDGE_TYPE_ACCEPT: Final = 1
SHARE_ACKNOWLEDGE_TYPE_REJECT: Final = 3
SHARE_ACKNOWLEDGE_TYPE_RELEASE: Final = 2

__all__ = [
    "ConcurrentModificationException",
    "Consumer",
    "IllegalStateException",
    "KafkaError",
    "KafkaException",
    "Message",
    "NewPartitions",
    "NewTopic",
    "OFFSET_BEGINNING",
    "OFFSET_END",
    "OFFSET_INVALID",
    "OFFSET_SPEC_EARLIEST",
    "OFFSET_SPEC_LATEST",
    "OFFSET_SPEC_MAX_TIMESTAMP",
    "OFFSET_STORED",
    "Producer",
    "ShareConsumer",
    "TIMESTAMP_CREATE_TIME",
    "TIMESTAMP_LOG_APPEND_TIME",
    "TIMESTAMP_NOT_AVAILABLE",
    "TopicPartition",
    "Uuid",
    "_AdminClientImpl",
    "consistent",
    "fnv1a",
    "libversion",
    "murmur2",
    "version",
]
