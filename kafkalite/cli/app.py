"""What all verbs of `kafkalite` share: the root command, how errors look, how the program ends.

Exit status: 0 done, 1 failed, 2 wrong usage (click's), 130 interrupted. An operating error (`KafkaliteError`,
or `CommandFailedError` of a verb) is one line on standard error, without a traceback: its message already
names the thing, the value and the fix. Anything else is a defect and keeps its traceback. Ctrl-C says
nothing.

rich leaves out colour and progress where the output is not a terminal, and honours NO_COLOR.
"""

from typing import Any

import rich_click as click
from rich.console import Console
from rich.text import Text

from kafkalite import KafkaliteError, __version__

FAILED = 1
INTERRUPTED = 130


class CommandFailedError(Exception):
    """A verb ran and found failure; its message is all there is to say."""


class Commands(click.RichGroup):
    """The root command: turns what its verbs raise into lines and exit statuses, once for all of them."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb."""
        try:
            return super().invoke(ctx)
        except (KafkaliteError, CommandFailedError) as error:
            show_error(error)
            ctx.exit(FAILED)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)


def examples(*commands: str) -> str:
    """An epilog for a verb's help: commands to copy, one a line."""
    return "\n\n".join(["Examples:", *(f"$ {command}" for command in commands)])


def show_error(error: Exception) -> None:
    """One line on standard error, whatever line breaks the message has."""
    line = " ".join(str(error).split()) or type(error).__name__
    Console(stderr=True, soft_wrap=True).print(Text.assemble(("kafkalite: ", "bold red"), line))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="kafkalite %(version)s")
def cli() -> None:
    """The SQLite of Kafka: topics in one file, for any number of processes.

    `kafkalite VERB --help` shows a verb's options and examples.
    """
