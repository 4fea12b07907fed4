"""Golden scripts: what is a command, what is compared, what a rewrite keeps."""

from pathlib import Path

import pytest

from kafkalite.errors import OffsetConflictError
from kafkalite.testing.golden import Command, GoldenMismatchError, GoldenSyntaxError, compare, run

SCRIPT = """\
# Says back what it hears.

echo one two key='a b' empty=
| first input
|
| # not a comment
  name: echo
  words: one two
  options: {'key': 'a b', 'empty': ''}

  input: 'first input\\n\\n# not a comment'

# Says nothing.
silent


echo
  name: echo
  words:
  options: {}

  input: ''
"""


def echo(command: Command) -> str:
    if command.name == "silent":
        return ""
    said = f"name: {command.name}\nwords: {' '.join(command.words)}\noptions: {command.options}\n\n"
    return f"{said}input: {command.input!r}\n\n"


@pytest.fixture(autouse=True)
def _compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REWRITE", raising=False)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "echo.script"
    path.write_text(SCRIPT)
    return path


def test_a_script_that_says_what_is_passes(script: Path) -> None:
    run(script, echo)


def test_every_line_of_a_script_is_compared(script: Path) -> None:
    for number, line in enumerate(SCRIPT.splitlines()):
        if line.startswith("  "):
            lines = SCRIPT.splitlines()
            lines[number] += "!"
            script.write_text("\n".join(lines) + "\n")
            with pytest.raises(GoldenMismatchError, match=r"REWRITE=1(.|\n)*-  .*!"):
                run(script, echo)


def test_a_missing_answer_is_a_mismatch(script: Path) -> None:
    script.write_text("echo\n")
    with pytest.raises(GoldenMismatchError, match=r"\+  name: echo"):
        run(script, echo)


def test_a_rewrite_changes_answers_only(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script.write_text(SCRIPT.replace("  name: echo", "  something old\n\n  and more").replace("  options: {}\n", ""))
    monkeypatch.setenv("REWRITE", "1")
    run(script, echo)
    assert script.read_text() == SCRIPT


def test_errors_of_the_store_are_answers(tmp_path: Path) -> None:
    path = tmp_path / "conflict.script"
    path.write_text("append\n  OffsetConflictError: expected 3, the end is 4\n")

    def conflict(command: Command) -> str:
        raise OffsetConflictError("expected 3, the end is 4")

    run(path, conflict)


def test_defects_are_not_answers(script: Path) -> None:
    def defect(command: Command) -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(script, defect)


@pytest.mark.parametrize("line", ["  an answer", "| an input"])
def test_an_answer_without_a_command_names_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "lost.script"
    path.write_text(f"# comment\n\n{line}\n")
    with pytest.raises(GoldenSyntaxError, match=r"lost\.script:3: "):
        run(path, echo)


def test_a_command_knows_its_line(script: Path) -> None:
    seen = []

    def note(command: Command) -> str:
        seen.append(command.line)
        return echo(command)

    run(script, note)
    assert [SCRIPT.splitlines()[line - 1].split()[0] for line in seen] == ["echo", "silent", "echo"]


def test_a_file_that_is_absent_is_written_by_a_rewrite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "names.txt"
    with pytest.raises(GoldenMismatchError):
        compare(path, "a\nb\n")
    monkeypatch.setenv("REWRITE", "1")
    compare(path, "a\nb\n")
    monkeypatch.delenv("REWRITE")
    compare(path, "a\nb\n")
