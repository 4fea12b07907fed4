"""Several processes read the same topic at the same moment.

Each is a process of its own (`reader`) with the whole topic to read. They are started first and given the word
together, so that none has the disk or the processor to itself. All must have read the same bytes.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from kafkalite.demo.child import Child


@dataclass(frozen=True, slots=True)
class Reading:
    """What one process read, and how long it took; `digests` are the SHA-256 of each partition's values."""

    pid: int
    count: int
    size: int
    seconds: float
    digests: tuple[str, ...]


def read_at_once(store: Path, topic: str, processes: int) -> list[Reading]:
    """Let so many processes read the topic of the store at once."""
    with ExitStack() as stack:
        readers = [stack.enter_context(Child("reader", store, topic)) for _ in range(processes)]
        for reader in readers:
            reader.await_line()
        for reader in readers:
            reader.say("go")
        return [_reading(reader) for reader in readers]


def _reading(reader: Child) -> Reading:
    answer = reader.answer()
    return Reading(
        pid=reader.process.pid,
        count=answer["count"],
        size=answer["size"],
        seconds=answer["seconds"],
        digests=tuple(answer["digests"]),
    )
