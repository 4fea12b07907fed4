"""What all tests share: stores that are checked when a test is over, what a test needs of the machine, seeds.

    layout       a place for a store, once each as file, directory and memory
    open_store   opens stores that are proved sound, then closed, at the end of the test
    seed         a number for the test's random choices; KAFKALITE_SEED replays it, a failure prints it

`@pytest.mark.needs("root", "mount")` skips a test where the machine cannot do that, and counts it; with CI=true it
is an error, so that no test is left out unnoticed. Tests marked `long` run when `-m` speaks of them, only then.
`@pytest.mark.matrix` is for sweeps over several parameters that each take seconds: the quick run does every other case,
as on a chessboard, so that every value of every parameter is met, and `-m long` does the others.
"""

import os
import pwd
import random
import re
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis
import pytest

import kafkalite
from tests.faults.ledger import Reporter

SEED_VARIABLE = "KAFKALITE_SEED"

TRIALS = {
    "unshare": ("unshare", "--mount", "true"),
    "mount": ("unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/tmp"),
    "losetup": ("losetup", "--find"),
}
"""Tools that a machine may have and forbid, as containers do: the command that shows whether they work."""

hypothesis.settings.register_profile("kafkalite", deadline=None, print_blob=True)  # never the clock's opinion
hypothesis.settings.load_profile("kafkalite")


@cache
def has(tool: str) -> bool:
    """Whether the machine can do it: `root`, the user `nobody`, or a command that is there and works."""
    if tool == "root":
        return os.geteuid() == 0
    if tool == "nobody":
        return any(user.pw_name == "nobody" for user in pwd.getpwall())
    if tool in TRIALS:
        return all(map(shutil.which, TRIALS[tool][:1])) and _works(TRIALS[tool])
    beside_python = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return shutil.which(tool, path=beside_python) is not None


def _works(command: tuple[str, ...]) -> bool:
    return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0


def pytest_configure(config: pytest.Config) -> None:
    """Draw the run's seed once; test workers, started later, inherit it."""
    os.environ.setdefault(SEED_VARIABLE, str(random.randrange(2**32)))
    config.pluginmanager.register(Reporter(), "fault ledger")


def pytest_report_header() -> str:
    return f"seed: {SEED_VARIABLE}={os.environ[SEED_VARIABLE]} replays this run's random choices"


@pytest.hookimpl(tryfirst=True)  # before `-m` is asked
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out long tests, unless `-m` says what to do with them; of a `matrix`, the black squares are long."""
    for item in items:
        if item.get_closest_marker("matrix") and sum(item.callspec.indices.values()) % 2:  # type: ignore[attr-defined]
            item.add_marker(pytest.mark.long)
    if re.search(r"\blong\b", config.option.markexpr):
        return
    left_out = [item for item in items if item.get_closest_marker("long")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("long")]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that needs what the machine lacks; in CI that is an error."""
    needed = [tool for marker in item.iter_markers("needs") for tool in marker.args]
    absent = [tool for tool in needed if not has(tool)]
    if absent:
        reason = f"needs {', '.join(absent)}, which this machine lacks or forbids"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{reason}: in CI no test is left out", pytrace=False)
        pytest.skip(reason)


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """This test's seed, other than its neighbours', the same in every run with the same KAFKALITE_SEED."""
    base = int(os.environ[SEED_VARIABLE])
    print(f"seed: replay with {SEED_VARIABLE}={base} python -m pytest '{request.node.nodeid}'")
    return base ^ zlib.crc32(request.node.nodeid.encode())


@pytest.fixture(params=["file", "directory", "memory"])
def layout(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """A target for `kafkalite.connect` at which there is no store yet, in each layout."""
    targets: dict[str, Path | str] = {
        "file": tmp_path / "store.klite",
        "directory": tmp_path / "store",
        "memory": ":memory:",
    }
    return targets[request.param]


OpenStore = Callable[..., kafkalite.Store]


@pytest.fixture
def open_store() -> Iterator[OpenStore]:
    """`kafkalite.connect`, whose stores are checked and closed when the test is over.

    A store that the test closed itself is opened once more for the check, unless it went with its closing
    (`:memory:`) or the test removed it.
    """
    opened: list[tuple[Path | str, kafkalite.Store]] = []

    def connect(target: Path | str, **settings: Any) -> kafkalite.Store:
        opened.append((target, kafkalite.connect(target, **settings)))
        return opened[-1][1]

    yield connect
    reports = [check_and_close(target, store) for target, store in reversed(opened)]
    assert [str(report) for report in reports if report is not None and not report.ok] == []


def check_and_close(target: Path | str, store: kafkalite.Store) -> kafkalite.Report | None:
    """What the check says; `None` if there is no store any more."""
    try:
        with store:
            return store.check()
    except kafkalite.ClosedError:
        pass
    if target == ":memory:" or not Path(target).exists():
        return None
    with kafkalite.connect(target, create=False) as again:
        return again.check()
