"""`kafkalite` and `python -m kafkalite`, with and without the extra `cli`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import kafkalite

HOME = Path(kafkalite.__file__).parent.parent


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(HOME)}
    return subprocess.run(
        [sys.executable, "-P", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=False,
    )


def without(module: str) -> subprocess.CompletedProcess[str]:
    """The program in an interpreter in which `module` cannot be imported."""
    return python("-c", f"import sys; sys.modules[{module!r}] = None; import kafkalite.__main__ as m; m.main()")


def test_module_runs_as_the_command_does() -> None:
    done = python("-m", "kafkalite", "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"kafkalite {kafkalite.__version__}\n", "")


@pytest.mark.parametrize("package", ["click", "rich_click", "rich"])
def test_without_the_extra_it_says_how_to_install_it_and_exits_2(package: str) -> None:
    done = without(package)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == f"kafkalite: the command line needs {package}; install it with pip install 'kafkalite[cli]'\n"


def test_another_missing_module_is_a_defect_and_keeps_its_traceback() -> None:
    done = without("kafkalite.cli.demo")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "kafkalite.cli.demo" in done.stderr


def test_library_alone_imports_neither_click_nor_rich() -> None:
    done = python("-c", "import sys, kafkalite; print(sorted({'click', 'rich_click', 'rich'} & set(sys.modules)))")
    assert done.stdout == "[]\n"
