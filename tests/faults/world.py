"""A store under faults, and the notes kept beside it: what was tried, what was acknowledged, what is there.

`World` opens a store, gives it work, lets it crash as a killed process does, opens it again. The keeper's tasks run
when the test says so, in its thread, so that the steps are the same in every run. `Notes` know each value that was
ever given to the store, each being given once; `complaints` compares them with what can be read, and enters the
result in the ledger:

    lost     an acknowledged record is not at its offset
    torn     a part of a commit is there
    wrong    a value that nobody gave, one that is there twice, a gap in offsets, a setting other than the
             acknowledged one, a check that complains
"""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

import kafkalite
from kafkalite import Delivery, KafkaliteError, Producer, RecordMetadata, Store, disk
from kafkalite.storage.segment import NUMBER_SHIFT
from tests.storage.kit import abandon, abandon_at

from .ledger import LEDGER

PARTITIONS = 3
SEGMENT_BYTES = 512 * 1024
MOST_SEGMENTS = 3
MOST_COMMITS = 60
"""A world that is larger is left for a new one: each fault is followed by a reading of all of it."""
TOPIC = "t"
ABSENT = "absent"
"""What stands in the notes for a topic that was deleted, or not created yet."""

Place = tuple[str, int, int]
"""Topic, partition, offset."""


class Tasks:
    """The keeper's tasks, kept until `run`."""

    def __init__(self) -> None:
        self._due: list[Callable[[], None]] = []

    def after(self, seconds: float, task: Callable[[], None]) -> None:
        """In the place of `keeper.after`."""
        self._due.append(task)

    def run(self) -> None:
        """Run what is due; what these tasks ask for in turn is kept. As the keeper, go on when one fails."""
        due, self._due = self._due, []
        for task in due:
            with contextlib.suppress(Exception):
                task()

    def forget(self) -> None:
        """The process ended, and its keeper with it."""
        self._due.clear()


class Notes:
    """What was given to a store, and what it said."""

    def __init__(self) -> None:
        self.acknowledged: dict[Place, bytes] = {}
        self.commits: list[list[bytes]] = []
        self.topics: dict[str, set[Any]] = {}
        """What the last acknowledged and all later, unanswered changes would make of a topic: retention, partitions."""
        self._numbers = itertools.count()
        self._looked_for = 0

    def values(self, count: int, size: int = 16) -> list[bytes]:
        """New values, to be given to the store as one commit."""
        given = [b"%012d" % next(self._numbers) + bytes(size) for _ in range(count)]
        self.commits.append(given)
        return given

    def acknowledge(self, partition: int, offset: int, value: bytes, topic: str = TOPIC) -> None:
        """The store said that a value is at an offset."""
        place = (topic, partition, offset)
        assert self.acknowledged.setdefault(place, value) == value, f"{place} was given away twice"

    @contextlib.contextmanager
    def change(self, topic: str, settings: object) -> Iterator[None]:
        """A change of a topic: acknowledged when the block ends, perhaps made when an error leaves it."""
        known = self.topics.setdefault(topic, {ABSENT})
        known.add(settings)
        yield
        self.topics[topic] = {settings}

    def complaints(self, store: Store, *, check: bool = True) -> list[str]:
        """What is wrong with a store, beside what the notes say; counted in the ledger."""
        found = {topic: dict(read_all(store, topic)) for topic in store.topics()}
        places = {(topic, *place): value for topic, records in found.items() for place, value in records.items()}
        LEDGER.acknowledged(len(self.acknowledged) - self._looked_for)
        self._looked_for = len(self.acknowledged)
        lost = [f"lost: {place}" for place, value in self.acknowledged.items() if places.get(place) != value]
        present = set(places.values())
        torn = [f"torn: of {commit[0][:12]!r}" for commit in self.commits if is_torn(commit, present)]
        problems = store.check().problems if check else []
        wrong = [*self._wrong_records(places), *self._wrong_topics(store), *problems]
        LEDGER.lost(len(lost))
        LEDGER.torn(len(torn))
        LEDGER.wrong(len(wrong))
        return [*lost, *torn, *wrong]

    def _wrong_records(self, places: dict[Place, bytes]) -> Iterator[str]:
        given = set(itertools.chain.from_iterable(self.commits))
        values = list(places.values())
        yield from (f"nobody gave {value[:12]!r}" for value in values if value not in given)
        if len(set(values)) < len(values):
            yield "a value is there twice"
        for (topic, partition), offsets in by_partition(places).items():
            if offsets != list(range(len(offsets))):
                yield f"offsets of {topic}, partition {partition}: {offsets}"

    def _wrong_topics(self, store: Store) -> Iterator[str]:
        present = set(store.topics())
        for name, allowed in self.topics.items():
            topic = store.topic(name, create=False) if name in present else None
            actual = (topic.settings["retention_ms"], topic.partition_count) if topic else ABSENT
            if actual not in allowed:
                yield f"topic {name} is {actual}, not one of {allowed}"


def is_torn(commit: Iterable[bytes], present: set[bytes]) -> bool:
    """Whether a part of a commit is there, and a part is not."""
    return len({value in present for value in commit}) > 1


def by_partition(places: Iterable[Place]) -> dict[tuple[str, int], list[int]]:
    """The offsets that there are, in the order of reading."""
    found: dict[tuple[str, int], list[int]] = {}
    for topic, partition, offset in places:
        found.setdefault((topic, partition), []).append(offset)
    return found


def read_all(store: Store, name: str) -> Iterator[tuple[tuple[int, int], bytes]]:
    """Every record of a topic by partition and offset."""
    topic = store.topic(name, create=False)
    for partition in range(topic.partition_count):
        for record in topic.read(partition):
            yield (partition, record.offset), record.value


class World:
    """A store in a folder of its own, its notes, its keeper's tasks."""

    def __init__(self, folder: Path, layout: str, durability: str, tasks: Tasks) -> None:
        self.folder = folder
        self.suffix = {"directory": "", "file": ".klite"}[layout]
        self.durability = durability
        self.tasks = tasks
        self.producer: Producer | None = None
        self.sent: list[tuple[bytes, int, Delivery[RecordMetadata]]] = []
        """What the producer was given and has not answered: value, partition, delivery."""
        self._numbers = itertools.count()
        self._store: Store | None = None
        self.begin()

    def begin(self) -> None:
        """Another place, where there is no store yet, and new notes."""
        self.path = self.folder / f"{next(self._numbers)}{self.suffix}"
        self.notes = Notes()
        self._is_created = False

    @property
    def store(self) -> Store:
        assert self._store is not None
        return self._store

    @property
    def topic(self) -> "kafkalite.Topic[bytes, Any]":
        """The topic; created again if the fault was at its creation."""
        return self.store.topic(TOPIC, partitions=PARTITIONS)

    def open(self) -> None:
        """Open the store, or create it with its topic."""
        wanted: dict[str, Any] = {"durability": self.durability, "segment_bytes": SEGMENT_BYTES}
        self._store = kafkalite.connect(self.path, **{} if self._is_created else wanted)
        self._is_created = True
        self._store.topic(TOPIC, partitions=PARTITIONS)

    def close(self) -> None:
        """Close the store; whatever that raises, it is closed."""
        store, self._store, self.producer = self.store, None, None
        store.close()

    def crash(self) -> None:
        """End as a killed process does; what is left of it touches nothing any more."""
        self.tasks.forget()
        if self.producer is not None:
            self.producer._closed = True
        if self._store is not None and self._store._engine.is_open:
            abandon(self._store)
        elif self._store is not None:
            self._store._closed = True
        else:
            abandon_at(self.path)
        self._store = self.producer = None

    def ensure_open(self) -> None:
        """Open the store unless it is."""
        if self._store is None:
            self.open()

    def prove(self, *, check: bool = True) -> None:
        """The store is what the notes say; the store is open afterwards."""
        self.ensure_open()
        complaints = self.notes.complaints(self.store, check=check)
        assert complaints == []

    def renew(self) -> None:
        """Begin another store where this one has become large."""
        tail = self.store._engine.index.positions().tail
        if tail >> NUMBER_SHIFT > MOST_SEGMENTS or len(self.notes.commits) > MOST_COMMITS:
            self.end()
            self.begin()

    def end(self) -> None:
        """Close, open and prove once more."""
        self.ensure_open()
        self.close()
        self.prove()
        self.close()


def another_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the machine says that it was started anew."""
    boot_id = os.urandom(16)
    monkeypatch.setattr(disk, "boot_id", lambda: boot_id)


def is_clear(error: BaseException, code: int) -> bool:
    """Whether an error tells the caller what happened: one of ours, or the system's own with the code injected."""
    return isinstance(error, KafkaliteError) or (isinstance(error, OSError) and error.errno == code)
