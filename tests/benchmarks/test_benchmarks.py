"""The benchmarks run, and their arithmetic is right; no figure is asserted."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import kafkalite
from tests.benchmarks import flush, report
from tests.benchmarks.__main__ import FAMILIES, main
from tests.benchmarks.measure import QUICK, WARM_UP_STEPS, Outcome, Row, Subject, latencies, run
from tests.benchmarks.peers import Prototypes

NAMES = [subject.name for family in FAMILIES for subject in family.subjects(None)]
PROJECT = Path(__file__).parents[2]


@pytest.fixture
def checked_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every store that the benchmarks open is whole when they close it."""
    close = kafkalite.Store.close

    def check_and_close(store: kafkalite.Store) -> None:
        assert store.check().ok
        close(store)

    monkeypatch.setattr(kafkalite.Store, "close", check_and_close)


@pytest.mark.usefixtures("checked_stores")
@pytest.mark.parametrize("name", NAMES)
def test_every_subject_measures_kafkalite(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("KAFKALITE_PROTOTYPES", raising=False)
    assert main(["--quick", "--json", "--only", name, "--directory", str(tmp_path)]) == 0
    subject = json.loads(capsys.readouterr().out)["subjects"][name]
    assert subject["rows"]
    assert all("kafkalite" in row["contestants"] for row in subject["rows"].values())
    assert not list(tmp_path.iterdir())


def test_the_command_prints_a_table() -> None:
    command = [sys.executable, "-m", "tests.benchmarks", "--quick", "--only", "commit"]
    environment = {name: value for name, value in os.environ.items() if name != "KAFKALITE_PROTOTYPES"}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=True)
    assert "SQLite" in done.stdout
    assert "one record, mean [µs]" in done.stdout


def test_an_unknown_subject_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "comit"]) == 2
    assert "comit" in (error := capsys.readouterr().err)
    assert "commit" in error


def test_a_directory_without_prototypes_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "commit", "--prototypes", str(tmp_path)]) == 2
    assert "j.py" in capsys.readouterr().err


def test_only_the_definitions_of_a_prototype_that_measures_at_module_level_run(tmp_path: Path) -> None:
    (tmp_path / "j.py").write_text("class Store: pass\n")
    (tmp_path / "flush.py").write_text("def work(): pass\n")
    (tmp_path / "send.py").write_text("from j import Store\nclass Producer: pass\nraise SystemExit\n")
    prototypes = Prototypes(tmp_path)
    assert prototypes.send.Store is prototypes.journal.Store
    assert "j" not in sys.modules
    assert not (tmp_path / "__pycache__").exists()


class _Log(list[Any]):
    """A queue and a barrier that write down what is done to them."""

    def wait(self) -> None:
        self.append("barrier")

    def put(self, answer: object) -> None:
        self.append(answer)


def test_a_process_warms_up_before_the_common_window() -> None:
    log = _Log()
    flush._answer(lambda: log.append("step"), 0, log, log)
    assert log[:-1] == ["step"] * WARM_UP_STEPS + ["barrier", "step"]


def test_a_commit_that_ends_after_the_window_is_a_latency_but_no_commit() -> None:
    """A starved process commits once, seconds late: it must not add a window of its own to the others'."""
    log, window = _Log(), 0.01
    flush._answer(lambda: time.sleep(3 * window), window, log, log)
    commits, p50, p99 = log[-1]
    assert commits == 0
    assert p50 == p99 > window


def test_only_the_last_latency_ends_after_the_window() -> None:
    taken = latencies(lambda: None, 0.001)
    assert sum(taken[:-1]) < 0.001 <= sum(taken)


def _outcome(*rows: Row) -> Outcome:
    turns = {
        "kafkalite": lambda _, __: {row.name: 2.0 for row in rows},
        "prototypes": lambda _, __: {row.name: 4.0 for row in rows},
    }
    return run(Subject("s", "A title", rows, turns), QUICK)


def test_a_ratio_above_one_is_in_favour_of_kafkalite_for_rates_and_for_costs() -> None:
    rows = report.document([_outcome(Row("rate", "1/s"), Row("cost", "µs", is_cost=True))])["subjects"]["s"]["rows"]
    assert rows["rate"]["kafkalite_ratio"]["prototypes"]["median"] == 0.5
    assert rows["cost"]["kafkalite_ratio"]["prototypes"]["median"] == 2.0


def test_less_than_two_thirds_of_a_prototype_is_marked_but_not_for_a_condition() -> None:
    assert report.BELOW_FLOOR in report.plain(_outcome(Row("rate", "1/s")))
    assert report.BELOW_FLOOR not in report.plain(_outcome(Row("cost", "µs", is_cost=True)))
    assert report.BELOW_FLOOR not in report.plain(_outcome(Row("rate", "1/s", is_condition=True)))


def test_without_rich_the_same_table_is_plain(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("rich"):
        monkeypatch.setitem(sys.modules, "rich.console", None)
    outcome = _outcome(Row("rate", "1/s"))
    report.show(outcome)
    assert capsys.readouterr().out == report.plain(outcome)
