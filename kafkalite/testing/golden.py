"""Golden scripts: commands, and what the system answered, in a text file that is reviewed as a diff.

    # A topic remembers its partitions.
    topic orders partitions=2
      created

    append orders key=alice
    | 42
      orders-1@0

A line at the margin is a command, split as a shell does: its name, words, and options `name=value`. Lines that begin
with `| ` below it are its input, indented ones the answer. Comments and blank lines stay where they are; blank lines
and spaces at the end of an answer do not count, since editors remove them.

A test gives `run` a function from command to answer. With REWRITE=1 in the environment the file is written instead
of compared: then read its diff as carefully as code. `compare` does the same for a file without commands.
"""

import os
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from difflib import unified_diff
from pathlib import Path
from typing import Final

from kafkalite.errors import KafkaliteError

INDENT: Final = "  "
INPUT_MARK: Final = "|"
COMMENT_MARK: Final = "#"


class GoldenMismatchError(AssertionError):
    """The system no longer says what the golden file says; the message is the difference."""


class GoldenSyntaxError(ValueError):
    """A line of a golden script is in no place where one of its kind can stand."""


@dataclass(frozen=True)
class Command:
    """One command of a script: `name word … option=value …`, its input lines joined, where it stands."""

    name: str
    words: tuple[str, ...] = ()
    options: dict[str, str] = field(default_factory=dict)
    input: str = ""
    line: int = 0


def run(path: Path, step: Callable[[Command], str]) -> None:
    """Run the script at `path` through `step` and compare, or rewrite, its answers.

    A `KafkaliteError` that `step` raises is an answer, `OffsetConflictError: …`; any other error of a step is not
    caught. Raises `GoldenMismatchError` with the whole difference, `GoldenSyntaxError` with the line.
    """
    script = path.read_text(encoding="utf-8")
    compare(path, "".join(_played(script, step, path.name)))


def compare(path: Path, text: str) -> None:
    """Compare `text` with the file, or with REWRITE=1 write it. Raises `GoldenMismatchError`."""
    if os.environ.get("REWRITE") == "1":
        path.write_text(text, encoding="utf-8")
        return
    golden = path.read_text(encoding="utf-8") if path.exists() else ""
    if text != golden:
        lines = unified_diff(golden.splitlines(), text.splitlines(), f"{path.name} (golden)", "now", lineterm="")
        raise GoldenMismatchError(
            "\n".join([f"{path} differs; if it should, run again with REWRITE=1 and read its diff", *lines])
        )


def _played(script: str, step: Callable[[Command], str], name: str) -> Iterator[str]:
    """The script with the answers of now."""
    for block in _blocks(script, name):
        yield from block.kept
        if block.command is not None:
            yield from _indented(_answer(step, block.command))
            yield "\n" * block.blank_count


@dataclass(slots=True)
class _Block:
    """Lines kept as they are (a command's own last), the command, and how many blank lines followed its answer."""

    kept: list[str]
    command: Command | None = None
    blank_count: int = 0


def _blocks(script: str, name: str) -> Iterator[_Block]:
    """Cut a script behind every answer."""
    lines = script.splitlines()
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        if not line.strip() or line.startswith(COMMENT_MARK):
            yield _Block([f"{line}\n"])
            continue
        if line.startswith((INDENT, INPUT_MARK)):
            raise GoldenSyntaxError(f"{name}:{number}: {line!r} follows no command: put it below one")
        end = _end_of(lines, number, lambda text: text.startswith(INPUT_MARK))
        given = lines[number:end]
        block = _Block([f"{text}\n" for text in (line, *given)], _parsed(line, given, number))
        number = _end_of(lines, end, lambda text: text.startswith(INDENT) or not text.strip())
        block.blank_count = _trailing_blanks(lines[end:number])
        yield block


def _parsed(line: str, given: list[str], number: int) -> Command:
    name, *arguments = shlex.split(line)
    words = tuple(argument for argument in arguments if "=" not in argument)
    options = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    text = "\n".join(one.removeprefix(INPUT_MARK).removeprefix(" ") for one in given)
    return Command(name, words, options, text, number)


def _answer(step: Callable[[Command], str], command: Command) -> str:
    try:
        return step(command)
    except KafkaliteError as error:
        return f"{type(error).__name__}: {error}"


def _indented(answer: str) -> Iterator[str]:
    for line in answer.rstrip().splitlines():
        yield f"{INDENT}{line}".rstrip() + "\n"


def _end_of(lines: list[str], start: int, belongs: Callable[[str], bool]) -> int:
    """The number of the first line from `start` on that does not belong."""
    return next((number for number in range(start, len(lines)) if not belongs(lines[number])), len(lines))


def _trailing_blanks(lines: list[str]) -> int:
    return next((count for count, line in enumerate(reversed(lines)) if line.strip()), len(lines))
