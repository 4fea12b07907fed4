"""What tests of verbs share: a place for a store, which is proved sound at the end, and the program in process."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import kafkalite
from kafkalite.cli import cli

Run = Callable[..., Result]


@pytest.fixture(params=["file", "directory"])
def layout_path(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A place for a store in each layout; what is there at the end is sound."""
    yield from _checked(tmp_path / ("shop.klite" if request.param == "file" else "shop"))


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """A place for a store; what is there at the end is sound."""
    yield from _checked(tmp_path / "shop.klite")


def _checked(place: Path) -> Iterator[Path]:
    yield place
    if place.exists():
        with kafkalite.connect(place, create=False) as store:
            assert store.check().ok


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command line in this process; `input` is text or bytes."""
    monkeypatch.delenv("KAFKALITE_STORE", raising=False)

    def invoke(*arguments: object, **options: Any) -> Result:
        return CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="kafkalite", **options)

    return invoke


@pytest.fixture
def orders(path: Path) -> Path:
    """A store with two partitions of orders: a, b, c in partition 0, d, e in partition 1, at 1 s to 5 s of 1970."""
    with kafkalite.connect(path) as store:
        topic = store.topic("orders", partitions=2)
        topic.append_many([b"a", b"b", b"c"], partition=0, timestamps_ms=[1000, 2000, 3000], keys=[b"k", None, b"k"])
        topic.append_many([b"d", b"e"], partition=1, timestamps_ms=[4000, 5000])
    return path
