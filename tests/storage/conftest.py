"""The two layouts that outlive their process, and stores that are proved sound when a test is over."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kafkalite import disk
from kafkalite.storage.engine import Engine, open_engine


@pytest.fixture(params=["file", "directory"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where a store may be created, in each layout."""
    return tmp_path / ("store.klite" if request.param == "file" else "store")


@pytest.fixture(autouse=True)
def _no_hook_is_left() -> Iterator[None]:
    yield
    assert disk.on_step is None


@pytest.fixture
def engine(path: Path) -> Iterator[Engine]:
    """An engine on a new store, without the keeper's help: it prepares no segment by itself."""
    found = open_engine(path, create=True, read_only=False, durability=None, settings={})
    found._prepare_is_due = True
    yield found
    report = found.check()
    found.close()
    assert report.ok, report
