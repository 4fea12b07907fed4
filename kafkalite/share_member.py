"""A member of a share group at work: what it acquired, has in hand, and has to say (`share_group` is its face).

    acquired, `ready`  --take-->  in hand, `hand`  --accept, release, reject-->  said, `_said`  --visit-->  done

What is said goes along with the next acquisition, or within 100 ms by the keeper. How many records are acquired at a
time follows the pace at which they are worked off: about `BATCH_SECONDS` of work, so that slow work is shared evenly
and fast work costs little. What was acquired and never handed out is given back, and that delivery is not counted.

`_visiting` lets one thread at a time step the store, a user's or the keeper's; `_lock` guards what is drawn above, for
moments. They are taken in this order.
"""

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from kafkalite import clock
from kafkalite.clock import Deadline
from kafkalite.columns import TopicEncoder
from kafkalite.coordinator.share_group import Acknowledgement, Span, Verb
from kafkalite.errors import ClosedError, CorruptRecordError, InvalidRecordStateError, KafkaliteError
from kafkalite.log import log
from kafkalite.model import Record
from kafkalite.serde import BatchSerde, resolve, resolve_key
from kafkalite.share_records import Item, LaneReader
from kafkalite.share_state import Lane, Letters, ShareState, Survey, Visit
from kafkalite.storage import keeper
from kafkalite.storage.catalogue import TopicState
from kafkalite.storage.commit import Operation
from kafkalite.storage.engine import Engine
from kafkalite.storage.internal import SHARE_LOG

MAX_ACQUIRED: Final = 4096
MAX_ACQUIRED_BYTES: Final = 4 << 20
BATCH_SECONDS: Final = 0.1
SEND_SECONDS: Final = 0.1
RETRY_SECONDS: Final = 1.0
LETTERS_AT_ONCE: Final = 500


Ends = Mapping[Lane, int] | None
Wait = Callable[[Iterable[int], Callable[[], bool], Deadline], object]
"""Sleep until one of these logs grows and it is ready, or the deadline passes: as `Wakeup.wait`."""


class ShareSource(NamedTuple):
    """A topic of a share group: its state, and the serdes of its handle."""

    topic: TopicState
    key: BatchSerde[Any]
    value: BatchSerde[Any]


class Hand:
    """What one iterator, or the last `poll`, handed out and nobody has acknowledged yet."""

    __slots__ = ("held", "is_poll")

    def __init__(self, *, is_poll: bool = False) -> None:
        self.held: dict[tuple[str, int, int], Item] = {}
        self.is_poll = is_poll


class ShareMember:
    """One member, from entering to leaving. `stop` and the acknowledging methods may be called from any thread."""

    def __init__(
        self,
        engine: Engine,
        group_id: str,
        sources: Sequence[ShareSource],
        *,
        max_delivery_count: int,
        acquire_timeout_ms: int,
        dead_letter: TopicState | None,
    ) -> None:
        self.engine = engine
        self.group_id = group_id
        self.incarnation = engine.incarnation
        self.archived_count = 0
        self.is_stopped = self.is_closed = False
        self.hand = Hand()
        self.pace = Pace()
        self.wait: Wait = engine.wakeup.wait
        self._sources = list(sources)
        self._known = [0] * len(self._sources)
        self._dead_letter = (
            None if dead_letter is None
            else TopicEncoder(dead_letter, resolve_key(None), resolve(None), engine.current)
        )  # fmt: skip
        self._state = ShareState(
            engine, group_id,
            max_delivery_count=max_delivery_count, acquire_timeout_ms=acquire_timeout_ms,
            has_dead_letter=dead_letter is not None,
        )  # fmt: skip
        self._readers: dict[Lane, LaneReader] = {}
        self._touched: set[Lane] = set()
        self._turn = 0
        self._visiting = threading.Lock()
        self._lock = threading.Lock()
        self._ready: deque[Item] = deque()
        self._said: dict[Lane, list[Acknowledgement]] = {}
        self._refused: list[str] = []
        self._is_due = False

    @property
    def is_here(self) -> bool:
        """Whether this is the process that entered the group, with the store still open."""
        return self.incarnation == self.engine.incarnation and self.engine.is_open

    def enter(self) -> None:
        """Make the group a share group; raises `ConfigError` when it is a consumer group with members,
        `StoreBusyError` when the store has no place for another process with members.
        """
        self.engine.use()  # in a forked child this opens the store again, with slots of its own
        self.engine.decide(self._state.enter)
        self._state.become_owner()

    def leave(self) -> None:
        """Say what is to be said, release what is in hand, give back the rest."""
        self.is_closed = True
        self.poke()  # a thread that waits is to see it
        with self._lock:
            for item in self.hand.held.values():
                self._say(item, Verb.RELEASE)
            self.hand.held.clear()
            self._give_back()
        self._visit(leaves=list(self._touched), is_last=True)

    def stop(self) -> None:
        """Have the loop that runs end. Takes no lock: a signal handler may call it."""
        self.is_stopped = True
        self.poke()

    def poke(self) -> None:
        """Wake who waits for records of these topics, this member among them."""
        self.engine.wakeup.poke([lane.log_id for lane in list(self._readers)])

    # In hand

    def new_hand(self, hand: Hand) -> None:
        """An iterator or a poll begins: what the former one left in hand is handed out again, first."""
        with self._lock:
            self._ready.extendleft(item._replace(was_handed_out=True) for item in reversed(self.hand.held.values()))
            self.hand.held.clear()
            self.hand = hand

    def confirm(self, *, is_poll: bool) -> None:
        """Being asked for more accepts what was handed out; a record that could not be decoded is rejected."""
        hand = self.hand
        if hand.held and hand.is_poll is is_poll:
            with self._lock:
                for item in hand.held.values():
                    self._say(item, Verb.ACCEPT if item.error is None else Verb.REJECT)
                hand.held.clear()
            self._send_later()

    def take(self) -> Item | None:
        """The next record that is ready, into the hand. One whose lock ended meanwhile is somebody else's."""
        now_ms = clock.boot_ms()
        with self._lock:
            while self._ready:
                item = self._ready.popleft()
                if item.until_ms > now_ms:
                    record = item.record
                    self.hand.held[record.topic, record.partition, record.offset] = item
                    return item
        return None

    def put_back(self, item: Item) -> None:
        """Out of the hand again: it is the next one that is ready."""
        record = item.record
        with self._lock:
            del self.hand.held[record.topic, record.partition, record.offset]
            self._ready.appendleft(item)

    def withdraw(self) -> None:
        """What is in hand was taken for somebody who never got it: it goes back to the group, with what is ready."""
        with self._lock:
            self._ready.extendleft(reversed(self.hand.held.values()))
            self.hand.held.clear()
            self._give_back()
        self._visit()

    def give_back(self) -> None:
        """What is ready goes back to the group, and what is to be said is said."""
        with self._lock:
            self._give_back()
        self._visit()

    def _give_back(self) -> None:
        """Under `_lock`."""
        for item in self._ready:
            self._say(item, Verb.RELEASE if item.was_handed_out else Verb.RETURN)
        self._ready.clear()

    # Acknowledging

    def acknowledge(self, record: Record[Any, Any], verb: Verb, delay: float = 0.0) -> None:
        """Say what became of a record; raises `InvalidRecordStateError` unless it is in hand, and still locked."""
        with self._lock:
            item = self.hand.held.pop((record.topic, record.partition, record.offset), None)
            if item is None or item.until_ms <= clock.boot_ms():
                why = "is not in hand" if item is None else "was in hand for too long, and its lock has ended"
                raise InvalidRecordStateError(
                    f"offset {record.offset} of topic {record.topic!r}, partition {record.partition}, {why}: it is "
                    "done already, or delivered again; allow more time with acquire_timeout_ms="
                )
            self._say(item, verb, -int(-delay * 1000 // 1))
        self._send_later()

    def commit(self) -> None:
        """Say it now; raises `InvalidRecordStateError` for what came too late since the last call."""
        self._visit()
        with self._lock:
            refused, self._refused = self._refused, []
        if refused:
            raise InvalidRecordStateError(
                f"the share group {self.group_id!r} no longer waited for this: {'; '.join(refused)}: it is delivered "
                "again; allow more time with acquire_timeout_ms="
            )

    def _say(self, item: Item, verb: Verb, delay_ms: int = 0) -> None:
        """Put down what became of a record, to be said with the next visit. Under `_lock`."""
        offset = item.record.offset
        _add(self._said.setdefault(item.lane.lane, []), Acknowledgement(offset, offset, verb, delay_ms))

    def _send_later(self) -> None:
        """Have the keeper say it, unless a visit comes first."""
        if not self._is_due:
            self._is_due = True
            keeper.after(SEND_SECONDS, self._task())

    def _task(self) -> Callable[[], None]:
        reference = weakref.WeakMethod(self._send_now)

        def task() -> None:
            send_now = reference()
            if send_now is not None:
                send_now()

        return task

    def _send_now(self) -> None:
        self._is_due = False
        if self.is_closed or not self.is_here or not self._said:
            return
        try:
            self._visit()
        except ClosedError:
            return
        except KafkaliteError as error:  # it stays to be said, and `commit` and `close` raise what keeps it from that
            log().warning("share group %r cannot acknowledge yet: %s", self.group_id, error)
            self._is_due = True
            keeper.after(RETRY_SECONDS, self._task())

    # Acquiring

    def lanes(self) -> list[Lane]:
        """All partitions of the topics, those added meanwhile included; another one first each time."""
        for number, source in enumerate(self._sources):
            topic = self.engine.current(source.topic)
            for partition in range(self._known[number], topic.partition_count):
                lane = Lane(self.group_id, topic, partition)
                self._readers[lane] = LaneReader(self.engine, lane, source.key, source.value)
            self._known[number] = topic.partition_count
        lanes = list(self._readers)
        self._turn = (self._turn + 1) % len(lanes)
        return lanes[self._turn :] + lanes[: self._turn]

    def _has_grown(self) -> bool:
        """Whether there are partitions, as far as the last look knows, that are not among the lanes."""
        return any(
            source.topic.partition_count > known for source, known in zip(self._sources, self._known, strict=True)
        )

    def ends(self) -> Ends:
        """The visible end of every partition."""
        return self._state.ends(self.lanes())

    def unfinished(self) -> dict[Lane, int]:
        """How many records of each partition are not done."""
        return self._state.unfinished(self.lanes())

    def describe(self) -> list[dict[str, object]]:
        """The partitions for people."""
        return self._state.describe(self.lanes())

    def fetch(self, want: int, ends: Ends, deadline: Deadline) -> bool:
        """Acquire and read some, or wait until there may be some; False when there is nothing more to wait for."""
        lanes = self.lanes()
        survey = self._state.survey(lanes, ends)
        if survey.candidates or self._said:
            visit = self._visit(survey.candidates, want, ends)
            if visit.taken:
                return True
            survey = self._state.survey(lanes, ends)
        if survey.candidates:
            return True
        if (ends is not None and not survey.unfinished) or deadline.passed():
            return False
        self._wait(survey, ends, deadline)
        return True

    def next_count(self) -> int:
        """How many to acquire next, at this pace and size."""
        size = max((reader.average_size for reader in self._readers.values()), default=0)
        return max(1, min(self.pace.next(), MAX_ACQUIRED_BYTES // max(1, size)))

    def _wait(self, survey: Survey, ends: Ends, deadline: Deadline) -> None:
        """Sleep until something is published or released, a lock ends or its owner does, or the deadline passes."""
        lanes = list(self._readers)
        log_ids = [lane.log_id for lane in lanes]
        if ends is not None:
            log_ids.append(SHARE_LOG)  # what others finish is news only to who waits for the end
        seconds = deadline.timeout()
        if survey.look_again is not None:
            soon = max(0, survey.look_again - clock.boot_ms() + 1) / 1000
            seconds = soon if seconds is None else min(seconds, soon)

        def ready() -> bool:
            if self.is_stopped or self.is_closed:
                return True
            now = self._state.survey(lanes, ends)
            return bool(now.candidates) or (ends is not None and not now.unfinished) or self._has_grown()

        self.wait(log_ids, ready, Deadline(seconds))

    # Visiting the store

    def _visit(
        self,
        candidates: Sequence[Lane] = (),
        max_records: int = 0,
        ends: Ends = None,
        *,
        leaves: Sequence[Lane] = (),
        is_last: bool = False,
    ) -> Visit:
        """Say what is to be said, acquire and read, see to what was given up."""
        with self._visiting:
            if self.is_closed and not is_last:
                raise ClosedError(f"the share group {self.group_id!r} was closed meanwhile: enter it again")
            with self._lock:
                said, self._said = self._said, {}
            visit = Visit(said, candidates, max_records, ends, leaves)
            self._touched.update(candidates)
            if visit.lanes():
                self._commit(visit)
            if visit.taken:
                self._read(visit)
            if visit.archiving:
                self._bury(visit.archiving)
        return visit

    def _commit(self, visit: Visit) -> None:
        operation = Operation(decide=self._state.decide(visit))
        try:
            self.engine.commit(operation)
        finally:
            if operation.is_done and operation.error is None:
                self._settle(visit)
            else:
                self._unsay(dict(visit.acknowledgements))

    def _unsay(self, said: dict[Lane, Sequence[Acknowledgement]]) -> None:
        """It was not said, and stays to be."""
        with self._lock:
            for lane, earlier in said.items():
                self._said[lane] = [*earlier, *self._said.get(lane, ())]

    def _settle(self, visit: Visit) -> None:
        """The visit happened: tell who is to know."""
        for lane, refused in visit.refused:
            if refused.verb not in (Verb.RETURN, Verb.SKIP):
                what = f"{refused.verb} offsets {refused.first} to {refused.last} of {_name(lane)}"
                log().warning("share group %r: too late to %s", self.group_id, what)
                with self._lock:
                    self._refused.append(what)
        for lane, archived in visit.archived:
            count = archived.last - archived.first + 1
            self.archived_count += count
            what = f"{count} records from offset {archived.first} of {_name(lane)}"
            log().warning(
                "share group %r gave up %s, after %d deliveries", self.group_id, what, archived.delivery_count
            )
        if visit.freed:
            self.engine.wakeup.poke([lane.log_id for lane in visit.freed])

    def _read(self, visit: Visit) -> None:
        """Read what was acquired; raises the first damage, with what lies behind it released."""
        failure: CorruptRecordError | None = None
        items: list[Item] = []
        said: list[tuple[Lane, Acknowledgement]] = []
        for lane, one in visit.taken:
            run = self._readers[lane].read(one.first, one.last, one.delivery_count, one.until_ms)
            items += run.items
            said += [(lane, Acknowledgement(first, last, Verb.SKIP)) for first, last in run.gaps]
            if run.unread_from is not None:
                failure = failure or run.error
                verb = Verb.RELEASE if run.error is not None else Verb.RETURN
                said.append((lane, Acknowledgement(run.unread_from, one.last, verb)))
        self.pace.begin(len(items))
        with self._lock:
            self._ready.extend(items)
            for lane, acknowledgement in said:
                _add(self._said.setdefault(lane, []), acknowledgement)
        if failure is not None:
            raise failure

    # Dead letters

    def _bury(self, archiving: Mapping[Lane, Iterable[Span]]) -> None:
        """Take what was given up to the dead letter topic: its letter and its end in one commit."""
        target = self._dead_letter
        assert target is not None, "without a dead letter topic nothing waits for it"
        self.engine.current(target.state)
        for lane, spans in archiving.items():
            source = next(source for source in self._sources if source.topic is lane.topic)
            reader = LaneReader(self.engine, lane, source.key, source.value)
            for span in spans:
                last = min(span.last, span.first + LETTERS_AT_ONCE - 1)
                letters = reader.letters(span.first, last, span.delivery_count, target, self.group_id)
                self._commit(Visit(letters={lane: letters}))
                self._report_unsent(lane, letters)

    def _report_unsent(self, lane: Lane, letters: Letters) -> None:
        for first, last, appends in letters:
            if not appends:
                what = f"offsets {first} to {last} of {_name(lane)}"
                log().error("share group %r: %s have no dead letter: unreadable, or too large", self.group_id, what)


class Pace:
    """How many records to acquire at a time: as many as are worked off in `BATCH_SECONDS`, found by doubling."""

    __slots__ = ("_began", "_count", "_want")

    def __init__(self) -> None:
        self._want = 1
        self._count = 0
        self._began = 0.0

    def begin(self, count: int) -> None:
        """So many were acquired now."""
        self._count = count
        self._began = clock.monotonic()

    def next(self) -> int:
        """How many next, now that those are worked off."""
        if self._count:
            seconds = clock.monotonic() - self._began
            if seconds > 2 * BATCH_SECONDS:
                self._want = max(1, int(self._count * BATCH_SECONDS / seconds))
            elif seconds < BATCH_SECONDS / 2 and self._count >= self._want:
                self._want = min(MAX_ACQUIRED, self._want * 2)
            self._count = 0
        return self._want


def _add(said: list[Acknowledgement], one: Acknowledgement) -> None:
    """Add an acknowledgement, joined to the one before if it goes on from it."""
    if said and said[-1].last + 1 == one.first and said[-1][2:] == one[2:]:
        said[-1] = said[-1]._replace(last=one.last)
    else:
        said.append(one)


def _name(lane: Lane) -> str:
    return f"topic {lane.topic.name!r}, partition {lane.partition}"
