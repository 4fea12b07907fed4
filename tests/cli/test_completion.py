"""Completion: the scripts that shells load, and what the program answers them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import kafkalite
from kafkalite.cli.options import complete_topic

from .conftest import Run

HOME = Path(kafkalite.__file__).parent.parent


@pytest.mark.parametrize(
    ("shell", "expected"),
    [
        ("bash", "complete -o nosort"),
        ("zsh", "#compdef kafkalite"),
        ("fish", "complete --no-files --command kafkalite"),
    ],
)
def test_script_of_each_shell(run: Run, shell: str, expected: str) -> None:
    result = run("completion", shell)
    assert result.exit_code == 0
    assert expected in result.stdout
    assert "_KAFKALITE_COMPLETE" in result.stdout


def test_bash_completes_with_the_script(run: Run, tmp_path: Path, orders: Path) -> None:
    program = tmp_path / "bin" / "kafkalite"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nimport sys\nfrom kafkalite.__main__ import main\nmain()\n")
    program.chmod(0o755)
    script = run("completion", "bash").stdout + (
        f"COMP_WORDS=(kafkalite consume -s {orders} o)\nCOMP_CWORD=4\n"
        '_kafkalite_completion kafkalite\necho "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        ["bash"], input=script, capture_output=True, text=True, timeout=60, check=False,
        env={"PYTHONPATH": str(HOME), "PATH": f"{program.parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "orders\n", "")


def test_unknown_shell_is_wrong_usage(run: Run) -> None:
    assert run("completion", "tcsh").exit_code == 2


def completed(words: str, **environment: str) -> list[str]:
    """What the program answers bash for a command line whose last word is being typed."""
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            "-c",
            "import sys; sys.argv[0] = 'kafkalite'; from kafkalite.__main__ import main; main()",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={
            "PYTHONPATH": str(HOME),
            "_KAFKALITE_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split(" ")) - 1),
            **environment,
        },
    )
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_verbs_options_and_topics_complete(orders: Path) -> None:
    assert completed("kafkalite con") == ["consume"]
    assert completed("kafkalite topic de") == ["delete", "describe"]
    assert "--partition" in completed("kafkalite consume --pa")
    assert completed(f"kafkalite consume -s {orders} o") == ["orders"]
    assert completed("kafkalite topic describe o", KAFKALITE_STORE=str(orders)) == ["orders"]


def test_topics_of_no_store_are_none(tmp_path: Path) -> None:
    assert completed(f"kafkalite consume -s {tmp_path}/absent.klite o") == []
    assert list(tmp_path.iterdir()) == []


def test_topic_completion_without_a_store_named() -> None:
    class Context:
        params: dict[str, object] = {}  # noqa: RUF012

    assert complete_topic(Context(), None, "") == []  # type: ignore[arg-type]
