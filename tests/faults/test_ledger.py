"""The ledger itself: what counts as one fault, what is printed, and which runs it fails."""

import re
from pathlib import Path

import pytest

from tests.faults.ledger import LEDGER, Ledger

pytest_plugins = ["pytester"]

CONFTEST = """
from pathlib import Path
from tests.faults.ledger import LEDGER, Reporter

def pytest_configure(config):
    LEDGER.faults.clear()
    LEDGER.results.clear()
    config.pluginmanager.register(Reporter(LEDGER, Path(__file__).parent / "faults", floor=3))
"""

STEPS = """
import pytest
from tests.faults.ledger import LEDGER

FAULT_CLASS = "F1"

@pytest.mark.parametrize("step", [1, 2])
def test_step(step):
    LEDGER.fault("append", step, "crash")
    LEDGER.acknowledged(10)
"""

ERRORS = """
import pytest
from tests.faults.ledger import LEDGER

def test_error():
    LEDGER.fault("append", 1, "EIO")

@pytest.mark.long
def test_long():
    LEDGER.fault("append", 2, "EIO")
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Another suite with two modules of faults, and a floor of three."""
    monkeypatch.setenv("CI", "true")
    pytester.makeini("[pytest]\nmarkers = long: takes minutes\naddopts = --import-mode=importlib")
    pytester.makeconftest(CONFTEST)
    folder = pytester.mkdir("faults")
    (folder / "test_steps.py").write_text(STEPS)
    (folder / "test_errors.py").write_text(ERRORS)
    return pytester


def run(suite: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """Run it without letting its figures into ours, which stand in the same ledger while it runs in this process."""
    with LEDGER.apart():
        return suite.runpytest_inprocess("-p", "no:cacheprovider", *arguments)


def test_a_fault_counts_once_for_each_operation_step_and_kind() -> None:
    ledger = Ledger()
    for operation, step, kind in [("append", 1, "EIO"), ("append", "1", "EIO"), ("roll", 1, "EIO"), ("append", 1, "X")]:
        ledger.fault(operation, step, kind)
    assert len(ledger.faults) == 3


def test_the_line_names_classes_in_order_and_every_result() -> None:
    ledger = Ledger()
    for name in ("F10", "F2", "disk"):
        ledger.fault_class = name
        ledger.fault("append", 1, "EIO")
    ledger.acknowledged(7)
    assert str(ledger) == (
        "faults injected: 3 distinct (F2 1, F10 1, disk 1), records acknowledged: 7, "
        "lost: 0, torn: 0, wrong: 0, dead: 0"
    )


def test_what_is_counted_apart_stays_apart() -> None:
    ledger = Ledger()
    with ledger.apart() as mine:
        ledger.fault("append", 1, "EIO")
        ledger.lost(2)
    assert (len(mine.faults), mine.results["lost"]) == (1, 2)
    assert (len(ledger.faults), ledger.results["lost"]) == (0, 0)


def test_the_same_fault_of_two_workers_counts_once() -> None:
    first, second = Ledger(), Ledger()
    for ledger in (first, second):
        ledger.fault("append", 1, "EIO")
        ledger.acknowledged(1)
    first.add(second.dump())
    assert (len(first.faults), first.results["acknowledged"]) == (1, 2)


def test_a_whole_run_prints_the_line_and_passes_at_the_floor(suite: pytest.Pytester) -> None:
    result = run(suite)
    assert re.search(r"faults injected: 4 distinct \(F1 2, errors 2\), records acknowledged: 20", result.stdout.str())
    assert result.ret == 0


def test_a_whole_run_below_the_floor_fails_in_ci_and_only_there(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = suite.path / "faults" / "test_steps.py"
    module.write_text(STEPS.replace("[1, 2]", "[1]"))
    long = ("-m", "not long")
    result = run(suite, *long)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "2 distinct faults, where a whole run injects 3 at least" in result.stdout.str()
    monkeypatch.delenv("CI")
    assert run(suite, *long).ret == 0


@pytest.mark.parametrize(
    "selection",
    [
        ("faults/test_steps.py",),
        ("faults/test_steps.py::test_step", "faults/test_errors.py"),
        ("-k", "step"),
        ("-m", "long"),
        ("--deselect", "faults/test_errors.py::test_error"),
        ("--ignore", "faults/test_errors.py"),
        ("--collect-only",),
    ],
    ids=" ".join,
)
def test_a_selection_is_held_to_no_floor(suite: pytest.Pytester, selection: tuple[str, ...]) -> None:
    (suite.path / "conftest.py").write_text(CONFTEST.replace("floor=3", "floor=1000"))
    assert run(suite, *selection).ret == 0


@pytest.mark.parametrize("result", ["lost", "torn", "wrong", "dead"])
def test_a_bad_result_fails_any_run(suite: pytest.Pytester, result: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI")
    (suite.path / "faults" / "test_steps.py").write_text(STEPS.replace("acknowledged(10)", f"{result}(1)"))
    found = run(suite, "faults/test_steps.py")
    assert found.ret == pytest.ExitCode.TESTS_FAILED
    assert f"fault ledger: {result}: 2, not 0" in found.stdout.str()


def test_workers_are_added_up(suite: pytest.Pytester) -> None:
    result = suite.runpytest_subprocess("-p", "no:cacheprovider", "-n", "2")
    assert "4 distinct (F1 2, errors 2), records acknowledged: 20" in result.stdout.str()
    assert result.ret == 0
    (suite.path / "conftest.py").write_text(CONFTEST.replace("floor=3", "floor=1000"))
    assert suite.runpytest_subprocess("-p", "no:cacheprovider", "-n", "2").ret == pytest.ExitCode.TESTS_FAILED


def test_the_floor_is_the_projects() -> None:
    from tests.faults import ledger

    assert ledger.FLOOR >= 10_000
    assert Path(__file__).parent == ledger.FOLDER
