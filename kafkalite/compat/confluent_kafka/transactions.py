"""What a producer makes of the transactional API.

Without `transactional.id` every call raises `_NOT_CONFIGURED`, and `produce` just sends. With one, `produce` is refused
until a transaction has begun, as librdkafka does, and `init_transactions` raises `_UNSUPPORTED_FEATURE`: the store's
producers have no transactions to build on yet.
"""

from typing import Any, Final

import kafkalite
from kafkalite.compat.confluent_kafka.cluster import Cluster
from kafkalite.compat.confluent_kafka.kafka_error import Code, KafkaError, KafkaException, failed

NOT_CONFIGURED: Final = "The Transactional API requires transactional.id to be configured"
NOT_SUPPORTED: Final = "Transactions are not supported by this store yet: leave transactional.id out"


class Transactions:
    """The transaction of one producer."""

    def __init__(self, cluster: Cluster, producer: kafkalite.Producer, transactional_id: str | None) -> None:
        self._cluster = cluster
        self._producer = producer
        self._id = transactional_id
        self.is_open = False

    def sender(self) -> Any:
        """What `produce` sends with; raises `_STATE` outside of a transaction."""
        if self._id:
            raise failed(Code.STATE, "Unable to produce message: Local: Erroneous state")
        return self._producer.send

    def _require(self) -> None:
        if not self._id:
            raise failed(Code.NOT_CONFIGURED, NOT_CONFIGURED)

    def init(self, timeout: float) -> None:
        """`init_transactions`."""
        del timeout
        self._require()
        raise KafkaException(KafkaError(Code.UNSUPPORTED_FEATURE, NOT_SUPPORTED, fatal=True))

    def begin(self) -> None:
        """`begin_transaction`."""
        self._refuse_state()

    def commit(self, timeout: float) -> None:
        """`commit_transaction`."""
        del timeout
        self._refuse_state()

    def abort(self, timeout: float) -> None:
        """`abort_transaction`."""
        del timeout
        self._refuse_state()

    def send_offsets(self, positions: list[Any], group_metadata: object, timeout: float) -> None:
        """`send_offsets_to_transaction`."""
        del positions, timeout
        if not isinstance(group_metadata, bytes):
            raise TypeError(f"expected bytes, {type(group_metadata).__name__} found")
        self._refuse_state()

    def _refuse_state(self) -> None:
        self._require()
        raise failed(Code.STATE, "Operation not valid in state Init")

    def close(self) -> None:
        """Nothing is open."""
