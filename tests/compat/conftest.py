"""The two libraries that the contract runs against, each behind the same few names.

    library   ours on a store; the real one on librdkafka's mock cluster; ours in front of that; the real one on
              Apache Kafka, marked `long`
    whole     ours on a store, and the real one on Apache Kafka: for what the mock cluster lacks (admin calls, fencing,
              aborted records, time stamps' types)

confluent-kafka comes with the mock cluster, which its clients share by address. Where it is not installed its part is
skipped, and counted; with CI=true that is an error.
"""

import importlib
import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import kafkalite
from tests.compat.broker import apache_kafka

MOCK_PARTITIONS = 4
"""What the mock cluster gives every topic."""
IN_PROCESS = ("kafkalite", "confluent-kafka", "kafkalite over confluent-kafka")
APACHE_KAFKA = pytest.param("Apache Kafka", marks=[pytest.mark.long, pytest.mark.needs("java", "mvn")])

_numbers = itertools.count()


class Library:
    """One of the two: `ck` and `admin` are its modules; clients and topics are made by the methods."""

    def __init__(self, package: str, servers: str, make_topic: Callable[[str], None]) -> None:
        self.ck: Any = importlib.import_module(package)
        self.admin: Any = importlib.import_module(f"{package}.admin")
        self.serialization: Any = importlib.import_module(f"{package}.serialization")
        self.is_ours = package.startswith("kafkalite")
        self._servers = servers
        self._make_topic = make_topic

    def name(self, what: str) -> str:
        """A name that no other test has."""
        return f"{what}-{next(_numbers)}"

    def topic(self, *values: str) -> str:
        """A new topic of `MOCK_PARTITIONS` partitions, with these values in partition 0."""
        name = self.name("topic")
        self._make_topic(name)
        producer = self.producer()
        for number, value in enumerate(values):
            producer.produce(name, value, key=str(number), partition=0, timestamp=1_000 + number)
        assert producer.flush(10) == 0
        return name

    def conf(self, **properties: Any) -> dict[str, Any]:
        """A client's configuration, `_` for `.`."""
        return {"bootstrap.servers": self._servers} | {key.replace("_", "."): one for key, one in properties.items()}

    def producer(self, **properties: Any) -> Any:
        return self.ck.Producer(self.conf(**properties))

    def consumer(self, **properties: Any) -> Any:
        return self.ck.Consumer(
            self.conf(**{"group_id": self.name("group"), "auto_offset_reset": "earliest"} | properties)
        )


def until(holds: Callable[[], bool]) -> None:
    """Wait for what a cluster does soon after it has answered."""
    ends = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.01)


def real_module() -> Any:
    """confluent-kafka."""
    try:
        return importlib.import_module("confluent_kafka")
    except ImportError:
        reason = "confluent-kafka is not installed"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{reason}: in CI no test is left out", pytrace=False)
        pytest.skip(reason)


def real() -> Iterator[Library]:
    library = real_module()
    mock = library.Producer({"test.mock.num.brokers": 1})
    brokers = mock.list_topics(timeout=10).brokers.values()
    servers = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
    yield Library("confluent_kafka", servers, lambda name: mock.list_topics(name, timeout=10) and None)
    mock.close()


def on_kafka(servers: str) -> Iterator[Library]:
    """The real library on a cluster that has everything."""
    real_module()
    admin = importlib.import_module("confluent_kafka.admin")
    with admin.AdminClient({"bootstrap.servers": servers}) as client:

        def make_topic(name: str) -> None:
            client.create_topics([admin.NewTopic(name, MOCK_PARTITIONS, 1)])[name].result(30)
            until(lambda: name in client.list_topics(timeout=10).topics)

        yield Library("confluent_kafka", servers, make_topic)


def through_ours() -> Iterator[Library]:
    """Our package, whose clients pass calls on to the real library and its mock cluster."""
    for library in real():
        yield Library("kafkalite.compat.confluent_kafka", library._servers, library._make_topic)


def ours(path: Path) -> Iterator[Library]:
    with kafkalite.connect(path) as store:
        yield Library(
            "kafkalite.compat.confluent_kafka",
            f"file:{path}",
            lambda name: store.topic(name, partitions=MOCK_PARTITIONS) and None,
        )
        report = store.check()
    assert report.ok, report


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a broker of Apache Kafka, which all tests share."""
    with apache_kafka(tmp_path_factory.mktemp("kafka"), MOCK_PARTITIONS) as servers:
        yield servers


@pytest.fixture(scope="module", params=[*IN_PROCESS, APACHE_KAFKA])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    """Each library in turn, with a cluster that the module's tests share."""
    yield from _library(request, tmp_path_factory)


@pytest.fixture(scope="module", params=["kafkalite", APACHE_KAFKA])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    """Ours, and the real one where everything is there."""
    yield from _library(request, tmp_path_factory)


def _library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    kinds: dict[str, Callable[[], Iterator[Library]]] = {
        "kafkalite": lambda: ours(tmp_path_factory.mktemp("contract") / "store.klite"),
        "confluent-kafka": real,
        "kafkalite over confluent-kafka": through_ours,
        "Apache Kafka": lambda: on_kafka(request.getfixturevalue("kafka")),
    }
    yield from kinds[request.param]()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    """Only ours."""
    yield from ours(tmp_path_factory.mktemp("own") / "store.klite")
