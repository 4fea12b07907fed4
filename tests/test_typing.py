"""Types: strict checkers accept a user's programs, for each face, and reject in them what they should."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import kafkalite

PROGRAMS = [Path(__file__).parent / "typing" / name for name in ("use.py", "use_aio.py")]
HOME = Path(kafkalite.__file__).parent.parent


def _errors(program: Path) -> set[int]:
    """The lines that hold errors to be found."""
    return {number for number, line in enumerate(program.read_text().splitlines(), 1) if "# error" in line}


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.stem)
def test_the_program_holds_errors_to_be_found(program: Path) -> None:
    assert len(_errors(program)) >= 9


def test_the_package_says_that_it_is_typed() -> None:
    assert Path(kafkalite.__file__).with_name("py.typed").exists()


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.stem)
def test_mypy_strict_accepts_the_program_and_rejects_its_errors(program: Path, tmp_path: Path) -> None:
    """Accepting it says both: an `ignore` that nothing needs is an error itself under --strict."""
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={tmp_path}", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=HOME)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.needs("pyright")
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.stem)
def test_pyright_strict_accepts_the_program_and_rejects_its_errors(program: Path, tmp_path: Path) -> None:
    (tmp_path / "use.py").write_text(program.read_text().replace("type: ignore", "checked"))
    settings = {"include": ["use.py"], "typeCheckingMode": "strict", "extraPaths": [str(HOME)], "pythonVersion": "3.11"}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson", "-p", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)["generalDiagnostics"]
    rejected = {entry["range"]["start"]["line"] + 1 for entry in found if entry["severity"] == "error"}
    assert rejected == _errors(program), json.dumps(found, indent=1)
