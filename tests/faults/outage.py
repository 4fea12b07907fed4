"""Power cuts: a story is told to a store, and every moment of it is cut.

`Story` is the memory outside the store: the states that it went through, one for each commit; up to where it was
promised (acknowledged under `commit`, before a finished flush or close otherwise); which commits had begun. What a
store may hold after a cut is one of the states from the promised one to the last begun, and nothing else: each holds
whole commits only, in order, with dense offsets.

    Scribe        uses a store and writes the story
    Recording     a machine's changes, and the story told meanwhile
    cuts          the images of a recording: every moment, by every fate, with an index beside it
    Judge         brings an image back, opens it, compares, goes on with it; counts in the ledger what it finds
"""

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import kafkalite
from kafkalite.partitioner import KeyPartitions
from kafkalite.storage import superblock
from kafkalite.storage.place import resolve
from kafkalite.storage.superblock import State as StoreState
from kafkalite.testing.power import (
    KEPT,
    LOST,
    WITHOUT_BYTES,
    WITHOUT_NAMES,
    WITHOUT_SIZES,
    Change,
    Disk,
    Image,
    Machine,
    mixed,
    torn,
)
from tests.faults.ledger import LEDGER
from tests.storage.kit import abandon, abandon_at

Rows = tuple[tuple[bytes | None, bytes | None], ...]
Topics = dict[str, tuple[int, tuple[Rows, ...]]]
"""By topic: its `retention_ms`, and for each partition keys and values in the order of their offsets from 0."""

FATES = (LOST, KEPT, WITHOUT_NAMES, WITHOUT_BYTES, WITHOUT_SIZES)
INDEXES = ("absent", "stale", "as at the cut", "mixed", "garbage")
MAX_COMPLAINTS = 20


class Story:
    """States and promises. `states[0]` is what was there before: None for a store that was not created."""

    def __init__(self, machine: Machine, before: Sequence[Topics | None] = (None,)) -> None:
        self._machine = machine
        self._before = before
        self._seen_at: int | None = None
        self._begun: list[int] = []
        self._promises: list[tuple[int, int]] = [(0, 0)]
        self._states: list[Topics | None] = [before[-1]]

    def seen(self, state: Topics | None) -> None:
        """Which of several states before is there: readers saw it, so it has to stay."""
        self._seen_at = len(self._machine.changes)
        self._states[0] = state

    def begin(self) -> None:
        """A commit is about to be made."""
        self._begun.append(len(self._machine.changes))

    def done(self, state: Topics) -> None:
        """It is made, and this is what there is now."""
        self._states.append(dict(state))

    def promise(self) -> None:
        """All of what is there now was promised to survive."""
        self._promises.append((len(self._machine.changes), len(self._states) - 1))

    def promised(self, moment: int) -> int:
        """How many commits must survive a cut before change number `moment`."""
        return max(count for at, count in self._promises if at <= moment)

    def allowed(self, moment: int) -> list[Topics | None]:
        """What may be found after a cut before change number `moment`."""
        begun = sum(at < moment for at in self._begun)
        found = self._states[self.promised(moment) : begun + 1]
        if self.promised(moment) == 0 and (self._seen_at is None or moment < self._seen_at):
            return [*self._before, *found[1:]]
        return found

    def moment_of(self, count: int) -> int:
        """After how many changes so many commits were promised."""
        return next(at for at, promised in self._promises if promised >= count)

    def is_known(self, state: Topics) -> bool:
        """Whether this is a state of any time, promised or overtaken."""
        return state in self._states or state in self._before


class Scribe:
    """A store in use: each call is one commit, and becomes a part of the story."""

    def __init__(self, path: Path, story: Story, **settings: Any) -> None:
        self.path = path
        self._story = story
        self._settings = settings
        self._durability = settings.get("durability", "commit")
        self.topics: Topics = {}
        self.store: kafkalite.Store | None = None

    def create(self) -> None:
        """The store is made; that is promised at any durability."""
        self._story.begin()
        self.store = kafkalite.connect(self.path, **self._settings)
        self._story.done(self.topics)
        self._story.promise()

    def open(self) -> Topics:
        """Open what is there, and take it as it is."""
        self.store = kafkalite.connect(self.path, create=False)
        self._durability = self.store.settings["durability"]
        self.topics = read(self.store)
        return self.topics

    def close(self) -> None:
        self.store.close()
        self._story.promise()

    def abandon(self) -> None:
        """The power is gone."""
        if self.store is not None and not self.store._closed:
            abandon(self.store)
        abandon_at(self.path)

    def flush(self) -> None:
        self.store.flush()
        self._story.promise()

    def alter_store(self, **settings: Any) -> None:
        self._commit(lambda: self.store.alter(**settings), {})
        if settings.get("durability", self._durability) == "commit":
            self._story.promise()
        self._durability = settings.get("durability", self._durability)

    def create_topic(self, name: str, partitions: int) -> None:
        made = {name: (-1, ((),) * partitions)}
        self._commit(lambda: self.store.topic(name, partitions=partitions), made)

    def alter_topic(self, name: str, retention_ms: int) -> None:
        topic = self.store.topic(name, create=False)
        self._commit(lambda: topic.alter(retention_ms=retention_ms), {name: (retention_ms, self.topics[name][1])})

    def delete_topic(self, name: str) -> None:
        self._commit(lambda: self.store.delete_topic(name), {name: None})

    def append(self, name: str, partition: int, value: bytes | None, key: bytes | None = None) -> None:
        topic = self.store.topic(name, create=False)
        self._commit(
            lambda: topic.append(value, key=key, partition=partition), self._longer(name, {partition: [(key, value)]})
        )

    def append_many(self, name: str, values: Sequence[bytes], partition: int | None = None) -> None:
        """One commit, over all partitions when none is named."""
        topic = self.store.topic(name, create=False)
        keys = [b"%d" % number for number in range(len(values))]
        partition_of = KeyPartitions(topic.partition_count)
        added: dict[int, list[tuple[bytes | None, bytes | None]]] = {}
        for key, value in zip(keys, values, strict=True):
            chosen = partition_of[key] if partition is None else partition
            added.setdefault(chosen, []).append((key, value))
        self._commit(lambda: topic.append_many(values, keys=keys, partition=partition), self._longer(name, added))

    def _longer(self, name: str, added: dict[int, list[tuple[bytes | None, bytes | None]]]) -> dict[str, Any]:
        retention_ms, partitions = self.topics[name]
        return {name: (retention_ms, tuple((*rows, *added.get(n, ())) for n, rows in enumerate(partitions)))}

    def _commit(self, call: Callable[[], object], changed: dict[str, Any]) -> None:
        self._story.begin()
        call()
        self.topics = {name: one for name, one in (self.topics | changed).items() if one is not None}
        self._story.done(self.topics)
        if self._durability == "commit":
            self._story.promise()


def read(store: kafkalite.Store) -> Topics:
    """All that a store holds; offsets must be dense from 0."""
    found: Topics = {}
    for name in store.topics():
        topic = store.topic(name, create=False)
        partitions = []
        for number in range(topic.partition_count):
            records = list(topic.read(number))
            assert [record.offset for record in records] == list(range(len(records))), f"gaps in {name}-{number}"
            partitions.append(tuple((record.key, record.value) for record in records))
        found[name] = (topic.settings["retention_ms"], tuple(partitions))
    return found


def count(topics: Topics | None) -> int:
    """How many records there are."""
    return sum(len(rows) for _, partitions in (topics or {}).values() for rows in partitions)


@dataclass
class Recording:
    """What a machine's disk went through from `before` on, and the story meanwhile; `path` is the store's on it."""

    machine: Machine
    story: Story
    path: Path
    before: Image | None = None
    settings: dict[str, Any] = field(default_factory=dict)


class Cut(NamedTuple):
    """One power cut: the image, and the index beside it under its own or the name it is built under."""

    moment: int
    fate: str
    image: Image
    index: bytes | None
    index_kind: str
    leftover: bytes | None

    def key(self) -> bytes:
        """The same for cuts that leave the same."""
        digest = hashlib.blake2b(self.image.digest())
        for one in (self.index, self.leftover):
            digest.update(b"-" if one is None else b"+" + hashlib.blake2b(one).digest())
        return digest.digest()


def record(path: Path, root: Path, tell: Callable[[Scribe], None], **settings: Any) -> Recording:
    """Tell a story to a new store."""
    root.mkdir(parents=True, exist_ok=True)
    machine = Machine(root, index=resolve(path).index)
    story = Story(machine)
    with machine:
        scribe = Scribe(path, story, **settings)
        scribe.create()
        tell(scribe)
        scribe.abandon()
        complete(machine)
    return Recording(machine, story, path, settings=settings)


def complete(machine: Machine) -> None:
    """What was recorded is all that was done: a change past `kafkalite.disk` would be no part of any cut."""
    found = Disk()
    for change in machine.changes:
        found.apply(change)
    assert found.cut(KEPT) == machine.image()


def cuts(
    recording: Recording, seed: int, torn_fates: int = 2, lies: Callable[[Change], bool] | None = None
) -> Iterator[Cut]:
    """A cut before the first change, and after each, by every fate."""
    machine = recording.machine
    name = str(resolve(recording.path).file.relative_to(machine.root))
    found = Disk(recording.before, lies)
    draw = random.Random(seed)
    for moment in range(len(machine.changes) + 1):
        if moment:
            found.apply(machine.changes[moment - 1])
        now = machine.indexes[moment] if moment < len(machine.indexes) else machine.indexes[-1]
        for fate in (*FATES, *(torn(draw.randrange(2**32)) for _ in range(torn_fates))):
            image = found.cut(fate)
            kind = draw.choice(INDEXES)
            older = [one for one in machine.indexes[:moment] if one is not None]
            index = index_beside(kind, now, older, draw, is_sealed=is_sealed(image, name))
            leftover = draw.choice((None, draw.randbytes(len(now)), draw.choice((now, *older)))) if now else None
            yield Cut(moment, fate.name, image, index, kind, leftover)


def index_beside(
    kind: str, now: bytes | None, older: Sequence[bytes], draw: random.Random, *, is_sealed: bool
) -> bytes | None:
    """An index as a power cut may leave it. Of a sealed store it was flushed before the seal: then no page of it is of
    another time, and garbage is what somebody else put there.
    """
    if kind == "absent" or now is None:
        return None
    if kind == "garbage":
        return draw.randbytes(len(now))
    if kind == "stale" and older:
        return draw.choice(older)
    if kind == "mixed" and older and not is_sealed:
        return mixed([*draw.choices(older, k=3), now], draw)
    return now


def is_sealed(image: Image, name: str) -> bool:
    """Whether the superblock that counts, in the file of that name, says that the store was closed."""
    data = image.files[name][1] if name in image.files else b""
    slots = [superblock.decode(data[at : at + 4096]) for at in (0, 4096)]
    valid = [slot for slot in slots if slot is not None]
    return bool(valid) and max(valid, key=lambda slot: slot.generation).state is StoreState.SEALED


# Judging


class Judge:
    """Opens what cuts left, in a place of its own."""

    def __init__(self, operation: str, place: Path) -> None:
        self.operation = operation
        self.complaints: list[str] = []
        self.judged = 0
        self._place = place
        self._known: set[tuple[bytes, int, int]] = set()

    def judge_all(self, recording: Recording, found: Iterable[Cut], boot: int = 1) -> None:
        """Every cut, unless one that left the same was judged by the same promise."""
        for cut in found:
            allowed = recording.story.allowed(cut.moment)
            key = (cut.key(), recording.story.promised(cut.moment), len(allowed))
            if key not in self._known:
                self._known.add(key)
                self.judge(recording, cut, boot)

    def judge(self, recording: Recording, cut: Cut, boot: int = 1, *, keeps_indexes: bool = False) -> Recording:
        """Bring one image back and prove it; returns what was recorded of that, to be cut in turn."""
        LEDGER.fault(self.operation, cut.moment, f"{cut.fate}, index {cut.index_kind}")
        self.judged += 1
        allowed = recording.story.allowed(cut.moment)
        path = self._place / recording.path.relative_to(recording.machine.root)
        index = resolve(path).index if keeps_indexes else None
        machine = Machine(self._place, cut.image, boot=boot, index=index)
        again = Recording(machine, Story(machine, allowed), path, cut.image, recording.settings)
        with machine:
            put_beside(path, cut)
            scribe = Scribe(path, again.story, **recording.settings)
            try:
                self._prove(scribe, again.story, allowed, recording.story)
            except (kafkalite.KafkaliteError, AssertionError, OSError) as error:
                LEDGER.wrong(1)
                self._complain(cut, f"{type(error).__name__}: {error}")
            except WrongError as error:
                self._complain(cut, str(error))
            finally:
                scribe.abandon()
        return again

    def _prove(self, scribe: Scribe, again: Story, allowed: list[Topics | None], story: Story) -> None:
        LEDGER.acknowledged(count(allowed[0]))
        try:
            found: Topics | None = scribe.open()
        except kafkalite.StoreNotFoundError:
            found = None
        if found not in allowed and not (found == {} and None in allowed):
            self._count_wrong(found, allowed, story)
        if found is None:
            scribe.create()
        else:
            again.seen(found)
        go_on(scribe, opens_again=self.judged % 3 == 0)

    def _count_wrong(self, found: Topics | None, allowed: list[Topics | None], story: Story) -> None:
        lacking = count(allowed[0]) - count(found)
        if found is None or story.is_known(found):
            LEDGER.lost(max(1, lacking))
            raise WrongError(
                f"lost: {lacking} records of {count(allowed[0])}, or topics, that were promised: {str(found)[:500]}"
            )
        LEDGER.torn(1)
        raise WrongError(f"torn: {found} is none of the states {allowed}")

    def _complain(self, cut: Cut, what: str) -> None:
        if len(self.complaints) < MAX_COMPLAINTS:
            self.complaints.append(
                f"{self.operation}, cut before change {cut.moment}, {cut.fate}, index {cut.index_kind}: {what[:2000]}"
            )


class WrongError(Exception):
    """A store holds what it must not hold; counted already."""


def go_on(scribe: Scribe, *, opens_again: bool) -> None:
    """A recovered store has to be one like any other: appended to, checked, closed, opened again."""
    if "after" not in scribe.topics:
        scribe.create_topic("after", 2)
    scribe.append_many("after", [b"a", b"b", b"c"])
    for name in [name for name in scribe.topics if name != "after"][:1]:
        scribe.append(name, 0, b"later")
    expected = scribe.topics
    if opens_again:
        scribe.close()
        assert scribe.open() == expected
    report = scribe.store.check()
    assert report.ok, str(report)
    scribe.close()


def put_beside(path: Path, cut: Cut) -> None:
    """The index, what a rebuild that was cut left, and a page in `run/` of the boot before."""
    place = resolve(path)
    if not place.directory.is_dir():
        return
    if cut.index is not None:
        place.index.write_bytes(cut.index)
    if cut.leftover is not None:
        place.new_index.write_bytes(cut.leftover)
        place.index_lock.write_bytes(cut.leftover)
        place.run.mkdir()
        (place.run / "page").write_bytes(cut.leftover)
