"""What all verbs share: errors as lines, exit statuses, help."""

from collections.abc import Callable

import pytest
import rich_click as click
from click.testing import CliRunner, Result

import kafkalite
from kafkalite.cli import cli
from kafkalite.cli.app import CommandFailedError, Commands, examples


def run(fail: Callable[[], object], *arguments: str) -> Result:
    """Run a root command with one nested verb that does `fail`."""

    @click.group(cls=Commands)
    def root() -> None:
        """Root."""

    @root.group()
    def noun() -> None:
        """Noun."""

    @noun.command(epilog=examples("kafkalite noun verb", "kafkalite noun verb --loud"))
    def verb() -> None:
        """Verb."""
        fail()

    return CliRunner().invoke(root, arguments or ("noun", "verb"))


def raising(error: BaseException) -> Callable[[], object]:
    def fail() -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            kafkalite.StoreNotFoundError("no store at /nowhere; check the path"),
            "no store at /nowhere; check the path",
        ),
        (kafkalite.KafkaliteError("two\n  lines"), "two lines"),
        (kafkalite.ClosedError(), "ClosedError"),
        (CommandFailedError("3 of 4 segments are damaged"), "3 of 4 segments are damaged"),
        (kafkalite.ConfigError("[red] is no markup"), "[red] is no markup"),
        (kafkalite.ConfigError("long " * 60 + "end"), "long " * 60 + "end"),
    ],
)
def test_operating_error_is_one_line_and_status_1(error: Exception, line: str) -> None:
    result = run(raising(error))
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == f"kafkalite: {line}\n"


def test_ctrl_c_is_status_130_without_a_word() -> None:
    result = run(raising(KeyboardInterrupt()))
    assert (result.exit_code, result.output) == (130, "")


def test_defect_keeps_its_exception() -> None:
    result = run(raising(ZeroDivisionError()))
    assert isinstance(result.exception, ZeroDivisionError)


def test_usage_error_is_status_2() -> None:
    assert run(lambda: None, "noun", "verp").exit_code == 2
    assert CliRunner().invoke(cli, ["demo", "--partitions", "0"]).exit_code == 2


def test_done_is_status_0() -> None:
    assert run(lambda: None).exit_code == 0


def test_examples_stand_on_lines_of_their_own() -> None:
    lines = [line.strip() for line in run(lambda: None, "noun", "verb", "--help").output.splitlines()]
    start = lines.index("Examples:")
    assert lines[start + 1 : start + 3] == ["$ kafkalite noun verb", "$ kafkalite noun verb --loud"]


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_the_verbs(flag: str) -> None:
    result = CliRunner().invoke(cli, [flag])
    assert result.exit_code == 0
    assert "demo" in result.output


def test_every_verb_has_help_with_examples() -> None:
    for name in cli.commands:
        output = CliRunner().invoke(cli, [name, "--help"]).output
        assert f"$ kafkalite {name}" in output
