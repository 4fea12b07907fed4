"""The log named `kafkalite`. Nobody but the user configures it, and until he does it is silent."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging


def log() -> "logging.Logger":
    """The log; made when there is something to say, since importing `logging` takes a fifth of the import."""
    import logging  # noqa: PLC0415  (as said)

    found = logging.getLogger("kafkalite")
    if not found.handlers:
        found.addHandler(logging.NullHandler())
    return found
