"""The ledger: how many faults the tests injected, and what came of them.

    LEDGER.fault("append", 3, "EIO")    one fault; the same (operation, step, kind) of a class counts once
    LEDGER.acknowledged(n)              records that a store acknowledged and that were looked for afterwards
    LEDGER.lost(n)                      of those, records that were not there
    LEDGER.torn(n)                      commits of which a part was seen
    LEDGER.wrong(n)                     answers other than the right one: values, offsets, a check that complains
    LEDGER.dead(n)                      processes that a fault killed and that should have gone on

The class of a fault is the test module's `FAULT_CLASS` ("F1", "F3", …), or the module's name without `test_`. Only the
process that runs the tests counts: what a child injects, its parent enters. `with LEDGER.apart() as mine:` keeps what
is counted in the block out of the run's totals, for canaries, whose breakages are meant to lose and to tear.

`Reporter` is the plugin: it adds up what the workers of pytest-xdist counted, prints the line `faults injected: …`, and
fails the run for a bad result, or, with CI=true, for too few faults in a whole run of this folder.
"""

import contextlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

FLOOR: Final = 10_000
"""Fewer distinct faults than this in a whole quick run mean that a part of the suite no longer does what it did."""

FOLDER: Final = Path(__file__).parent
RESULTS: Final = ("acknowledged", "lost", "torn", "wrong", "dead")
BAD_RESULTS: Final = RESULTS[1:]
OUTPUT: Final = "fault ledger"

Key = tuple[str, str, str, str]
"""Class, operation, step, kind."""


class Ledger:
    """Distinct faults and their results."""

    def __init__(self) -> None:
        self.faults: set[Key] = set()
        self.results: Counter[str] = Counter()
        self.fault_class = "other"

    def fault(self, operation: str, step: str | int, kind: str) -> None:
        """Count a fault that was injected, unless this one was."""
        self.faults.add((self.fault_class, operation, str(step), kind))

    def acknowledged(self, count: int) -> None:
        """Count acknowledged records that were looked for."""
        self.results["acknowledged"] += count

    def lost(self, count: int) -> None:
        """Count acknowledged records that are gone."""
        self.results["lost"] += count

    def torn(self, count: int) -> None:
        """Count commits that are there in part."""
        self.results["torn"] += count

    def wrong(self, count: int) -> None:
        """Count wrong answers."""
        self.results["wrong"] += count

    def dead(self, count: int) -> None:
        """Count processes that died of a fault."""
        self.results["dead"] += count

    @contextlib.contextmanager
    def apart(self) -> Iterator["Ledger"]:
        """Within the block all that is counted goes into the ledger given, and nowhere else."""
        mine = Ledger()
        mine.fault_class = self.fault_class
        kept = self.faults, self.results
        self.faults, self.results = mine.faults, mine.results
        try:
            yield mine
        finally:
            self.faults, self.results = kept

    def add(self, written: str) -> None:
        """Add what another process counted, as its `dump` says."""
        other = json.loads(written)
        self.faults.update((kind, operation, step, how) for kind, operation, step, how in other["faults"])
        self.results.update(other["results"])

    def dump(self) -> str:
        """All of it as text."""
        return json.dumps({"faults": sorted(self.faults), "results": self.results})

    def __str__(self) -> str:
        classes = Counter(key[0] for key in self.faults)
        of_each = ", ".join(f"{name} {count}" for name, count in sorted(classes.items(), key=natural))
        results = ", ".join(
            f"{'records ' if name == 'acknowledged' else ''}{name}: {self.results[name]}" for name in RESULTS
        )
        return f"faults injected: {len(self.faults)} distinct ({of_each or 'none'}), {results}"

    def complaints(self, floor: int) -> list[str]:
        """What is wrong with these figures."""
        found = [f"{name}: {self.results[name]}, not 0" for name in BAD_RESULTS if self.results[name]]
        if len(self.faults) < floor:
            found.append(
                f"{len(self.faults)} distinct faults, where a whole run injects {floor} at least: find the class that "
                "shrank in the line above"
            )
        return found


def natural(item: tuple[str, int]) -> tuple[bool, int, str]:
    """F2 before F10, names behind numbers."""
    name = item[0]
    number = name.removeprefix("F")
    return (not number.isdecimal(), int(number) if number.isdecimal() else 0, name)


LEDGER: Final = Ledger()
"""The one of this process."""


class Reporter:
    """The plugin around a ledger; one in each worker, one in the process that started them."""

    def __init__(self, ledger: Ledger = LEDGER, folder: Path = FOLDER, floor: int = FLOOR) -> None:
        self._ledger = ledger
        self._folder = folder
        self._floor = floor
        self._is_picked = False
        self._is_whole = False
        self._complaints: list[str] = []

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """From here on faults are of this test's class."""
        module = getattr(item, "module", None)
        self._ledger.fault_class = getattr(module, "FAULT_CLASS", item.path.stem.removeprefix("test_"))

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """A run without a test of this folder, other than a long one, is no whole run."""
        if any(self._is_ours(item.path) and not item.get_closest_marker("long") for item in items):
            self._is_picked = True

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Whether every module of the folder takes part, with all its tests."""
        modules = set(self._folder.rglob("test_*.py"))
        present = {item.path for item in session.items}
        by_name = any("::" in str(argument) for argument in session.config.args)
        self._is_whole = bool(modules) and modules <= present and not by_name and not self._is_picked

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Hand the figures over, or judge them."""
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output[OUTPUT] = json.dumps({"is_whole": self._is_whole, "ledger": self._ledger.dump()})
            return
        if session.config.option.collectonly:
            return
        floor = self._floor if self._is_whole and os.environ.get("CI") == "true" else 0
        self._complaints = self._ledger.complaints(floor)
        if self._complaints and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Add what a worker counted; one that died sends nothing, and pytest-xdist reports it."""
        output = getattr(node, "workeroutput", {}).get(OUTPUT)
        if output is not None:
            counted = json.loads(output)
            self._is_whole |= counted["is_whole"]
            self._ledger.add(counted["ledger"])

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """The line, when there were faults, and what is wrong with it."""
        if self._ledger.faults or self._complaints:
            terminalreporter.write_line(str(self._ledger))
        for complaint in self._complaints:
            terminalreporter.write_line(f"fault ledger: {complaint}", red=True)

    def _is_ours(self, path: Path) -> bool:
        return path.is_relative_to(self._folder)
