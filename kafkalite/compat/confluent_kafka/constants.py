"""Numbers that confluent_kafka gives names to."""

from typing import Final

TIMESTAMP_NOT_AVAILABLE: Final = 0
TIMESTAMP_CREATE_TIME: Final = 1
TIMESTAMP_LOG_APPEND_TIME: Final = 2

OFFSET_END: Final = -1
OFFSET_BEGINNING: Final = -2
OFFSET_STORED: Final = -1000
OFFSET_INVALID: Final = -1001
OFFSET_TAIL_BASE: Final = -2000
"""What lies below it counts from the end: -2003 is the third last offset."""

OFFSET_SPEC_LATEST: Final = -1
OFFSET_SPEC_EARLIEST: Final = -2
OFFSET_SPEC_MAX_TIMESTAMP: Final = -3

PARTITION_UA: Final = -1
"""No partition is named: the partitioner chooses."""

NODE_ID: Final = 1
"""The id of the one node that a store is, in answers that speak of brokers."""
