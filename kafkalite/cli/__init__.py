"""The command line: `app` holds what all verbs share, every verb or noun has a module of its own."""

from kafkalite.cli.app import cli
from kafkalite.cli.demo import demo

cli.add_command(demo)

__all__ = ["cli"]
