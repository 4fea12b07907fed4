"""Types: a strict checker accepts a user's asynchronous program, and rejects in it what it should."""

import subprocess
import sys
from pathlib import Path

import pytest

import kafkalite

PROGRAM = Path(__file__).parents[1] / "typing" / "use_aio.py"


def test_mypy_strict_accepts_the_program_and_rejects_its_errors(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    assert PROGRAM.read_text().count("# error") == 5
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={tmp_path}", str(PROGRAM)]
    home = Path(kafkalite.__file__).parents[1]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=home)
    assert done.returncode == 0, done.stdout + done.stderr
