"""The two libraries that `test_contract` runs against, each behind the same few names.

confluent-kafka comes with a mock cluster of librdkafka, which its clients share by address. Where it is not installed
its half is skipped, and counted; with CI=true that is an error.
"""

import importlib
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import kafkalite

MOCK_PARTITIONS = 4
"""What the mock cluster gives every topic."""

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


def real() -> Iterator[Library]:
    try:
        library = importlib.import_module("confluent_kafka")
    except ImportError:
        reason = "confluent-kafka is not installed"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{reason}: in CI no test is left out", pytrace=False)
        pytest.skip(reason)
    mock = library.Producer({"test.mock.num.brokers": 1})
    brokers = mock.list_topics(timeout=10).brokers.values()
    servers = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
    yield Library("confluent_kafka", servers, lambda name: mock.list_topics(name, timeout=10) and None)
    mock.close()


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


@pytest.fixture(scope="module", params=["kafkalite", "confluent-kafka", "kafkalite over confluent-kafka"])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    """Each library in turn, with a cluster that the module's tests share."""
    kinds: dict[str, Callable[[], Iterator[Library]]] = {
        "kafkalite": lambda: ours(tmp_path_factory.mktemp("contract") / "store.klite"),
        "confluent-kafka": real,
        "kafkalite over confluent-kafka": through_ours,
    }
    yield from kinds[request.param]()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    """Only ours."""
    yield from ours(tmp_path_factory.mktemp("own") / "store.klite")
