"""What the tests with real processes share: forked children, a place for a store in each layout that is on disk."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .forks import Board, Forked

Fork = Callable[..., Forked]


@pytest.fixture
def fork() -> Iterator[Fork]:
    """Fork a child that runs a function; what still runs when the test is over is killed."""
    children: list[Forked] = []

    def start(work: Callable[..., object], *arguments: object, **named: object) -> Forked:
        children.append(Forked(work, *arguments, **named))
        return children[-1]

    yield start
    for child in children:
        child.close()


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture(params=["directory", "file"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where there is no store yet, in both layouts that processes can share."""
    return tmp_path / ("store" if request.param == "directory" else "store.klite")


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory in memory where there is one: what SIGKILL can do has nothing to do with the disk."""
    memory = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(prefix="kafkalite-test-", dir=memory if memory.is_dir() else None))
    yield path
    shutil.rmtree(path)
