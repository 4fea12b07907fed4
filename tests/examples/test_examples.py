"""Every example runs as a newcomer runs it: from anywhere, with nothing but kafkalite, leaving nothing
behind."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import kafkalite

HOME = Path(kafkalite.__file__).parent.parent
EXAMPLES = Path(__file__).parents[2] / "examples"

EXPECTED = {
    "asyncio_events": [
        r"^requests answered: 200\neach of 10 watchers saw: \{200\}\nworked off: True\n",
        r"bills sent: 200 each once: True\ncheck: clean\n$",
    ],
    "confluent_compat": [
        (
            r"^delivered to orders \[0\] @ 0\n(.*\n){2}consumed order 0 of alice\nconsumed order 1 of alice\n"
            r"consumed order 2 of alice\n$"
        )
    ],
    "backup": [
        r"^a backup: monday.klite of \d+ segment\(s\)\na second one to the same place: refused\n",
        r"restored, with all that was there: True\ncheck: clean\ncopied: \[\('notes', 1\)\]\n$",
    ],
    "exactly_once": [r"^workers killed: 3\npayments booked: 40 more than once: 0\ncheck: clean\n$"],
    "quick_start": [
        r"order 1 is record 0 of partition [012]",
        r"alice ordered 1 for 42\.0\n(.*\n)*?alice ordered 3 for 12\.0",
        r"bob ordered 2 for 7\.5",
        r"total: 61\.5",
    ],
    "event_store": [
        r"withdrawing 80: done",
        r"withdrawing 80: the end is 3, not 2; again\n(.*\n)*?withdrawing 80: refused, the balance is 20",
        r"0: Deposited\(amount=60\)\n1: Deposited\(amount=40\)\n2: Withdrawn\(amount=80\)\nbalance: 20\n$",
    ],
    "replay": [
        r"everything: 48",
        r"from offset 40: 8",
        r"from a time: 24 starting at offset 24",
        r"between two times: 10",
        r"the last six hours: [67]\n",
        r"the last three: \[\d+\.\d+, \d+\.\d+, \d+\.\d+\]",
    ],
    "tail_f": [r"line 0, from before  \(\d+ ms .*\n" + "".join(rf"line {n}  .*\n" for n in range(1, 6)) + "bye  "],
    "work_queue": [
        r"^killed: 1\njobs done: 59 without the broken one: True\n",
        r"given up: job 13 after 3 deliveries\ncheck: clean\n$",
    ],
    "worker_pool": [
        r"^resized: 38 without the two: True\n",
        r"given up: picture 7, which failed 2 times, at last with ValueError: not a picture\n",
        r"given up: picture 13, which killed its worker 3 times\ncheck: clean\n$",
    ],
    "several_processes": [
        r"(a reader got 6000 records, .*: \{'writer 0': 2000, 'writer 1': 2000, 'writer 2': 2000\}\n){2}",
        r"records in the topic: 6000\ncheck: clean",
    ],
}


def run(name: str, directory: Path) -> subprocess.CompletedProcess[str]:
    (directory / "temporary").mkdir()
    return subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py"],
        capture_output=True,
        text=True,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(HOME), "TMPDIR": str(directory / "temporary")},
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("name", EXPECTED)
def test_example_prints_what_it_shows_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    done = run(name, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for pattern in EXPECTED[name]:
        assert re.search(pattern, done.stdout), f"{pattern!r} is not in:\n{done.stdout}"
    assert [path.name for path in tmp_path.rglob("*")] == ["temporary"]


def test_every_example_is_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_example_imports_only_the_public_face(name: str) -> None:
    imported = re.findall(r"^\s*(?:from|import) (kafkalite[\w.]*)", (EXAMPLES / f"{name}.py").read_text(), re.MULTILINE)
    assert {one for one in imported if not one.startswith("kafkalite.compat")} <= {"kafkalite", "kafkalite.aio"}
    assert imported
