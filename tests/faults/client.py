"""A client of a store, in a process of its own: what it does next is drawn, what it asks and is told is noted.

`Client` is sound; the others are what a client would see of a store that breaks one promise each, for canaries. `live`
is what a process of the crowd runs.
"""

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import kafkalite
from kafkalite import disk
from kafkalite.errors import KafkaTimeoutError, OffsetConflictError, OutcomeUnknownError, StoreBusyError
from kafkalite.storage.engine import Engine
from kafkalite.testing.history import Name, Recorder, Run, log_name, name_of, value_of
from tests.processes.forks import PATIENCE_S, Board

TOPICS: Final[Mapping[str, int]] = {"three": 3, "one": 1}
MOST_AT_ONCE: Final = 500
"""Records that one look takes: a history is not to grow faster than the store."""
SLOWEST_FLUSH_S: Final = 0.005
UNANSWERED: Final = (StoreBusyError, OutcomeUnknownError, KafkaTimeoutError)
"""After these an append may have happened or not."""


class Client:
    """One process's life: what it does next is drawn, and noted."""

    def __init__(self, path: Path, recorder: Recorder, seed: int) -> None:
        self.doing = "open"
        self._path = path
        self._recorder = recorder
        self._random = random.Random(seed)
        self._next: dict[str, dict[int, int]] = {}
        self._open()
        acts: dict[Callable[[], None], int] = {
            self.append: 10,
            self.append_many: 8,
            self.append_if: 8,
            self.send: 8,
            self.send_many: 3,
            self.read_on: 12,
            self.read_some: 4,
            self.ends: 8,
            self.follow: 3,
            self.flush: 2,
            self.alter: 1,
            self.open_again: 1,
            self.read_only: 1,
        }
        self._acts, self._weights = list(acts), list(acts.values())

    def act(self) -> None:
        """Do something."""
        (act,) = self._random.choices(self._acts, self._weights)
        self.doing = act.__name__
        act()

    def close(self) -> None:
        self.doing = "close"
        self._store.close()

    def _open(self) -> None:
        self._store = kafkalite.connect(self._path)
        self._topics = {name: self._store.topic(name, partitions=count) for name, count in TOPICS.items()}
        self._producer = self._store.producer(linger_ms=self._random.choice((0, 5)))

    def _topic(self) -> kafkalite.Topic[bytes, bytes | None]:
        return self._topics[self._random.choice(("three", "three", "one"))]

    def _partition(self, topic: kafkalite.Topic[Any, Any]) -> int:
        return self._random.randrange(topic.partition_count)

    def _value(self, number: int, part: int, parts: int) -> bytes:
        size = self._random.randrange(30_000) if self._random.random() < 0.01 else self._random.randrange(150)
        return value_of(self._recorder.client, number, part, parts, size)

    def _key(self) -> bytes:
        return b"%d" % self._random.randrange(20)

    # Writing

    def append(self) -> None:
        """One record."""
        topic, number = self._topic(), self._recorder.writes(1)
        with self._unanswered(number):
            done = topic.append(self._value(number, 0, 1), key=self._key())
            self._recorder.acknowledged(number, [(log_name(topic.name, done.partition), done.offset, done.offset + 1)])

    def append_many(self) -> None:
        """One commit over several partitions."""
        topic, parts = self._topic(), self._random.randint(2, 8)
        number = self._recorder.writes(parts)
        values = [self._value(number, part, parts) for part in range(parts)]
        with self._unanswered(number):
            self._acknowledge(number, topic.name, topic.append_many(values, keys=[self._key() for _ in values]))

    def append_if(self) -> None:
        """Records for the end that there is, or, now and then, for another."""
        topic, parts = self._topic(), self._random.randint(1, 3)
        partition = self._partition(topic)
        end = max(0, topic.end_offsets()[partition] + self._random.choice((0, 0, 0, 0, 1, -1)))
        number = self._recorder.writes(parts, expected=(log_name(topic.name, partition), end))
        values = [self._value(number, part, parts) for part in range(parts)]
        with self._unanswered(number):
            try:
                done = topic.append_many(values, partition=partition, expected_end_offset=end)
            except OffsetConflictError as conflict:
                self._recorder.refused(number, conflict.actual)
            else:
                self._acknowledge(number, topic.name, done)

    def send(self) -> None:
        """A few sends in flight at once; each is a write of its own."""
        topic, sent = self._topic(), []
        for _ in range(self._random.randint(1, 6)):
            number = self._recorder.writes(1)
            sent.append((number, self._producer.send(topic, self._value(number, 0, 1), key=self._key())))
        for number, delivery in sent:
            with self._unanswered(number):
                done = delivery.result(PATIENCE_S)
                self._recorder.acknowledged(
                    number, [(log_name(topic.name, done.partition), done.offset, done.offset + 1)]
                )

    def send_many(self) -> None:
        """A run of records, acknowledged together, not one commit."""
        topic, parts = self._topic(), self._random.randint(1, 15)
        number = self._recorder.writes(parts, is_atomic=False)
        values = [self._value(number, part, parts) for part in range(parts)]
        with self._unanswered(number):
            delivery = self._producer.send_many(topic, values, keys=[self._key() for _ in values])
            self._acknowledge(number, topic.name, delivery.result(PATIENCE_S))

    def _acknowledge(self, number: int, topic: str, done: Mapping[int, range]) -> None:
        ranges = [(log_name(topic, partition), offsets.start, offsets.stop) for partition, offsets in done.items()]
        self._recorder.acknowledged(number, ranges)

    def _unanswered(self, number: int) -> "_Unanswered":
        return _Unanswered(self._recorder, number)

    # Reading

    def ends(self) -> None:
        """Where a topic's partitions end, at one moment."""
        topic, number = self._topic(), self._recorder.looks()
        found = topic.end_offsets()
        self._recorder.saw(number, {}, ends={log_name(topic.name, partition): end for partition, end in found.items()})

    def read_on(self) -> None:
        """From where this client's last look at the topic ended to the end that there is now."""
        topic = self._topic()
        if topic.name not in self._next:
            ends = topic.end_offsets()
            self._next[topic.name] = {number: max(0, end - MOST_AT_ONCE // 4) for number, end in ends.items()}
        start = self._next[topic.name]
        number = self._recorder.looks()
        found: dict[int, list[Name]] = {partition: [] for partition in start}
        for record in topic.read(start=start):
            assert record.offset == start[record.partition] + len(found[record.partition])
            found[record.partition].append(name_of(record.value))
        seen: dict[str, Run] = {log_name(topic.name, part): (start[part], names) for part, names in found.items()}
        self._next[topic.name] = {part: start[part] + len(names) for part, names in found.items()}
        ends_now = {log_name(topic.name, part): end for part, end in self._next[topic.name].items()}
        self._recorder.saw(number, seen, ends=ends_now, reader=f"on {topic.name}")

    def read_some(self) -> None:
        """A window anywhere in a partition."""
        topic = self._topic()
        partition = self._partition(topic)
        end = topic.end_offsets()[partition]
        start = self._random.randint(0, end)
        number = self._recorder.looks()
        until = min(end, start + self._random.randrange(MOST_AT_ONCE))
        found = list(topic.read(partition, start=start, until=until))
        assert [record.offset for record in found] == list(range(start, until))
        run = (start, [name_of(record.value) for record in found])
        self._recorder.saw(number, {log_name(topic.name, partition): run})

    def follow(self) -> None:
        """A few batches as they come: others write all the while."""
        topic = self._topic()
        reader = f"follower {self._random.getrandbits(32)}"
        batches = topic.batches(start="latest", until=None)
        for _ in range(self._random.randint(1, 20)):
            number = self._recorder.looks()
            batch = next(batches)
            run = (batch.offsets[0], [name_of(value) for value in batch.values])
            self._recorder.saw(number, {log_name(topic.name, batch.partition): run}, reader=reader)

    # The store

    def flush(self) -> None:
        self._store.flush()

    def alter(self) -> None:
        """What belongs to the store and to a topic, for everybody."""
        if self._random.random() < 0.5:
            self._topic().alter(max_message_bytes=self._random.choice((1, 2)) << 20)
        else:
            level = self._random.choice(("commit", "interval", "none"))
            self._store.alter(durability=level, flush_interval_ms=self._random.choice((20, 1000)))

    def open_again(self) -> None:
        """Close, and open another time."""
        self._store.close()
        self._open()

    def read_only(self) -> None:
        """With a handle that may not write."""
        with kafkalite.connect(self._path, read_only=True) as store:
            number = self._recorder.looks()
            ends = store.topic("three").end_offsets()
            self._recorder.saw(number, {}, ends={log_name("three", part): end for part, end in ends.items()})


class TooEarly(Client):
    """What a store would be that acknowledges before it appends."""

    def append(self) -> None:
        topic = self._topic()
        partition = self._partition(topic)
        end, number = topic.end_offsets()[partition], self._recorder.writes(1)
        self._recorder.acknowledged(number, [(log_name(topic.name, partition), end, end + 1)])
        time.sleep(0.005)
        topic.append(self._value(number, 0, 1), partition=partition)


class Losing(Client):
    """What a store would be that acknowledges, and never appends."""

    def append(self) -> None:
        topic = self._topic()
        partition = self._partition(topic)
        end, number = topic.end_offsets()[partition], self._recorder.writes(1)
        self._recorder.acknowledged(number, [(log_name(topic.name, partition), end, end + 1)])


class Forgetful(Client):
    """What a store would be that answers from an old snapshot."""

    _known: Mapping[int, int] | None = None

    def ends(self) -> None:
        topic, number = self._topics["three"], self._recorder.looks()
        self._known = self._known or topic.end_offsets()
        self._recorder.saw(
            number, {}, ends={log_name(topic.name, partition): end for partition, end in self._known.items()}
        )


class Halving(Client):
    """What a store would be that commits the records of one call one after another."""

    def append_many(self) -> None:
        topic, parts = self._topics["three"], 6
        number = self._recorder.writes(parts)
        for part in range(parts):
            topic.append(self._value(number, part, parts), partition=part % 3)
            time.sleep(0.005)


class Impatient(Client):
    """What a store would be of which every second process shows what is not flushed yet."""

    def _open(self) -> None:
        if self._recorder.client % 2 == 0 and Engine.snapshot is not _snapshot_of_all:
            Engine.snapshot = _snapshot_of_all  # type: ignore[method-assign]
        super()._open()

    def alter(self) -> None:
        """Not the durability: without a flush to wait for there is nothing to show too early."""


_snapshot = Engine.snapshot


@contextlib.contextmanager
def _snapshot_of_all(engine: Engine) -> Iterator[Any]:
    with _snapshot(engine) as (transaction, positions):
        yield transaction, positions._replace(published=positions.tail)


class _Unanswered:
    """A block that answers a write; an error after which it may have happened or not is noted, others are raised."""

    def __init__(self, recorder: Recorder, number: int) -> None:
        self._recorder = recorder
        self._number = number

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if not isinstance(error, UNANSWERED):
            return False
        self._recorder.unknown(self._number, repr(error))
        return True


def live(
    kind: type[Client], path: Path, history: Path, client: int, seed: int, board: Board, cell: int, pause_s: float
) -> None:
    """A client's process: what it does, and perhaps the step at which it kills or stops itself.

    Every second one has a slower disk, so that there is time between a commit and its flush in memory as well.
    """
    draw = random.Random(seed)
    if draw.random() < 0.5:
        disk.flush = partial(_flush_slowly, disk.flush, draw.uniform(0, SLOWEST_FLUSH_S))
    recorder = Recorder(history, client)
    doing: list[Client] = []
    fate = draw.choices(("live", "kill", "stop"), (4, 3, 3))[0]
    if fate != "live":
        number = signal.SIGKILL if fate == "kill" else signal.SIGSTOP
        _strike_at(draw.choice((15, 60, 400)), draw, number, recorder, doing)
    one = kind(path, recorder, seed)
    doing.append(one)
    for _ in range(draw.choice((10, 60, 400))):
        one.act()
        board[cell] += 1
        time.sleep(draw.expovariate(1 / pause_s))
    one.close()


def _flush_slowly(flush: Callable[..., None], seconds: float, *given: Any) -> None:
    time.sleep(seconds)
    flush(*given)


def _strike_at(most: int, draw: random.Random, number: signal.Signals, recorder: Recorder, doing: list[Client]) -> None:
    """A signal for this process at one of its first `most` steps, noted before."""
    left = draw.randint(1, most)
    counting = threading.Lock()

    def hook(step: str) -> None:
        nonlocal left
        with counting:
            left -= 1
            if left == 0:
                disk.on_step = None
                recorder.note("fault", doing=doing[0].doing if doing else "open", step=step, kind=number.name)
                os.kill(os.getpid(), number)

    disk.on_step = hook
