"""What all verbs share: errors as lines, exit statuses, help."""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import rich_click as click
from click.testing import CliRunner, Result

import kafkalite
from kafkalite.cli import cli
from kafkalite.cli.app import VERBS, CommandFailedError, Commands, examples, fail


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
def test_help_lists_every_verb_with_its_sentence(flag: str) -> None:
    result = CliRunner().invoke(cli, [flag])
    assert result.exit_code == 0
    listed = [line.strip("│ ").split(maxsplit=1) for line in result.output.splitlines()]
    words = {line[0]: line[1] for line in listed if len(line) > 1}
    assert set(VERBS) <= set(words)
    assert all(words[verb][0].isupper() for verb in VERBS)


def verbs(group: click.Group, *names: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every verb below a group, with the words that name it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*names, name), command
        if isinstance(command, click.Group):
            yield from verbs(command, *names, name)


ALL = dict(verbs(cli))


@pytest.mark.parametrize("names", ALL, ids=" ".join)
def test_every_verb_has_help_with_examples(names: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli, [*names, "--help"])
    assert result.exit_code == 0
    assert f"kafkalite {names[0]}" in result.output.partition("Examples:")[2]


@pytest.mark.parametrize("names", ALL, ids=" ".join)
def test_every_option_says_what_it_is_for(names: tuple[str, ...]) -> None:
    options = [each for each in ALL[names].params if isinstance(each, click.Option)]
    assert [option.name for option in options if not option.help] == []


@pytest.mark.parametrize("names", ALL, ids=" ".join)
def test_examples_are_commands_that_exist_with_their_options(names: tuple[str, ...]) -> None:
    """The first words of an example are a verb, and its options are that verb's."""
    for line in (ALL[names].epilog or "").splitlines():
        for part in line.removeprefix("$ ").split(" | "):
            words = shlex.split(part, comments=True)
            if words[:1] != ["kafkalite"]:
                continue
            verb = max((each for each in ALL if tuple(words[1 : len(each) + 1]) == each), key=len)
            known = {flag for option in ALL[verb].params for flag in option.opts}
            given = {word.partition("=")[0] for word in words if re.fullmatch(r"-[a-zA-Z]|--[a-z-]+(=.*)?", word)}
            assert given <= known


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("consme",), "did you mean 'consume'?"),
        (("topic", "lst"), "did you mean 'list'?"),
        (("xyzzy",), "there are: backup, bench, "),
        (("consume", "--ofset", "1"), "--offset"),
    ],
)
def test_unknown_verb_or_option_is_status_2_with_a_did_you_mean(arguments: tuple[str, ...], hint: str) -> None:
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert hint in " ".join(result.stderr.replace("│", " ").split())


def test_verb_is_imported_when_it_is_used() -> None:
    program = (
        "import sys; from kafkalite.cli import cli; cli(['completion', 'bash'], standalone_mode=False);"
        "print(sorted(name for name in sys.modules if name.startswith('kafkalite.cli.')), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == "['kafkalite.cli.app', 'kafkalite.cli.completion']\n"


def test_reader_that_has_gone_is_status_141_without_a_word() -> None:
    result = run(raising(BrokenPipeError(32, "Broken pipe")))
    assert (result.exit_code, result.stderr) == (141, "")


def test_failures_that_were_told_are_status_1_without_a_word() -> None:
    result = run(fail)
    assert (result.exit_code, result.output) == (1, "")
