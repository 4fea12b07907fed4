"""Golden scripts of groups: `golden/*.txt`, rewritten with REWRITE=1; the language is `group_script`."""

from pathlib import Path

import pytest

from kafkalite.testing.golden import run
from tests.coordinator.group_script import GroupScript

SCRIPTS = sorted(Path(__file__).with_name("golden").glob("*.txt"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_golden(path: Path) -> None:
    run(path, GroupScript().step)


def test_no_script_was_lost() -> None:
    assert len(SCRIPTS) >= 13
