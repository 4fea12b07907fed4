"""The command line: `app` holds what all verbs share and the table of verbs; each verb or noun has its own module.

`options` and `output` are how verbs take arguments and print; `position` and `record_format` are what people write
for places and records.
"""

from kafkalite.cli.app import cli

__all__ = ["cli"]
