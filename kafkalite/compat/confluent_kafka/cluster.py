"""Which store a client means, and what is known of it: `bootstrap.servers` to an open store, shared by its clients.

    file:shop.klite    file:data/    file:///srv/shop.klite    file::memory:

`KAFKALITE_BOOTSTRAP`, if it is set, stands in place of what the program says, so that a program written for a cluster
runs on a store without a change but its import. All clients of one path in a process share one open store; it is closed
when the last of them is closed or gone, `file::memory:` at the end of the process: a producer that nobody closed must
not take its records with it.

A store answers as a cluster of one node does, with topics created by the first `produce` to them
(`auto.create.topics.enable`, one partition), Kafka's default.
"""

import base64
import hashlib
import os
import threading
import weakref
from collections.abc import Mapping
from typing import Any, Final

import kafkalite
from kafkalite.compat.confluent_kafka.constants import NODE_ID
from kafkalite.compat.confluent_kafka.kafka_error import Code, KafkaError, exception_of
from kafkalite.compat.confluent_kafka.metadata import BrokerMetadata, ClusterMetadata, PartitionMetadata, TopicMetadata
from kafkalite.compat.confluent_kafka.model import Node
from kafkalite.compat.confluent_kafka.properties import invalid

VARIABLE: Final = "KAFKALITE_BOOTSTRAP"
SCHEME: Final = "file:"
MEMORY: Final = ":memory:"
HOST: Final = "localhost"
PORT: Final = 0

RawTopic = kafkalite.Topic[bytes, bytes | None]


def store_path(conf: Mapping[Any, Any]) -> str | None:
    """The path of the store that a configuration means, None for a cluster; the environment has the first word."""
    servers = os.environ.get(VARIABLE) or conf.get("bootstrap.servers") or conf.get("metadata.broker.list") or ""
    if os.environ.get(VARIABLE) and not str(servers).startswith(SCHEME):
        raise invalid(f"{VARIABLE}={servers!r} names no store: give file:PATH, such as file:shop.klite")
    if not str(servers).startswith(SCHEME):
        return None
    path = str(servers).removeprefix(SCHEME)
    path = path.removeprefix("//") if path.startswith("///") else path
    if not path:
        raise invalid(f"bootstrap.servers={servers!r} names no store: give file:PATH, such as file:shop.klite")
    return path


class Cluster:
    """A store as clients of a cluster see it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.store = kafkalite.connect(path)
        self.users = 0
        digest = hashlib.blake2b(str(self.store.path).encode(), digest_size=16).digest()
        self.id = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        self._topics: dict[str, RawTopic] = {}

    def topic(self, name: str, *, create: bool = False) -> RawTopic:
        """The topic of this name; raises `UnknownTopicError`, `InvalidTopicError`."""
        return self.store.topic(name, create=create)

    def known_topic(self, name: str) -> RawTopic:
        """The same from memory: it may have been deleted since."""
        found = self._topics.get(name)
        if found is None:
            found = self._topics[name] = self.topic(name, create=True)
        return found

    def known_count(self, name: str) -> int:
        """A topic's number of partitions, from memory: whoever sends to it looks each time he opens a batch."""
        return self.known_topic(name)._state.partition_count  # noqa: SLF001  (asking the topic looks for each record)

    def forget_topic(self, name: str) -> None:
        """What was remembered of a topic no longer holds."""
        self._topics.pop(name, None)

    def node(self) -> Node:
        """The one node."""
        return Node(NODE_ID, HOST, PORT)

    def metadata(self, topic: str | None = None) -> ClusterMetadata:
        """What `list_topics` answers: all topics, or one, which may be unknown."""
        found = ClusterMetadata()
        broker = BrokerMetadata()
        broker.id, broker.host, broker.port = NODE_ID, HOST, PORT
        found.cluster_id, found.controller_id, found.brokers = self.id, NODE_ID, {NODE_ID: broker}
        found.orig_broker_id, found.orig_broker_name = NODE_ID, f"{SCHEME}{self.store.path}/{NODE_ID}"
        for name in self.store.topics() if topic is None else [topic]:
            found.topics[name] = self._topic_metadata(name)
        return found

    def _topic_metadata(self, name: str) -> TopicMetadata:
        found = TopicMetadata()
        found.topic = name
        try:
            count = self.topic(name).partition_count
        except kafkalite.KafkaliteError as error:
            found.error = KafkaError(getattr(error, "code", None) or Code.UNKNOWN_TOPIC_OR_PART)
            return found
        for number in range(count):
            partition = found.partitions[number] = PartitionMetadata()
            partition.id, partition.leader, partition.replicas, partition.isrs = number, NODE_ID, [NODE_ID], [NODE_ID]
        return found


_lock = threading.RLock()
_open: dict[str, Cluster] = {}


class Lease:
    """A client's share in an open store; given back by `close`, or when it is collected."""

    def __init__(self, path: str) -> None:
        self.cluster = _taken(path)
        self._give_back = weakref.finalize(self, _given_back, self.cluster)

    def close(self) -> None:
        """Give the share back; idempotent."""
        self._give_back()


def _taken(path: str) -> Cluster:
    key = path if path == MEMORY else os.path.realpath(path)
    with _lock:
        cluster = _open.get(key)
        if cluster is None or not _is_open(cluster):
            try:
                cluster = _open[key] = Cluster(path)
            except kafkalite.KafkaliteError as error:
                raise exception_of(error, f"opening the store {path!r}: ") from error
        cluster.users += 1
        return cluster


def _is_open(cluster: Cluster) -> bool:
    """Whether nobody closed the store behind our back."""
    try:
        cluster.store.topics()
    except kafkalite.ClosedError:
        return False
    return True


def _given_back(cluster: Cluster) -> None:
    with _lock:
        cluster.users -= 1
        if cluster.users or cluster.path == MEMORY:
            return
        for key, one in list(_open.items()):
            if one is cluster:
                del _open[key]
        cluster.store.close()
