"""The same operations under different settings give the same answers.

A script is drawn from a seed: appends of all kinds, sends, reads, flushes, topics made and deleted. It names partitions
or keys and timestamps, so that nothing in it is left to a setting. It runs once under the defaults; under each other
setting, layout and number of processes every answer on the way and every record at the end has to be the same.
"""

import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import pytest

import kafkalite
from kafkalite.errors import OffsetConflictError, UnknownTopicError
from tests.processes.forks import Board, Forked, until

FAULT_CLASS: Final = "settings"
KIB: Final = 1024
LENGTH: Final = 120
NAMES: Final = ("a", "b", "c")
PARTITIONS: Final = 3

Row = tuple[int, int, bytes | None, bytes | None, Any]
"""Offset, timestamp, key, value, headers."""
Contents = dict[tuple[str, int], list[Row]]


class Step(NamedTuple):
    """One thing to do: the name of a method of `Actor`, and what it is given."""

    what: str
    given: dict[str, Any]


@dataclass(frozen=True)
class World:
    """The settings under which a script runs."""

    layout: str = "directory"
    store: dict[str, Any] = field(default_factory=dict)
    topic: dict[str, Any] = field(default_factory=dict)
    producer: dict[str, Any] = field(default_factory=dict)
    processes: int = 1

    def target(self, directory: Path) -> Path | str:
        places: dict[str, Path | str] = {"file": directory / "s.klite", "memory": ":memory:"}
        return places.get(self.layout, directory / "s")


# The script


def script(seed: int, length: int = LENGTH) -> list[Step]:
    """The same steps for the same seed. Topics are deleted a few times, however long it is: something is to be left."""
    draw = random.Random(seed)
    kinds: dict[Callable[[random.Random], dict[str, Any]], float] = {
        append: 6, append_many: 6, append_if: 4, send: 6, send_many: 4, read: 6, tail: 2, ends: 4, at_a_time: 3,
        flush: 1, delete: LENGTH / length, alter: 1, open_again: 2,
    }  # fmt: skip
    steps = [Step("create", {"name": name}) for name in NAMES]
    for kind in draw.choices(list(kinds), list(kinds.values()), k=length):
        steps.append(Step(kind.__name__, {"name": draw.choice(NAMES)} | kind(draw)))
        if kind is delete:
            steps.append(Step("create", {"name": steps[-1].given["name"]}))
    return steps


def raw(draw: random.Random) -> bytes | None:
    """Mostly a few bytes, at times null, empty, or as large as a small segment is to notice."""
    return draw.choice(
        (None, b"", draw.randbytes(5), b"abc" * draw.randrange(30), draw.randbytes(draw.choice((9, 60_000))))
    )


def columns(draw: random.Random, most: int) -> dict[str, Any]:
    count = draw.randrange(most)
    return {
        "values": [raw(draw) for _ in range(count)],
        "keys": [b"%d" % draw.randrange(9) for _ in range(count)],
        "timestamps_ms": [draw.randrange(2_000) for _ in range(count)],
        "headers": [pairs(draw) for _ in range(count)],
    }


def pairs(draw: random.Random) -> list[tuple[str, bytes | None]]:
    return [(draw.choice(("h", "ü", "")), draw.choice((None, b"", b"x"))) for _ in range(draw.choice((0, 0, 0, 2)))]


def row(draw: random.Random) -> dict[str, Any]:
    return {
        "value": raw(draw),
        "key": b"%d" % draw.randrange(9),
        "timestamp_ms": draw.randrange(2_000),
        "headers": pairs(draw),
    }


def append(draw: random.Random) -> dict[str, Any]:
    return row(draw)


def append_many(draw: random.Random) -> dict[str, Any]:
    return columns(draw, 12) | draw.choice(({}, {"partition": draw.randrange(PARTITIONS)}))


def append_if(draw: random.Random) -> dict[str, Any]:
    return row(draw) | {"partition": draw.randrange(PARTITIONS), "off_by": draw.choice((0, 0, 1, -1))}


def send(draw: random.Random) -> dict[str, Any]:
    return {"rows": [row(draw) for _ in range(draw.randrange(10))]}


def send_many(draw: random.Random) -> dict[str, Any]:
    return columns(draw, 40)


def read(draw: random.Random) -> dict[str, Any]:
    return {"partition": draw.randrange(PARTITIONS), "start": draw.random(), "until": draw.random()}


def at_a_time(draw: random.Random) -> dict[str, Any]:
    return {"partition": draw.randrange(PARTITIONS), "stamp": draw.randrange(2_000)}


def tail(draw: random.Random) -> dict[str, Any]:
    return {"n": draw.randrange(9)}


def alter(draw: random.Random) -> dict[str, Any]:
    return {"max_message_bytes": draw.choice((1, 2, 3)) << 20}


def nothing_more(draw: random.Random) -> dict[str, Any]:
    return {}


def ends(draw: random.Random) -> dict[str, Any]:
    return nothing_more(draw)


def flush(draw: random.Random) -> dict[str, Any]:
    return nothing_more(draw)


def delete(draw: random.Random) -> dict[str, Any]:
    return nothing_more(draw)


def open_again(draw: random.Random) -> dict[str, Any]:
    return nothing_more(draw)


# Who plays it


class Actor:
    """One process's store and producer under a world's settings; each method gives an answer to be compared."""

    def __init__(self, target: Path | str, world: World) -> None:
        self._target = target
        self._world = world
        self._is_private = target == ":memory:"
        self._open(**world.store)

    def play(self, step: Step) -> Any:
        """The answer to one step; an error that a user is to expect is an answer, too."""
        try:
            return getattr(self, step.what)(**step.given)
        except OffsetConflictError as conflict:
            return "conflict", conflict.expected, conflict.actual

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        with self.store:
            assert error or self.store.check().ok

    def contents(self) -> Contents:
        """All records of all topics."""
        found: Contents = {}
        for name in self.store.topics():
            topic = self.store.topic(name)
            for number in range(topic.partition_count):
                found[name, number] = [row_of(record) for record in topic.read(number)]
        return found

    def _open(self, **settings: Any) -> None:
        self.store = kafkalite.connect(self._target, **settings)
        self.producer = self.store.producer(**self._world.producer)

    def _topic(self, name: str) -> kafkalite.Topic[bytes, bytes | None]:
        return self.store.topic(name, create=False)

    def create(self, name: str) -> list[str]:
        self.store.topic(name, partitions=PARTITIONS, **self._world.topic)
        return self.store.topics()

    def delete(self, name: str) -> list[str]:
        self.store.delete_topic(name)
        with pytest.raises(UnknownTopicError):
            self._topic(name)
        return self.store.topics()

    def append(self, name: str, **given: Any) -> Any:
        return self._topic(name).append(given.pop("value"), **given)

    def append_many(self, name: str, **given: Any) -> Any:
        return self._topic(name).append_many(given.pop("values"), **given)

    def append_if(self, name: str, partition: int, off_by: int, **given: Any) -> Any:
        topic = self._topic(name)
        end = max(0, topic.end_offsets()[partition] + off_by)
        return topic.append(given.pop("value"), partition=partition, expected_end_offset=end, **given)

    def send(self, name: str, rows: Sequence[dict[str, Any]]) -> Any:
        """How many go into one commit is the producer's affair; where they end up is not."""
        sent = [
            self.producer.send(name, one["value"], **{k: v for k, v in one.items() if k != "value"}) for one in rows
        ]
        self.producer.flush()
        return [delivery.result(60) for delivery in sent]

    def send_many(self, name: str, **given: Any) -> Any:
        return self.producer.send_many(self._topic(name), given.pop("values"), **given).result(60)

    def read(self, name: str, partition: int, start: float, until: float) -> list[Row]:
        topic = self._topic(name)
        end = topic.end_offsets()[partition]
        first, last = sorted((int(start * end), int(until * (end + 1))))
        return [row_of(record) for record in topic.read(partition, start=first, until=last)]

    def at_a_time(self, name: str, partition: int, stamp: int) -> list[Row]:
        moment = datetime.fromtimestamp(stamp / 1000, UTC)
        return [row_of(record) for record in self._topic(name).read(partition, start=moment)]

    def tail(self, name: str, n: int) -> dict[int, list[Row]]:
        found: dict[int, list[Row]] = {}
        for record in self._topic(name).tail(n):
            found.setdefault(record.partition, []).append(row_of(record))
        return found

    def ends(self, name: str) -> Any:
        topic = self._topic(name)
        return topic.beginning_offsets(), topic.end_offsets()

    def flush(self, name: str) -> None:
        self.store.flush()

    def alter(self, name: str, max_message_bytes: int) -> int:
        topic = self._topic(name)
        topic.alter(max_message_bytes=max_message_bytes)
        return int(topic.settings["max_message_bytes"])

    def open_again(self, name: str) -> None:
        """Where there is something to open again."""
        if not self._is_private:
            self.store.close()
            self._open()


def row_of(record: kafkalite.Record[Any, Any]) -> Row:
    return record.offset, record.timestamp_ms, record.key, record.value, record.headers


class Outcome(NamedTuple):
    """What a script's steps were answered, and what there is at the end."""

    answers: list[Any]
    contents: Contents


def play(steps: Sequence[Step], world: World, directory: Path) -> Outcome:
    """In this process, or step by step in several that have the store open all the while."""
    if world.processes > 1:
        return _play_in_turns(steps, world, directory)
    with Actor(world.target(directory), world) as actor:
        return Outcome([actor.play(step) for step in steps], actor.contents())


def _play_in_turns(steps: Sequence[Step], world: World, directory: Path) -> Outcome:
    target, board = world.target(directory), Board()
    kafkalite.connect(target, **world.store).close()
    players = [Forked(_take_turns, steps, world, target, board, number) for number in range(world.processes)]
    try:
        taken = [player.result() for player in players]
    finally:
        for player in players:
            player.close()
    answers = [taken[number % world.processes][number] for number in range(len(steps))]
    with Actor(target, World(world.layout)) as actor:
        return Outcome(answers, actor.contents())


def _take_turns(steps: Sequence[Step], world: World, target: Path | str, board: Board, own: int) -> dict[int, Any]:
    answers = {}
    with Actor(target, World(world.layout, topic=world.topic, producer=world.producer)) as actor:
        for number in range(own, len(steps), world.processes):
            until(partial(_is_turn, board, number), f"step {number}")
            answers[number] = actor.play(steps[number])
            board[0] = number + 1
    return answers


def _is_turn(board: Board, number: int) -> bool:
    return board[0] == number


WORLDS: Final = {
    "single file": World("file"),
    "memory": World("memory"),
    "interval": World(store={"durability": "interval", "flush_interval_ms": 1}),
    "none": World(store={"durability": "none"}),
    "file, none": World("file", store={"durability": "none"}),
    "tiny segments": World(store={"segment_bytes": 512 * KIB}),
    "tiny segments in a file": World("file", store={"segment_bytes": 512 * KIB, "durability": "interval"}),
    "large segments": World(store={"segment_bytes": 256 << 20}),
    "least commits": World(store={"max_commit_bytes": KIB * KIB, "segment_bytes": 512 * KIB}),
    "compressed topics": World(topic={"compression_type": "zstd"}),
    "topics without compression": World(
        "file", topic={"compression_type": "none"}, producer={"compression_type": "zstd"}
    ),
    "compressed batches": World(producer={"compression_type": "zstd"}),
    "no linger": World(producer={"linger_ms": 0}),
    "a batch for each record": World("file", producer={"batch_size": 0}),
    "small batches": World("memory", producer={"batch_size": 100, "linger_ms": 0}),
    "large batches, long linger": World("memory", producer={"batch_size": 1 << 24, "linger_ms": 3_600_000}),
    "little memory": World("memory", producer={"buffer_memory": 1_000}),
    "without idempotence": World("memory", producer={"enable_idempotence": False}),
    "two processes": World(processes=2),
    "two processes, one file": World("file", processes=2, store={"segment_bytes": 512 * KIB, "durability": "none"}),
    "three processes, compressed": World(
        processes=3, topic={"compression_type": "zstd"}, producer={"linger_ms": 0, "batch_size": 1_000}
    ),
}
SEEDS: Final = (20260201, 20260202)


@pytest.fixture(scope="module")
def expected() -> Callable[[int], Outcome]:
    """What a script gives under the defaults."""
    known = {}
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as directory:
            known[seed] = play(script(seed), World(), Path(directory))
    return known.__getitem__


def first_difference(one: Outcome, other: Outcome, steps: Sequence[Step]) -> Iterator[str]:
    """What differs, in words: records are long."""
    for number, (step, left, right) in enumerate(zip(steps, one.answers, other.answers, strict=True)):
        if left != right:
            yield f"step {number}, {step.what}: {str(left)[:200]} … and {str(right)[:200]}"
    for where in one.contents.keys() | other.contents.keys():
        if one.contents.get(where) != other.contents.get(where):
            yield f"the contents of {where}"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", WORLDS)
def test_the_same_operations_give_the_same_answers(
    expected: Callable[[int], Outcome], scratch: Path, name: str, seed: int
) -> None:
    found = play(script(seed), WORLDS[name], scratch)
    assert list(first_difference(expected(seed), found, script(seed))) == []
    assert sum(map(len, found.contents.values())) >= 100


def test_a_script_does_all_there_is_to_do() -> None:
    """And is the same each time."""
    steps = [step for seed in SEEDS for step in script(seed)]
    acts = {name for name in vars(Actor) if not name.startswith("_")} - {"play", "contents"}
    assert {step.what for step in steps} == acts
    assert script(SEEDS[0]) == script(SEEDS[0]) != script(SEEDS[1])


def test_canary_an_answer_and_a_record_that_differ(expected: Callable[[int], Outcome], scratch: Path) -> None:
    """One record more at the end; another partition in the middle."""
    steps = script(SEEDS[0])
    longer = [*steps, Step("append", {"name": "a", "value": b"x", "key": b"k", "timestamp_ms": 1})]
    found = play(longer, World("memory"), scratch)
    changed = Outcome(found.answers[:-1], found.contents)
    assert [said[:15] for said in first_difference(expected(SEEDS[0]), changed, steps)] == ["the contents of"]
    number = next(number for number, step in enumerate(steps) if step.what == "append")
    other = steps[number]._replace(given=steps[number].given | {"key": b"another key than before"})
    found = play([*steps[:number], other, *steps[number + 1 :]], World("memory"), scratch)
    said = next(first_difference(expected(SEEDS[0]), found, steps))
    assert said.startswith((f"step {number}, append", "the contents"))


@pytest.mark.long
def test_the_same_with_other_scripts(scratch: Path, seed: int) -> None:
    """Longer ones, a new one for each setting."""
    for number, (name, world) in enumerate(WORLDS.items()):
        steps = script(seed + number, 10 * LENGTH)
        wanted = play(steps, World(), scratch / f"defaults-{number}")
        found = play(steps, world, scratch / f"found-{number}")
        print(f"{name}: script of seed {seed + number}, {sum(map(len, found.contents.values()))} records")
        assert list(first_difference(wanted, found, steps)) == []
