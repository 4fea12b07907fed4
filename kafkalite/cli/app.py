"""What all verbs of `kafkalite` share: the root command, how errors look, how the program ends.

Exit status: 0 done, 1 failed, 2 wrong usage (click's), 130 interrupted, 141 when the reader of the output has gone
(`kafkalite consume … | head`), as shells write SIGINT and SIGPIPE. An operating error (`KafkaliteError`,
`CommandFailedError` of a verb, the system's `OSError`) is one line on standard error, without a traceback: its message
already names the thing, the value and the fix. Anything else is a defect and keeps its traceback. Ctrl-C and a closed
pipe say nothing.

Verbs are a table of names and where they are (`LazyGroup`): a module is imported when its verb is used, so no verb
waits for the imports of another. rich leaves out colour and progress where the output is not a terminal, and honours
NO_COLOR.
"""

import contextlib
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NoReturn

import rich_click as click
from click.exceptions import Exit
from rich.console import Console
from rich.text import Text

from kafkalite import KafkaliteError, __version__

FAILED = 1
INTERRUPTED = 130
READER_GONE = 141


class CommandFailedError(Exception):
    """A verb ran and found failure; its message is all there is to say."""


class LazyGroup(click.RichGroup):
    """A group whose verbs are imported when they are asked for.

    `verbs` names them in the order of the help: verb -> "module:object". What is added by `add_command` stands among
    them.
    """

    def __init__(self, *args: Any, verbs: Mapping[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.verbs = dict(verbs or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs, sorted by name."""
        return sorted({*self.verbs, *super().list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A verb, imported now if it was not; `None` if there is none of this name."""
        if cmd_name in self.verbs and cmd_name not in self.commands:
            module, _, name = self.verbs[cmd_name].partition(":")
            self.add_command(getattr(import_module(module), name), cmd_name)
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The verb that the first argument names; a usage error with a did-you-mean when there is none."""
        verb = args[0]
        if not verb.startswith("-") and self.get_command(ctx, verb) is None and not ctx.resilient_parsing:
            names = self.list_commands(ctx)
            near = get_close_matches(verb, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names)}"
            ctx.fail(f"There is no verb {verb!r}; {hint}")
        return super().resolve_command(ctx, args)


class Commands(LazyGroup):
    """The root command: turns what its verbs raise into lines and exit statuses, once for all of them."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb, and hand on what it printed."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # so that a reader that has gone is noticed before the interpreter ends
        except BrokenPipeError:
            _let_go_of_output()
            ctx.exit(READER_GONE)
        except (KafkaliteError, CommandFailedError) as error:
            show_error(error)
            ctx.exit(FAILED)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        except OSError as error:  # the system's: a full disk under the output, a file that may not be read
            _let_go_of_output()
            show_error(error)
            ctx.exit(FAILED)
        return result


def _let_go_of_output() -> None:
    """Nothing more can be written: let the interpreter's last flush find nothing."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
            continue
        with contextlib.suppress(OSError):
            stream.close()


def fail() -> NoReturn:
    """End the verb with status 1, after what failed was told."""
    raise Exit(FAILED)


def examples(*commands: str) -> str:
    """An epilog for a verb's help: commands to copy, one a line."""
    return "\n\n".join(["Examples:", *(f"$ {command}" for command in commands)])


def show_error(error: Exception) -> None:
    """One line on standard error, whatever line breaks the message has."""
    line = " ".join(str(error).split()) or type(error).__name__
    Console(stderr=True, soft_wrap=True).print(Text.assemble(("kafkalite: ", "bold red"), line))


VERBS = {
    verb: f"kafkalite.cli.{verb}:{verb}"
    for verb in (
        "backup",
        "bench",
        "check",
        "completion",
        "consume",
        "copy",
        "demo",
        "group",
        "info",
        "log",
        "produce",
        "repair",
        "topic",
        "work",
    )
}
"""Every verb and noun: the object of its name in the module of its name."""


@click.group(
    cls=Commands,
    verbs=VERBS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples("kafkalite demo", "kafkalite info shop.klite", "kafkalite consume -s shop.klite orders -o -10"),
)
@click.version_option(__version__, message="kafkalite %(version)s")
def cli() -> None:
    """The SQLite of Kafka: topics in one file, for any number of processes.

    `kafkalite VERB --help` shows a verb's options and examples. The store is named by `--store` (or as the first
    argument of verbs that take nothing else), or once for all by KAFKALITE_STORE.
    """
