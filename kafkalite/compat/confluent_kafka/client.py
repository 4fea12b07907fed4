"""What Producer, Consumer and AdminClient share: how one is made, told apart from its remote twin, and closed.

`bootstrap.servers=file:…` gives the class itself, which works on a store in process. `host:port` gives an object of a
class between the one asked for and its remote twin, so that a user's subclass stays what it is:

    class Mine(Producer)     Mine({"bootstrap.servers": "kafka:9092"})     is a     (Mine, RemoteProducer, Producer)
"""

from typing import Any, ClassVar, Self

from kafkalite.compat.confluent_kafka import properties
from kafkalite.compat.confluent_kafka.cluster import Cluster, Lease, store_path
from kafkalite.compat.confluent_kafka.metadata import ClusterMetadata


class Local:
    """A client of a store."""

    _remote: ClassVar[type | None] = None
    _client: ClassVar[properties.Client]
    _serde_prefixes: ClassVar[tuple[str, ...]] = ()

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """An object of the class, or of one between it and its remote twin."""
        remote = cls._remote
        if remote is not None and not issubclass(cls, remote) and store_path(properties.merged(args, kwargs)) is None:
            is_ours = issubclass(remote, cls)
            return object.__new__(
                remote if is_ours else type(cls.__name__, (cls, remote), {"__module__": cls.__module__})
            )
        return object.__new__(cls)

    def _connect(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> properties.Config:
        """Check the configuration and open the store that it means."""
        conf = properties.merged(args, kwargs)
        config = properties.checked(self._client, conf)
        path = store_path(conf)
        assert path is not None, "a client without a store is the remote twin's business"
        self._lease: Lease | None = Lease(path)
        return config

    def _use_handle(self) -> Cluster:
        """The cluster, unless the client was closed."""
        if self._lease is None:
            raise RuntimeError("Handle has been closed")
        return self._lease.cluster

    def _release(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.close()

    def list_topics(self, topic: str | None = None, timeout: float = -1) -> ClusterMetadata:
        """What there is: all topics, or one; an unknown one bears its error. Nothing is created by asking."""
        del timeout  # nothing is waited for
        return self._use_handle().metadata(topic)

    def cluster_id(self, timeout: float = -1) -> str:
        """The id of the cluster: one for each path of a store."""
        del timeout
        return self._use_handle().id

    def set_sasl_credentials(self, username: str, password: str) -> None:
        """Taken and not used: in process there is nobody to authenticate to."""
        for value in (username, password):
            if not isinstance(value, str):
                raise TypeError(f"argument must be str, not {type(value).__name__}")
        self._use_handle()
