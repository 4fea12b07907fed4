"""F2: the power is cut after every change that a store makes to its disk; F11: and again while it recovers.

Each story is told in both layouts and at each durability; each of its moments is cut by several fates, with an index
beside it that is absent, stale, as at the cut, mixed of several moments, or garbage. What is promised must be there,
nothing may be torn, and the store goes on. Then the machinery itself is broken on purpose: every canary must be seen.
"""

import os
import random
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import kafkalite
from kafkalite import disk
from kafkalite.clock import Deadline
from kafkalite.storage import frame, keeper, recovery, segment, superblock
from kafkalite.storage.flush import Flusher
from kafkalite.storage.journal import Journal
from kafkalite.storage.page import SharedPage
from kafkalite.store import _open_stores
from kafkalite.testing.power import KEPT, LOST, Change, Disk, Image, Machine, scratch, torn
from tests.faults import outage
from tests.faults.ledger import LEDGER
from tests.faults.outage import Cut, Judge, Recording, Scribe, cuts, record

FAULT_CLASS = "F2"
LAYOUTS = ("s.klite", "s")
DURABILITIES = ("commit", "interval", "none")
KINDS = [("s.klite", "commit"), ("s", "commit"), ("s", "interval"), ("s.klite", "none")]
ALL_KINDS = [(layout, durability) for layout in LAYOUTS for durability in DURABILITIES]
SMALL_SEGMENT = 8192
LONG_SECONDS = float(os.environ.get("KAFKALITE_LONG_SECONDS", "300"))


@pytest.fixture
def workshop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place in memory; small segments, and a keeper that does what is due at once or never, so that runs repeat."""
    with scratch() as root:
        monkeypatch.setattr(tempfile, "tempdir", str(root))
        monkeypatch.setattr(segment, "FIRST_SIZE", SMALL_SEGMENT)
        monkeypatch.setattr(keeper, "after", lambda seconds, task: None if seconds else task())
        monkeypatch.setattr(disk, "file_system_type", lambda path: "tmpfs")
        yield root


# The stories


def appends(scribe: Scribe) -> None:
    """Single records, of sizes around the sectors', nulls among them."""
    scribe.create_topic("t", 2)
    for number, size in enumerate((0, 1, 300, 511, 700, 4096)):
        scribe.append("t", number % 2, b"%d " % number + bytes([number + 1]) * size, key=b"k" * number or None)
    scribe.append("t", 1, None, key=b"gone")
    scribe.flush()
    scribe.append("t", 0, b"last")


def commits(scribe: Scribe) -> None:
    """Commits over three partitions, within a sector and over many."""
    scribe.create_topic("t", 3)
    for number, size in enumerate((10, 150, 600, 20)):
        scribe.append_many("t", [b"%d.%d " % (number, n) + bytes([65 + n]) * size for n in range(9)])
        if number == 2:
            scribe.flush()


def rolls(scribe: Scribe) -> None:
    """Through four segments, with commits that end just before a segment does and such that do not fit."""
    scribe.create_topic("t", 2)
    for number in range(9):
        scribe.append_many("t", [b"%d.%d " % (number, n) + bytes([66 + n]) * 1200 for n in range(5)])
        if number == 5:
            scribe.flush()


def topics(scribe: Scribe) -> None:
    """Topics made, altered, deleted, made again under the same name."""
    scribe.create_topic("t", 1)
    scribe.append("t", 0, b"first")
    scribe.create_topic("u", 3)
    scribe.alter_topic("t", 86_400_000)
    scribe.append_many("u", [b"a", b"b", b"c", b"d"])
    scribe.delete_topic("t")
    scribe.flush()
    scribe.create_topic("t", 2)
    scribe.append("t", 1, b"second")


def sessions(scribe: Scribe) -> None:
    """Closed and opened again; the next life begins with what was sealed."""
    scribe.create_topic("t", 2)
    for life in range(3):
        scribe.append_many("t", [b"%d.%d" % (life, n) for n in range(4)])
        scribe.append("t", 0, b"%d" % life)
        scribe.close()
        scribe.open()
    scribe.append("t", 1, b"last")
    scribe.close()


def settings(scribe: Scribe) -> None:
    """The durability is another one from some commit on."""
    scribe.create_topic("t", 1)
    for durability in ("none", "commit", "interval", "commit"):
        scribe.append("t", 0, b"before %s" % durability.encode())
        scribe.alter_store(durability=durability)
        scribe.append("t", 0, b"after %s" % durability.encode())


STORIES: dict[str, Callable[[Scribe], None]] = {
    "append": appends, "commit": commits, "roll": rolls, "topics": topics, "close and open": sessions,
    "durability": settings,
}  # fmt: skip


def told(story: str, layout: str, durability: str, workshop: Path) -> Recording:
    """The recording of a story."""
    root = workshop / f"machine {durability}"
    return record(root / layout, root, STORIES[story], durability=durability)


def seed_of(*parts: object) -> int:
    return zlib.crc32(repr(parts).encode())


@pytest.mark.matrix
@pytest.mark.parametrize(("layout", "durability"), KINDS)
@pytest.mark.parametrize("story", STORIES)
def test_a_cut_after_any_change_keeps_what_was_promised(
    workshop: Path, story: str, layout: str, durability: str
) -> None:
    recording = told(story, layout, durability, workshop)
    judge = Judge(f"{story} {layout} {durability}", workshop / "place")
    torn_fates = 2 if durability == "commit" else 4  # more is waiting to be flushed
    judge.judge_all(recording, cuts(recording, seed_of(story, layout, durability), torn_fates))
    assert judge.complaints == []
    assert judge.judged >= 40


@pytest.mark.parametrize("layout", ["a/b/c/s.klite", "a/b/s"])
def test_a_cut_while_a_store_is_made_in_directories_that_are_new_as_well(workshop: Path, layout: str) -> None:
    """Each of them is a name that has to be on the disk."""
    recording = told("topics", layout, "commit", workshop)
    judge = Judge(f"creation {layout}", workshop / "place")
    judge.judge_all(recording, cuts(recording, seed_of(layout), torn_fates=8))
    assert judge.complaints == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_creation_that_was_cut_is_begun_again(workshop: Path, layout: str) -> None:
    """Also where its one write of the superblock was torn, and where some names are there and others not."""
    recording = told("durability", layout, "commit", workshop)
    made = recording.story.moment_of(1)
    judge = Judge(f"creation {layout}", workshop / "place")
    found = cuts(recording, seed_of(layout, "creation"), torn_fates=24)
    judge.judge_all(recording, (cut for cut in found if cut.moment <= made))
    assert judge.complaints == []
    assert judge.judged >= 60


# Threads, whose commits share flushes

THREADS, EACH = 4, 10


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_commit_that_rode_on_the_flush_of_another_survives_as_well(
    workshop: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    """A flush covers what was written before it began, not what came while it lasted."""
    flush = disk.flush
    monkeypatch.setattr(disk, "flush", lambda fd: (time.sleep(0.002), flush(fd)))
    machine = Machine(workshop / "machine")
    machine.root.mkdir()
    with machine, kafkalite.connect(machine.root / layout) as store:
        topic = store.topic("t", partitions=THREADS)
        made = len(machine.changes)

        def append(partition: int) -> list[int]:
            return [at_return(machine, topic, partition, number) for number in range(EACH)]

        with ThreadPoolExecutor(THREADS) as pool:
            acknowledged = list(pool.map(append, range(THREADS)))
    shared = sum(change.kind == "flush" and change.size > 0 for change in machine.changes)
    assert shared > 0, "no commit came during a flush"
    found = Disk()
    for moment, change in enumerate(machine.changes, 1):
        found.apply(change)
        for fate in (LOST, torn(moment)):
            if moment >= made:
                promised = [sum(at <= moment for at in mine) for mine in acknowledged]
                LEDGER.fault(f"shared flushes {layout}", moment, fate.name)
                hold_to(promised, found.cut(fate), workshop / "place", layout)


def at_return(machine: Machine, topic: kafkalite.Topic[bytes, bytes | None], partition: int, number: int) -> int:
    """Append; how many changes there were when it was acknowledged."""
    topic.append(b"%d %d" % (partition, number), partition=partition)
    return len(machine.changes)


def hold_to(promised: list[int], image: Image, place: Path, layout: str) -> None:
    """Each partition has at least what was promised, in order."""
    LEDGER.acknowledged(sum(promised))
    with Machine(place, image, boot=1), kafkalite.connect(place / layout, create=False) as store:
        topic = store.topic("t", create=False)
        for partition, least in enumerate(promised):
            values = [record.value for record in topic.read(partition)]
            LEDGER.lost(max(0, least - len(values)))
            assert values == [b"%d %d" % (partition, number) for number in range(len(values))]
            assert len(values) >= least
        assert store.check().ok


def test_canary_a_flush_that_is_thought_to_cover_what_came_while_it_lasted(
    workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leader that raises `durable` to where the tail is when the flush is over: records are lost, or a later frame
    bears witness to bytes that never were on the disk.
    """
    leaders: list[Flusher] = []
    flush, note = Flusher._flush, SharedPage.set_flushed

    def seen(self: Flusher, start: int, end: int, deadline: Deadline, *, again: bool) -> None:
        leaders.append(self)
        flush(self, start, end, deadline, again=again)

    def rash(self: SharedPage, end: int, took_us: int) -> None:
        note(self, leaders[-1]._index.positions().tail, took_us)

    monkeypatch.setattr(Flusher, "_flush", seen)
    monkeypatch.setattr(SharedPage, "set_flushed", rash)
    with LEDGER.apart(), pytest.raises((AssertionError, kafkalite.CorruptRecordError), match=r"assert|witnesses"):
        test_a_commit_that_rode_on_the_flush_of_another_survives_as_well(workshop, monkeypatch, "s")


# Faults during recovery from faults


def cut_again(judge: Judge, recording: Recording, first: Cut, seed: int, depth: int) -> None:
    """Cut what a recovery does, at every change; once more from a cut in the middle of it, `depth` times in all."""
    again = judge.judge(recording, first, depth, keeps_indexes=True)
    second = list(cuts(again, seed, torn_fates=1))
    judge.judge_all(again, second, boot=depth + 1)
    if depth > 1 and second:
        cut_again(judge, again, random.Random(seed).choice(second), seed + 1, depth - 1)


@pytest.mark.matrix
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("story", ["commit", "roll", "close and open"])
def test_a_second_cut_during_recovery_loses_nothing_either(
    workshop: Path, monkeypatch: pytest.MonkeyPatch, story: str, layout: str
) -> None:
    monkeypatch.setattr(LEDGER, "fault_class", "F11")
    for durability in ("commit", "none"):
        recording = told(story, layout, durability, workshop)
        seed = seed_of(story, layout, durability, "again")
        cut = random.Random(seed).choice(list(cuts(recording, seed)))
        judge = Judge(f"recovery of {story} {layout} {durability}", workshop / "place")
        cut_again(judge, recording, cut, seed, depth=2)
        assert judge.complaints == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_cut_after_cut_after_cut(workshop: Path, layout: str) -> None:
    """Ten lives, each of which ends in a power cut: what any of them promised is there in the last."""
    LEDGER.fault_class = "F11"
    recording = told("commit", layout, "commit", workshop)
    draw = random.Random(seed_of(layout))
    for life in range(10):
        judge = Judge(f"life {life} {layout}", workshop / "place")
        cut = draw.choice([one for one in cuts(recording, life) if one.moment > len(recording.machine.changes) // 2])
        recording = judge.judge(recording, cut, boot=life + 2, keeps_indexes=True)
        assert judge.complaints == []


# What nothing witnesses, and what a reader may see


def without(recording: Recording, number: int) -> Cut:
    """The last moment of a run whose disk dropped one write for good; the index went as well."""
    disk = Disk()
    for at, change in enumerate(recording.machine.changes):
        if at != number:
            disk.apply(change)
    return Cut(len(recording.machine.changes), f"write {number} dropped", disk.cut(KEPT), None, "absent", None)


def frame_writes(recording: Recording) -> list[int]:
    """The writes of frames, those of the creation left out."""
    first = recording.story.moment_of(1)
    return [
        number for number, change in enumerate(recording.machine.changes)
        if number >= first and change.kind == "write" and change.data.startswith(frame.MAGIC)
    ]  # fmt: skip


def is_refused(recording: Recording, cut: Cut, place: Path) -> bool:
    """Whether opening it says that it is damaged; if not, what it holds is a prefix, and the check is clean."""
    LEDGER.fault(f"dropped write {recording.path.name}", cut.fate, cut.index_kind)
    path = place / recording.path.name
    with Machine(place, cut.image, boot=1):
        try:
            with kafkalite.connect(path, create=False) as store:
                assert recording.story.is_known(outage.read(store))
                assert store.check().ok
        except kafkalite.CorruptRecordError:
            return True
        return False


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_write_that_the_disk_dropped_is_noticed_when_a_later_commit_witnesses_it(workshop: Path, layout: str) -> None:
    """All but the last, as docs/durability.md says under "what is not noticed"."""
    recording = told("append", layout, "commit", workshop)
    writes = frame_writes(recording)
    refused = [is_refused(recording, without(recording, number), workshop / "place") for number in writes]
    assert refused == [True] * (len(writes) - 1) + [False]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("durability", DURABILITIES)
def test_a_closed_store_notices_every_write_that_the_disk_dropped(workshop: Path, layout: str, durability: str) -> None:
    """The seal says where it ends."""
    recording = told("close and open", layout, durability, workshop)
    refused = [
        is_refused(recording, without(recording, number), workshop / "place") for number in frame_writes(recording)
    ]
    assert all(refused)
    assert len(refused) >= 8


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_reader_sees_what_a_cut_could_take(workshop: Path, monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    """With durability "commit": looked at before every flush, and after it."""
    seen: list[tuple[int, int]] = []

    def flush_and_look(machine: Machine, fd: int) -> None:
        look(machine)
        flush(machine, fd)
        look(machine)

    def look(machine: Machine) -> None:
        if machine.changes and (workshop / "machine commit" / layout).exists():
            found = [store for store in _open_stores if not store._closed and workshop in store.path.parents]
            seen.extend((len(machine.changes), outage.count(outage.read(store))) for store in found)

    flush = Machine._flush
    monkeypatch.setattr(Machine, "_flush", flush_and_look)
    recording = told("commit", layout, "commit", workshop)
    for moment, count in seen:
        assert count <= outage.count(recording.story.allowed(moment + 1)[0]), f"before change {moment}"
    assert max(count for _, count in seen) == 27
    assert len(seen) >= 8


@pytest.mark.parametrize("layout", LAYOUTS)
def test_offsets_that_are_given_out_again_have_a_higher_leader_epoch(workshop: Path, layout: str) -> None:
    """In a store of durability "none", whose readers had seen what the cut took."""
    root = workshop / "machine"
    recording = record(root / layout, root, commits, durability="none")
    flushed = recording.story.moment_of(5)
    disk = Disk()
    for change in recording.machine.changes:
        disk.apply(change)
    place = workshop / "place"
    with Machine(place, disk.cut(LOST), boot=1), kafkalite.connect(place / layout) as store:
        topic = store.topic("t", create=False)
        end = topic.end_offsets()[0]
        assert end == len(recording.story.allowed(flushed)[0]["t"][1][0])
        topic.append(b"again", partition=0)
        epochs = [batch.leader_epoch for batch in topic.batches(0)]
        assert epochs[-1] > max(epochs[:-1])
        assert [record.offset for record in topic.read(0)] == list(range(end + 1))
        assert store.check().ok


# Canaries: a machine, or an engine, that is broken, and must be found out


def judged(
    recording: Recording, workshop: Path, lies: Callable[[Change], bool] | None = None, torn_fates: int = 1
) -> tuple[int, int, int]:
    """Lost, torn and wrong, counted apart from the run's."""
    with LEDGER.apart() as mine:
        judge = Judge("canary", workshop / "place")
        judge.judge_all(recording, cuts(recording, 1, torn_fates, lies))
        results = mine.results
        assert bool(judge.complaints) == any(results[name] for name in ("lost", "torn", "wrong"))
        return results["lost"], results["torn"], results["wrong"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_canary_a_disk_that_lies_about_every_flush_loses_records(workshop: Path, layout: str) -> None:
    recording = told("commit", layout, "commit", workshop)
    lost, _, wrong = judged(recording, workshop, lambda change: change.kind == "flush")
    assert lost + wrong > 0
    assert lost > 0


def test_canary_a_disk_that_forgets_names_loses_the_store(workshop: Path) -> None:
    recording = told("commit", "s", "commit", workshop)
    lost, _, _ = judged(recording, workshop, lambda change: change.kind == "flush directory")
    assert lost > 0


def test_canary_each_directory_above_the_store_needs_its_flush(workshop: Path) -> None:
    recording = told("durability", "a/b/s", "commit", workshop)
    for name in ("", "a", "a/b"):
        lost, torn, wrong = judged(
            recording,
            workshop,
            lambda change, name=name: change.kind == "flush directory" and change.name == name,
            torn_fates=0,
        )
        assert lost > 0, name
        assert (torn, wrong) == (0, 0), name


def test_canary_one_flush_left_out_is_enough(workshop: Path) -> None:
    """The last one of a run: nobody comes after it to witness or to mend."""
    recording = told("append", "s", "commit", workshop)
    last = [change for change in recording.machine.changes if change.kind == "flush"][-1]
    lost, torn, wrong = judged(recording, workshop, lambda change: change is last)
    assert lost > 0
    assert (torn, wrong) == (0, 0)


def test_canary_an_engine_that_does_not_flush_its_commits(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Journal, "flush", lambda self, start, end: None)
    lost, _, wrong = judged(told("commit", "s.klite", "commit", workshop), workshop)
    assert lost + wrong > 0


def test_canary_a_superblock_before_the_segment_that_it_seals(workshop: Path) -> None:
    """The seal is flushed, and the frames before it come later: what a reordered close would be."""
    recording = told("close and open", "s", "none", workshop)
    machine = recording.machine
    seal = next(
        number for number, change in enumerate(machine.changes)
        if change.kind == "write" and change.size == superblock.SLOT_SIZE
        and (found := superblock.decode(change.data)) is not None and found.state is superblock.State.SEALED
    )  # fmt: skip
    late = max(number for number in range(seal) if machine.changes[number].kind == "flush")
    machine.changes.insert(seal + 1, machine.changes.pop(late))
    lost, torn, wrong = judged(recording, workshop)
    assert lost + torn + wrong > 0


def test_canary_a_new_era_that_is_not_flushed_before_the_old_is_cut(
    workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recovery forgets to flush what it accepts and the segment it begins; a second cut finds nothing."""
    recording = told("roll", "s", "none", workshop)
    begin, flush = recovery._begin_era, Journal.flush

    def careless(*arguments: object) -> segment.Header:
        Journal.flush = lambda self, start, end: None  # type: ignore[method-assign]
        try:
            return begin(*arguments)  # type: ignore[arg-type]
        finally:
            Journal.flush = flush  # type: ignore[method-assign]

    monkeypatch.setattr(recovery, "_begin_era", careless)
    with LEDGER.apart():
        judge = Judge("canary", workshop / "place")
        first = [cut for cut in cuts(recording, 1) if cut.fate == KEPT.name][-1]
        again = judge.judge(recording, first, keeps_indexes=True)
        judge.judge_all(again, cuts(again, 1), boot=2)
        assert judge.complaints != []


def test_canary_a_recovery_that_takes_half_a_commit(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The COMMIT mark does not count for it: torn commits have to be called that."""
    monkeypatch.setattr("kafkalite.storage.frame.Frame.is_commit", property(lambda self: True))
    _, torn, wrong = judged(told("commit", "s", "none", workshop), workshop, torn_fates=8)
    assert torn > 0
    assert wrong >= 0


# For as long as there is time


@pytest.mark.long
@pytest.mark.parametrize(("layout", "durability"), ALL_KINDS)
@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("size", [SMALL_SEGMENT, 512 * 1024])
def test_every_story_in_every_kind_of_store_cut_by_many_fates(
    workshop: Path, monkeypatch: pytest.MonkeyPatch, story: str, layout: str, durability: str, size: int, seed: int
) -> None:
    monkeypatch.setattr(segment, "FIRST_SIZE", size)
    recording = told(story, layout, durability, workshop)
    judge = Judge(f"{story} {layout} {durability} {size}", workshop / "place")
    judge.judge_all(recording, cuts(recording, seed, torn_fates=12))
    assert judge.complaints == []


@pytest.mark.long
def test_random_stories_cut_at_random(workshop: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """KAFKALITE_LONG_SECONDS says for how long."""
    until, round_number = time.monotonic() + LONG_SECONDS, 0
    while time.monotonic() < until:
        round_number += 1
        draw = random.Random(seed + round_number)
        monkeypatch.setattr(segment, "FIRST_SIZE", draw.choice((4096, SMALL_SEGMENT, 1 << 16, 1 << 19)))
        steps = [draw.randrange(2**32) for _ in range(draw.randrange(5, 25))]
        root = workshop / f"machine {round_number}"
        layout, durability = draw.choice(LAYOUTS), draw.choice(DURABILITIES)
        recording = record(
            root / layout, root, lambda scribe, steps=steps: at_random(scribe, steps), durability=durability
        )
        judge = Judge(f"round {round_number} {layout} {durability}", workshop / "place")
        found = list(cuts(recording, seed + round_number, torn_fates=4))
        judge.judge_all(recording, found)
        cut_again(judge, recording, draw.choice(found), seed + round_number, depth=3)
        assert judge.complaints == [], f"round {round_number}"


def at_random(scribe: Scribe, steps: list[int]) -> None:
    """A story that a list of numbers tells."""
    scribe.create_topic("t", 3)
    for step in steps:
        if scribe.topics:
            one_step(scribe, step, random.Random(step))
        else:
            scribe.create_topic(f"t{step}", 2)


def one_step(scribe: Scribe, step: int, draw: random.Random) -> None:
    """One commit, or a flush, or a life's end."""
    name = draw.choice(sorted(scribe.topics))
    many = [draw.randbytes(draw.choice((5, 100, 900, 5000))) for _ in range(draw.randrange(1, 9))]
    rare: list[Callable[[], object]] = [
        lambda: scribe.create_topic(f"t{step}", draw.randrange(1, 4)),
        lambda: scribe.alter_topic(name, draw.randrange(10**9)),
        lambda: scribe.delete_topic(name),
        lambda: scribe.alter_store(durability=draw.choice(DURABILITIES)),
        lambda: (scribe.close(), scribe.open()),
        scribe.flush,
    ]
    common: list[Callable[[], object]] = [
        lambda: scribe.append_many(name, many),
        lambda: scribe.append(name, 0, draw.randbytes(draw.randrange(3000))),
        lambda: scribe.append(name, 0, None, key=b"k"),
    ]
    draw.choice(rare if draw.random() < 0.3 else common)()
