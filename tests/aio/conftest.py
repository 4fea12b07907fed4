"""A place for a store that is proved sound when the test is over, and must have left nothing behind."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import kafkalite

from .kit import PATIENCE, ours


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "store.klite"
    yield place
    end = time.monotonic() + PATIENCE
    while ours() and time.monotonic() < end:  # they end by themselves once the store is closed
        time.sleep(0.001)
    assert ours() == []
    assert threading.main_thread() is threading.current_thread()
    with kafkalite.connect(place) as store:
        assert store.check().ok
