"""What another process does to a store while a test looks on: here nobody was told."""

from pathlib import Path
from typing import Final

import kafkalite
from kafkalite.testing import procs

GROW: Final = """
import kafkalite, sys
with kafkalite.connect(sys.argv[1]) as store:
    store.topic(sys.argv[2]).alter(partitions=int(sys.argv[3]))
    for value in sys.argv[4:]:
        store.topic(sys.argv[2]).append(value.encode(), partition=int(sys.argv[3]) - 1)
"""


def target(path: Path) -> str:
    """A store's path as `connect` takes it."""
    return str(path) if path.suffix else f"{path}/"


def grow(store: kafkalite.Store, name: str, partitions: int, *values: str) -> None:
    """Give a topic more partitions, and append values to the last of them."""
    with procs.python(GROW, target(store.path), name, partitions, *values) as child:
        child.succeed()
