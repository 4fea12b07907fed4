"""A worker: one process of a pool (`workers`). It is a member of the group, and gives each of its records to a handler.

    hold the record -> handler(record) -> let go -> ask for the next record, which confirms this one

What it has in hand stands in `words`, eight numbers of memory shared with its supervisor, written one by one so that
SIGKILL finds each old or new:

    0  holds     1 while the handler has a record
    1  log id    of that record's partition
    2  offset    of that record
    3  handled   how many records the handler has done, 4 retried, 5 sent to the dead letter topic

Before the first record of a partition that it gained (by then somebody may have died of it), it asks the supervisor
how many workers that record has killed; in between nobody else can have had it. A record that has to be given up goes
to the dead letter topic in the commit of its offset; or the worker says so, and ends without confirming it.

It ends when told to: SIGTERM, or the end of the pipe to its supervisor, finish the record in hand. SIGINT is left to
the supervisor: at a terminal Ctrl-C reaches both.
"""

import logging
import pickle
import signal
import threading
from bisect import bisect_left
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final, Literal, NamedTuple

import lmdb

from kafkalite.columns import TopicEncoder
from kafkalite.consumer_group import ConsumerGroup
from kafkalite.errors import DeserializationError, FencedMemberError, RecordTooLargeError
from kafkalite.membership import Membership
from kafkalite.model import Record
from kafkalite.serde import resolve, resolve_key
from kafkalite.share_records import HEADER_PREFIX
from kafkalite.storage import internal
from kafkalite.storage.commit import Append
from kafkalite.storage.internal import OFFSETS_LOG
from kafkalite.store import Store, connect
from kafkalite.subscription import Subscription

HOLDS, LOG, OFFSET, HANDLED, RETRIED, LETTERS = range(6)
WORDS: Final = 8
MOST_KILLS: Final = 3
"""A record that has killed so many workers is given up."""
FIRST_WAIT: Final = 0.1
LONGEST_WAIT: Final = 10.0
"""Seconds before something is tried again: the first time, and at most; each time twice as long."""
HANDLED_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

Place = tuple[str, int, int]
"""Topic, partition and offset of a record."""


class Job(NamedTuple):
    """What a worker is to do; `path` is the store's, `begin` is called first of all."""

    path: str
    group_id: str
    subscription: Subscription
    settings: dict[str, Any]
    callbacks: tuple[Any, Any, Any]
    handler: Callable[[Record[Any, Any]], object]
    retries: int
    dead_letter: str | None
    until: Literal["end"] | None
    begin: Callable[[], object] | None


class Ready(NamedTuple):
    """A worker says: I am a member."""


class Ask(NamedTuple):
    """A worker asks: how many workers has this record killed? The answer is a number."""

    place: Place
    log_id: int


class Said(NamedTuple):
    """A worker says something for the log."""

    level: int
    text: str


class Failed(NamedTuple):
    """A worker says: this cannot go on; where it is a record's doing, which one."""

    text: str
    place: Place | None


class Ended(NamedTuple):
    """A worker says: all was read to its end."""


def wait_before(number: int) -> float:
    """Seconds before the try after `number` failed ones, from 1 on."""
    return min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(number - 1, 16))


def named(place: Place) -> str:
    """A record for people."""
    topic, partition, offset = place
    return f"{topic!r}, partition {partition}, offset {offset}"


def main(connection: Connection, words: Any, job: bytes) -> None:
    """The process. Its supervisor has blocked the signals until this has handlers for them."""
    stop = Stop()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, stop.on_signal)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED_SIGNALS)
    try:
        given: Job = pickle.loads(job)  # noqa: S301  (its own parent pickled it)
    except Exception as error:  # noqa: BLE001  (whatever an import raises)
        connection.send(Failed(f"a worker cannot load its handler: {type(error).__name__}: {error}", None))
        return
    if given.begin is not None:
        given.begin()
    with connect(given.path if Path(given.path).suffix else f"{given.path}/", create=False) as store:
        Worker(store, given, connection, words, stop).run()


class Stop:
    """That the worker is to end, and the wait that notices. From any thread; from a signal's handler, too."""

    def __init__(self) -> None:
        self.is_set = False
        self.group: ConsumerGroup[Any, Any] | None = None
        self._told: SimpleQueue[None] = SimpleQueue()  # its put may interrupt its get, as no lock's may

    def set(self) -> None:
        """End, once the record in hand is done."""
        self.is_set = True
        self._told.put(None)
        if self.group is not None:
            self.group.stop()

    def on_signal(self, *_: object) -> None:
        """The handler of SIGTERM."""
        self.set()

    def wait(self, seconds: float) -> bool:
        """Wait so long, or until it is set; whether it is."""
        with suppress(Empty):
            self._told.get(timeout=seconds)
        return self.is_set


class Worker:
    """The member, its handler and its supervisor, for as long as the process goes."""

    def __init__(self, store: Store, job: Job, connection: Connection, words: Any, stop: Stop) -> None:
        self._job = job
        self._connection = connection
        self._words = words
        self._stop = stop
        self._engine = store._engine
        self._group: ConsumerGroup[Any, Any] = ConsumerGroup(
            self._engine, job.group_id, job.subscription, job.settings, job.callbacks
        )
        letters = None if job.dead_letter is None else self._engine.topic(job.dead_letter)
        self._letters = (
            None if letters is None else TopicEncoder(letters, resolve_key(None), resolve(None), self._engine.current)
        )
        self._answers: SimpleQueue[int | None] = SimpleQueue()
        self._member: Membership | None = None
        self._epoch = -1
        self._known: dict[tuple[str, int], int] = {}
        """Log ids by topic and partition, of those whose first record was asked about since the group changed."""

    def run(self) -> None:
        """Handle records until told to stop, or to the end."""
        threading.Thread(target=self._listen, name="kafkalite-worker-listens", daemon=True).start()
        with self._group as group:
            self._stop.group = group
            if self._stop.is_set:
                group.stop()
            self._connection.send(Ready())
            self._handle_all(group)
        if not self._stop.is_set:
            self._connection.send(Ended())

    def _listen(self) -> None:
        """The supervisor's answers; it has ended when the pipe does, and then this worker is to end as well."""
        try:
            while True:
                self._answers.put(self._connection.recv())
        except (EOFError, OSError):
            self._answers.put(None)
            self._stop.set()

    def _handle_all(self, group: ConsumerGroup[Any, Any]) -> None:
        records = group.records(until=self._job.until)
        goes_on = True
        while goes_on:
            try:
                record = next(records)
            except StopIteration:
                return
            except DeserializationError as error:
                goes_on = self._give_up(error.record, f"cannot be decoded: {error}", 0)
            else:
                goes_on = self._handle(record)

    def _handle(self, record: Record[Any, Any]) -> bool:
        """Handle one record, whatever it takes; whether to go on."""
        kills = self._begin(record)
        if kills is None:
            return False
        if kills >= MOST_KILLS:
            return self._give_up(record, f"killed its worker {kills} times", kills)
        words = self._words
        for number in count(1):
            words[HOLDS] = 1
            try:
                self._job.handler(record)
            except Exception as error:  # noqa: BLE001  (a handler may raise anything)
                words[HOLDS] = 0
                why = f"{type(error).__name__}: {error}"
                if number > self._job.retries:
                    return self._give_up(record, f"failed {number} times, at last with {why}", number)
                words[RETRIED] += 1
                if self._wait_to_retry(record, number, why):
                    return False
            else:
                words[HOLDS] = 0
                words[HANDLED] += 1
                return True
        return False  # pragma: no cover  (the loop has no end)

    def _begin(self, record: Record[Any, Any]) -> int | None:
        """Note what is in hand; how many workers it has killed, None when the supervisor is gone."""
        group, words = self._group, self._words
        member = group._member
        assert member is not None
        if member is not self._member or member.epoch != self._epoch:
            self._member, self._epoch = member, member.epoch
            self._known.clear()
        kills: int | None = 0
        log_id = self._known.get(record[:2])
        if log_id is None:
            assert group._run is not None
            log_id = group._run.log_id
            self._connection.send(Ask(record[:3], log_id))
            kills = self._answers.get()
            self._known[record[:2]] = log_id
        words[LOG] = log_id
        words[OFFSET] = record.offset
        return kills

    def _wait_to_retry(self, record: Record[Any, Any], number: int, why: str) -> bool:
        """Wait before the next try; whether the worker is to end instead, and the record is handed out again."""
        seconds = wait_before(number)
        of = self._job.retries + 1
        self._say(logging.WARNING, f"{named(record[:3])} failed, try {number} of {of}: {why}; again in {seconds:g} s")
        return self._stop.wait(seconds)

    def _say(self, level: int, text: str) -> None:
        self._connection.send(Said(level, text))

    # Giving up

    def _give_up(self, record: Record[Any, Any], why: str, tries: int) -> bool:
        """Send a record to the dead letter topic, or end the group; whether to go on."""
        place = record[:3]
        if self._letters is None:
            self._end(f"{named(place)} {why}; there is no dead letter topic", place)
            return False
        try:
            self._bury(self._letters, record, why, tries)
        except FencedMemberError:
            self._say(logging.WARNING, f"{named(place)} {why}; it is another worker's by now")
        except RecordTooLargeError as error:
            self._end(f"{named(place)} {why}; it does not fit the dead letter topic: {error}", place)
            return False
        else:
            self._words[LETTERS] += 1
            self._say(logging.ERROR, f"{named(place)} {why}; sent to {self._job.dead_letter!r}")
        return True

    def _end(self, text: str, place: Place) -> None:
        self._connection.send(Failed(text, place))
        self._stop.set()

    def _bury(self, letters: TopicEncoder[Any, Any], record: Record[Any, Any], why: str, tries: int) -> None:
        """Append the record's bytes to the dead letter topic and commit its offset, in one; raises `FencedMemberError`,
        `RecordTooLargeError`.
        """
        self._engine.current(letters.state)
        with self._group._use() as member:
            run = self._group._run
            assert run is not None
            partition, batch = self._letter(letters, run.log_id, record, why, tries)
            offsets = {run.log_id: record.offset + 1}

            def decide(transaction: lmdb.Transaction) -> list[Append]:
                committed = internal.batch_of(member.offset_records(transaction, offsets))
                letter = Append(letters.state.log_ids[partition], batch, letters.state)
                return [letter, Append(OFFSETS_LOG, committed)]

            self._engine.decide(decide)
            member.noted(offsets)

    def _letter(
        self, letters: TopicEncoder[Any, Any], log_id: int, record: Record[Any, Any], why: str, tries: int
    ) -> tuple[int, Any]:
        """The record as it was appended, with why and whence in headers after KIP-1191; partition and batch."""
        fetched = self._group._share.lanes[log_id].fetched
        assert fetched is not None
        columns = fetched.columns
        number = bisect_left(columns.offsets, record.offset)
        told = {
            "topic": record.topic, "partition": str(record.partition), "offset": str(record.offset),
            "group": self._job.group_id, "delivery.count": str(tries), "message": why,
        }  # fmt: skip
        headers = [*columns.headers[number], *((HEADER_PREFIX + name, text.encode()) for name, text in told.items())]
        return letters.one(
            columns.values[number], columns.keys[number], None, headers, columns.timestamps_ms[number], None
        )
