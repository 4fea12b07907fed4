"""What the fault suite shares: a folder in memory where there is one, a keeper that waits, hooks that nobody leaves."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kafkalite import disk
from kafkalite.storage import keeper
from tests.faults.world import Tasks


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in memory, for what is temporary too: failures are simulated, and the disk has no part in them."""
    memory = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(prefix="kafkalite-faults-", dir=memory if memory.is_dir() else None))
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> Tasks:
    """The keeper does what the test tells it, when the test tells it."""
    found = Tasks()
    monkeypatch.setattr(keeper, "after", found.after)
    return found


@pytest.fixture(autouse=True)
def _no_hook_is_left() -> Iterator[None]:
    yield
    assert disk.on_step is None
    assert disk.on_look is None
