"""A store for each test of the demo, checked when the test is over."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import kafkalite
from kafkalite.demo.flights import Flights, read_flights


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    return tmp_path / "flights.klite"


@pytest.fixture
def store(store_path: Path) -> Iterator[kafkalite.Store]:
    with kafkalite.connect(store_path) as store:
        yield store
        assert store.check().ok


@pytest.fixture(scope="session")
def january() -> Flights:
    return read_flights()
