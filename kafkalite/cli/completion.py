"""`kafkalite completion`: the script that makes a shell complete verbs, options, and topics of the store."""

from typing import Final

import rich_click as click
from click.shell_completion import get_completion_class

from kafkalite.cli.app import examples

SHELLS: Final = ("bash", "zsh", "fish")
PROGRAM: Final = "kafkalite"
VARIABLE: Final = "_KAFKALITE_COMPLETE"


@click.command(
    epilog=examples(
        'eval "$(kafkalite completion bash)"   # in ~/.bashrc',
        'eval "$(kafkalite completion zsh)"    # in ~/.zshrc',
        "kafkalite completion fish > ~/.config/fish/completions/kafkalite.fish",
    )
)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    Topics complete from the store that --store or KAFKALITE_STORE names.
    """
    script = get_completion_class(shell)
    assert script is not None, "click knows these shells"
    root = ctx.find_root().command
    click.echo(script(root, {}, PROGRAM, VARIABLE).source())
