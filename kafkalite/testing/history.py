"""Histories: what several processes asked of a store and what they were told, noted outside the store.

Each process notes what it does in a file of its own, a line before it asks and a line once it is answered, each with
the time of the clock that all processes of the machine share:

    recorder = Recorder(path, client=7)
    number = recorder.writes(parts=3)                    three records, named (7, number, 0) to (7, number, 2)
    recorder.acknowledged(number, [("t/0", 12, 15)])     or .refused(number, actual), .unknown(number, why)
    number = recorder.looks()
    recorder.saw(number, {"t/0": (12, names)}, ends={"t/0": 15})

A process may be killed at any moment: a line without its answer is an operation that may have happened or not, a torn
last line was not written. `load` reads such a file; `serial.judge` says whether a serial store could have given all
these answers.
"""

import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Self

from kafkalite import clock

NEVER: Final = 2**63 - 1
"""When an operation ended that was not answered."""

Log = str
"""One partition, as `log_name` writes it."""
Name = tuple[int, int, int]
"""A record: client, number of the write, part of it."""
Run = tuple[int, Sequence[Name]]
"""Records seen one after another, from an offset on."""


# Records that say who wrote them


def log_name(topic: str, partition: int) -> Log:
    """A partition as one word."""
    return f"{topic}/{partition}"


def value_of(client: int, number: int, part: int, parts: int, size: int) -> bytes:
    """A value that names its record: `size` bytes, or as long as its own description."""
    head = b"%d %d %d %d " % (client, number, part, parts)
    return (head * (size // len(head) + 1))[: max(size, len(head))]


def name_of(value: bytes | None) -> Name:
    """Whose value this is; raises `ValueError` when it is none of `value_of`, or was altered."""
    try:
        client, number, part, parts = map(int, (value or b"").split(b" ", 4)[:4])
    except ValueError:
        raise ValueError(f"not a value of a history: {(value or b'')[:40]!r}") from None
    if value != value_of(client, number, part, parts, len(value or b"")):
        raise ValueError(f"an altered value: {(value or b'')[:40]!r}…")
    return client, number, part


# What is noted


@dataclass(slots=True)
class Write:
    """`parts` records that a client set out to append, as one commit when `is_atomic`, and what became of it.

    `ranges` are the (log, first offset, end offset) that it was given: exactly these places when atomic. A conditional
    one has the (log, end) that it `expected`; refused, `actual` is the end it was told of instead.
    """

    client: int
    number: int
    parts: int
    began: int
    ended: int = NEVER
    is_atomic: bool = True
    outcome: Literal["unknown", "acknowledged", "refused"] = "unknown"
    ranges: Sequence[tuple[Log, int, int]] = ()
    expected: tuple[Log, int] | None = None
    actual: int | None = None

    def names(self) -> list[Name]:
        """Its records."""
        return [(self.client, self.number, part) for part in range(self.parts)]

    def __str__(self) -> str:
        return f"write {self.number} of client {self.client}, {self.outcome}"


@dataclass(slots=True)
class Look:
    """What a client was shown: runs of records, and the ends of logs, all at one moment when there are several.

    A look of a `reader` with a name goes on where that reader's last one ended.
    """

    client: int
    number: int
    began: int
    ended: int
    seen: Mapping[Log, Run] = field(default_factory=dict)
    ends: Mapping[Log, int] = field(default_factory=dict)
    reader: str = ""

    def __str__(self) -> str:
        return f"look {self.number} of client {self.client}"


class Recorder:
    """Notes one client's history; safe to use from several threads. `path` is only appended to."""

    def __init__(self, path: Path, client: int) -> None:
        self.client = client
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._number = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.close()

    def writes(self, parts: int, *, is_atomic: bool = True, expected: tuple[Log, int] | None = None) -> int:
        """About to append so many records; returns the write's number."""
        return self._begin("write", parts=parts, is_atomic=is_atomic, expected=expected)

    def acknowledged(self, number: int, ranges: Sequence[tuple[Log, int, int]]) -> None:
        """They were appended, in these (log, first offset, end offset)."""
        self._end(number, outcome="acknowledged", ranges=ranges)

    def refused(self, number: int, actual: int) -> None:
        """They were not, since the log's end was another."""
        self._end(number, outcome="refused", actual=actual)

    def unknown(self, number: int, why: str) -> None:
        """Something went wrong, before or after."""
        self._end(number, outcome="unknown", why=why)

    def looks(self) -> int:
        """About to read; returns the look's number."""
        return self._begin("look")

    def saw(
        self, number: int, seen: Mapping[Log, Run], *, ends: Mapping[Log, int] | None = None, reader: str = ""
    ) -> None:
        """What was read, and where the logs end."""
        runs = {log: [start, " ".join(f"{a}.{b}.{c}" for a, b, c in names)] for log, (start, names) in seen.items()}
        self._end(number, seen=runs, ends=ends or {}, reader=reader)

    def note(self, what: str, **details: object) -> None:
        """Anything else, such as a fault; `load` gives it back."""
        self._write({"note": what, **details})

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)

    def _begin(self, what: str, **details: object) -> int:
        with self._lock:
            self._number += 1
            number = self._number
        self._write({"begin": what, "client": self.client, "number": number, "began": clock.boot_ns(), **details})
        return number

    def _end(self, number: int, **answer: object) -> None:
        self._write({"end": number, "ended": clock.boot_ns(), **answer})

    def _write(self, entry: Mapping[str, object]) -> None:
        line = json.dumps(entry).encode() + b"\n"
        written = os.write(self._fd, line)
        assert written == len(line), f"{written} of {len(line)} bytes were written: is the disk full?"


class Note(NamedTuple):
    """What a client noted besides its operations."""

    what: str
    details: Mapping[str, Any]


def load(path: Path) -> Iterator[Write | Look | Note]:
    """The operations of one client's file in the order of their answers, then the writes that were not answered."""
    under_way: dict[int, dict[str, Any]] = {}
    with path.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):  # killed in mid-sentence
                break
            entry = json.loads(line)
            if "begin" in entry:
                under_way[entry["number"]] = entry
            elif "end" in entry:
                yield _operation(under_way.pop(entry["end"]), entry)
            else:
                yield Note(entry.pop("note"), entry)
    yield from (_operation(begin, {}) for begin in under_way.values() if begin["begin"] == "write")


def _operation(begin: Mapping[str, Any], end: Mapping[str, Any]) -> Write | Look:
    if begin["begin"] == "look":
        seen = {log: (start, _names(names)) for log, (start, names) in end["seen"].items()}
        return Look(begin["client"], begin["number"], begin["began"], end["ended"], seen, end["ends"], end["reader"])
    outcome = end.get("outcome", "unknown")
    return Write(
        begin["client"],
        begin["number"],
        begin["parts"],
        begin["began"],
        NEVER if outcome == "unknown" else end["ended"],
        begin["is_atomic"],
        outcome,
        [(log, start, stop) for log, start, stop in end.get("ranges", ())],
        (begin["expected"][0], begin["expected"][1]) if begin["expected"] else None,
        end.get("actual"),
    )


def _names(text: str) -> list[Name]:
    triples = (word.split(".") for word in text.split())
    return [(int(client), int(number), int(part)) for client, number, part in triples]
