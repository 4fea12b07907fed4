"""Types: strict checkers accept a user's program, and reject in it what they should."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import kafkalite

PROGRAM = Path(__file__).parent / "typing" / "use.py"
ERRORS = {number for number, line in enumerate(PROGRAM.read_text().splitlines(), 1) if "# error" in line}
HOME = Path(kafkalite.__file__).parent.parent


def test_the_program_holds_errors_to_be_found() -> None:
    assert len(ERRORS) >= 9


def test_the_package_says_that_it_is_typed() -> None:
    assert Path(kafkalite.__file__).with_name("py.typed").exists()


def _mypy(program: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={cache}", str(program)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=HOME)


def test_mypy_strict_accepts_the_program_and_rejects_its_errors(tmp_path: Path) -> None:
    """Accepting it says both: an `ignore` that nothing needs is an error itself under --strict."""
    pytest.importorskip("mypy")
    done = _mypy(PROGRAM, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.needs("pyright")
def test_pyright_strict_accepts_the_program_and_rejects_its_errors(tmp_path: Path) -> None:
    program = tmp_path / "use.py"
    program.write_text(PROGRAM.read_text().replace("type: ignore", "checked"))
    settings = {"include": ["use.py"], "typeCheckingMode": "strict", "extraPaths": [str(HOME)], "pythonVersion": "3.11"}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson", "-p", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)["generalDiagnostics"]
    rejected = {entry["range"]["start"]["line"] + 1 for entry in found if entry["severity"] == "error"}
    assert rejected == ERRORS, json.dumps(found, indent=1)
