"""The share partition: which records of a partition are available, in whose hands, or done, as a pure state machine.

A share group (KIP-932) is a queue: its members take records from the same partitions, each record is locked for the
one who acquired it, and acknowledged for itself. So there is no offset that stands for all before it, but a window:

    start offset            every record before is done
    spans                   runs of records of one state each, side by side, from the start offset to the end offset
    end offset              no record from here on was ever acquired

    state          a record is                                    goes over to
    AVAILABLE      free, perhaps only after a delay               ACQUIRED, or ARCHIVING when delivered too often
    ACQUIRED       locked for its owner until a deadline          whatever its owner says, or AVAILABLE again
    ACKNOWLEDGED   processed: done
    ARCHIVING      given up, not yet in the dead letter topic     ARCHIVED
    ARCHIVED       given up: done

What has to survive is `snapshot`: start offset, states and delivery counts, where an acquired record stands as it
stood before. `locks` may be lost without harm: then what was acquired is available again, and that delivery was not
counted. Time comes in with each event, in ms of one clock that all who share the locks read; every event first frees
what is past its deadline, so a late acknowledgement is always refused, whether or not somebody looked meanwhile.

An event costs as many steps as there are spans, however many records they hold, and the window does not grow beyond
`MAX_SPANS`. A record that was delivered before is acquired alone: one that kills whoever has it takes no others with
it more than once. There is no order: what is released comes again when it can, whoever took what is after it.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any, Final, NamedTuple

MAX_SPANS: Final = 2000
"""Beyond, nothing new is acquired until old records are done: Kafka's `group.share.partition.max.record.locks`."""
NOBODY: Final = ""
MAX_OFFSET: Final = 2**63 - 1


class State(IntEnum):
    """Of a record; Kafka's names and numbers. See the table above."""

    AVAILABLE = 0
    ACQUIRED = 1
    ACKNOWLEDGED = 2
    ARCHIVING = 3
    ARCHIVED = 4


class Verb(StrEnum):
    """What can happen to a record."""

    ACQUIRE = "acquire"
    ACCEPT = "accept"
    RELEASE = "release"
    RETURN = "return"
    """Given back by an owner who never handed it out: that delivery does not count."""
    REJECT = "reject"
    SKIP = "skip"
    """Its owner found no record at the offset: a control record, or one that was compacted away."""
    TIME_OUT = "time out"
    ABANDON = "abandon"
    """Its owner is gone."""
    EXHAUST = "exhaust"
    """It was delivered as often as it may be."""
    BURY = "bury"
    """It is in the dead letter topic, or there is none."""


TRANSITIONS: Final[Mapping[tuple[State, Verb], State]] = {
    (State.AVAILABLE, Verb.ACQUIRE): State.ACQUIRED,
    (State.AVAILABLE, Verb.EXHAUST): State.ARCHIVING,
    (State.ACQUIRED, Verb.ACCEPT): State.ACKNOWLEDGED,
    (State.ACQUIRED, Verb.RELEASE): State.AVAILABLE,
    (State.ACQUIRED, Verb.RETURN): State.AVAILABLE,
    (State.ACQUIRED, Verb.REJECT): State.ARCHIVING,
    (State.ACQUIRED, Verb.SKIP): State.ARCHIVED,
    (State.ACQUIRED, Verb.TIME_OUT): State.AVAILABLE,
    (State.ACQUIRED, Verb.ABANDON): State.AVAILABLE,
    (State.ARCHIVING, Verb.BURY): State.ARCHIVED,
}
"""THE table. What is not in it does not happen: to an owner it is refused."""

DONE: Final = frozenset({State.ACKNOWLEDGED, State.ARCHIVED})
OF_OWNER: Final = frozenset({Verb.ACCEPT, Verb.RELEASE, Verb.RETURN, Verb.REJECT, Verb.SKIP})


class Span(NamedTuple):
    """Records `first` to `last` (inclusive), all in one state.

    `until_ms`: when the lock of an acquired record ends; before when an available one is not to be had, 0 for now.
    """

    first: int
    last: int
    state: State
    delivery_count: int = 0
    owner: str = NOBODY
    until_ms: int = 0


class Batch(NamedTuple):
    """A span as it is recorded: no locks."""

    first: int
    last: int
    state: State
    delivery_count: int


class Snapshot(NamedTuple):
    """What has to survive. Records between the batches, and after the last, are available and were never delivered."""

    start_offset: int
    batches: tuple[Batch, ...] = ()


class Lock(NamedTuple):
    """What may be lost: an acquisition, or the delay of an available span, which has no owner."""

    first: int
    last: int
    delivery_count: int
    owner: str
    until_ms: int


# Events


class Acknowledgement(NamedTuple):
    """What an owner says of records `first` to `last`. Released ones are available again after `delay_ms`."""

    first: int
    last: int
    verb: Verb
    delay_ms: int = 0


@dataclass(frozen=True, slots=True)
class Acquire:
    """A member wants up to `max_records`, none at or beyond `end_offset`; with `is_fresh` none delivered before."""

    owner: str
    max_records: int
    end_offset: int
    is_fresh: bool = False


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """A member says what became of records that it acquired."""

    owner: str
    acknowledgements: Sequence[Acknowledgement]


@dataclass(frozen=True, slots=True)
class Gone:
    """Owners left, or their processes ended."""

    owners: frozenset[str]


@dataclass(frozen=True, slots=True)
class Bury:
    """These records, given up, are on their way into the dead letter topic in the same commit, or there is none."""

    spans: Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class LogStart:
    """The log begins at this offset now: what was before it is done."""

    offset: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed: deadlines are looked at, as before every event."""


Event = Acquire | Acknowledge | Gone | Bury | LogStart | Tick


# Outputs


@dataclass(frozen=True, slots=True)
class Acquired:
    """The member has these records until the deadline, for the `delivery_count`-th time."""

    first: int
    last: int
    delivery_count: int
    until_ms: int


@dataclass(frozen=True, slots=True)
class Refused:
    """An acknowledgement came too late, or was never due: these records are not the member's."""

    first: int
    last: int
    verb: Verb


@dataclass(frozen=True, slots=True)
class Freed:
    """These records are available again; `verb` says why."""

    first: int
    last: int
    verb: Verb


@dataclass(frozen=True, slots=True)
class Archived:
    """These records were given up for good, after so many deliveries."""

    first: int
    last: int
    delivery_count: int


Output = Acquired | Refused | Freed | Archived


class SharePartition:
    """One partition of one share group. Loaded from its snapshot and locks, stepped, and thrown away again."""

    def __init__(self, *, max_delivery_count: int = 5, acquire_timeout_ms: int = 30_000, start_offset: int = 0) -> None:
        self.max_delivery_count = max_delivery_count
        self.acquire_timeout_ms = acquire_timeout_ms
        self.start_offset = start_offset
        self.spans: list[Span] = []

    @property
    def end_offset(self) -> int:
        """No record from here on was ever acquired."""
        return self.spans[-1].last + 1 if self.spans else self.start_offset

    # Recorded and loaded

    def restore(self, snapshot: Snapshot, locks: Iterable[Lock] = ()) -> None:
        """Become what was recorded. Locks count only where the snapshot says that a record is available."""
        self.start_offset = snapshot.start_offset
        self.spans = []
        for first, last, state, delivery_count in snapshot.batches:
            self._extend(first - 1)
            self.spans.append(Span(first, last, state, delivery_count))
        for lock in locks:
            self._extend(lock.last)
            state = State.ACQUIRED if lock.owner else State.AVAILABLE
            for at, span in self._overlapping(lock.first, lock.last):
                if span.state is State.AVAILABLE:
                    locked = span._replace(
                        state=state, delivery_count=lock.delivery_count, owner=lock.owner, until_ms=lock.until_ms
                    )
                    self._put(at, locked)
        self._tidy()

    def snapshot(self) -> Snapshot:
        """What has to survive."""
        batches: list[Batch] = []
        for first, last, state, delivery_count, _, _ in self.spans:
            if state is State.ACQUIRED:
                batch = Batch(first, last, State.AVAILABLE, delivery_count - 1)
            else:
                batch = Batch(first, last, state, delivery_count)
            if batches and batches[-1][2:] == batch[2:]:
                batches[-1] = batches[-1]._replace(last=last)
            else:
                batches.append(batch)
        return Snapshot(
            self.start_offset,
            tuple(batch for batch in batches if batch.state is not State.AVAILABLE or batch.delivery_count),
        )

    def locks(self) -> list[Lock]:
        """What may be lost."""
        return [
            Lock(span.first, span.last, span.delivery_count, span.owner, span.until_ms)
            for span in self.spans
            if span.state is State.ACQUIRED or span.until_ms
        ]

    # What there is

    def owners(self) -> set[str]:
        """Who has acquired something."""
        return {span.owner for span in self.spans if span.state is State.ACQUIRED}

    def archiving(self) -> list[Span]:
        """What is given up and not yet buried."""
        return [span for span in self.spans if span.state is State.ARCHIVING]

    def is_available(self, end_offset: int, now_ms: int, gone: frozenset[str] = frozenset()) -> bool:
        """Whether an `Acquire` would give anything, or `Gone` and time would lead to something that is to be done."""
        if self.end_offset < end_offset and len(self.spans) < MAX_SPANS:
            return True
        return any(
            span.state is State.ARCHIVING
            or (span.state is State.AVAILABLE and span.until_ms <= now_ms)
            or (span.state is State.ACQUIRED and (span.until_ms <= now_ms or span.owner in gone))
            for span in self.spans
        )

    def unfinished(self, end_offset: int) -> int:
        """How many records before `end_offset` are not done."""
        done = sum(
            min(span.last + 1, end_offset) - span.first for span in self.spans if self._is_done(span, end_offset)
        )
        return max(0, end_offset - self.start_offset) - done

    @staticmethod
    def _is_done(span: Span, end_offset: int) -> bool:
        return span.state in DONE and span.first < end_offset

    def next_deadline(self) -> int | None:
        """When a lock or a delay ends next, in ms; None when nothing waits for time to pass."""
        return min((span.until_ms for span in self.spans if span.until_ms), default=None)

    def describe(self) -> dict[str, Any]:
        """The partition for people: plain data."""
        return {
            "start offset": self.start_offset,
            "end offset": self.end_offset,
            "spans": [
                {"first": span.first, "last": span.last, "state": span.state.name, "deliveries": span.delivery_count}
                | ({"owner": span.owner} if span.owner else {})
                | ({"until": span.until_ms} if span.until_ms else {})
                for span in self.spans
            ],
        }

    def check(self) -> list[str]:
        """What is wrong with the partition: nothing, ever."""
        problems: list[str] = []
        expected = self.start_offset
        for before, span in zip([None, *self.spans], self.spans, strict=False):
            if span.first != expected or span.last < span.first:
                problems.append(f"{span} does not begin at {expected}, or has no records")
            if (span.state is State.ACQUIRED) != bool(span.owner):
                problems.append(f"{span} has an owner and is not acquired, or the reverse")
            if (span.state is State.ACQUIRED and not span.until_ms) or (span.state > State.ACQUIRED and span.until_ms):
                problems.append(f"{span} has a deadline that makes no sense")
            if span.state is State.ACQUIRED and not span.delivery_count:
                problems.append(f"{span} is acquired and was never delivered")
            if before is not None and before[2:] == span[2:]:
                problems.append(f"{before} and {span} are one")
            expected = span.last + 1
        if self.spans and self.spans[0].state in DONE:
            problems.append(f"{self.spans[0]} is done and at the start")
        if self.spans and _is_fresh(self.spans[-1]):
            problems.append(f"{self.spans[-1]} was never delivered and is at the end")
        return problems

    # What happens

    def step(self, event: Event, now_ms: int) -> list[Output]:
        """Take one event; returns what follows."""
        outputs = self._expire(now_ms)
        outputs += self._handle(event, now_ms)
        self._exhaust()
        self._tidy()
        return outputs

    def _handle(self, event: Event, now_ms: int) -> list[Output]:
        match event:
            case Acquire():
                return self._acquire(event, now_ms)
            case Acknowledge():
                return self._acknowledge(event, now_ms)
            case Gone():
                return self._gone(event)
            case Bury():
                return self._bury(event)
            case LogStart():
                return self._log_start(event)
            case Tick():
                return []

    def _expire(self, now_ms: int) -> list[Output]:
        outputs: list[Output] = []
        for at, span in enumerate(self.spans):
            if span.until_ms and span.until_ms <= now_ms:
                if span.state is State.ACQUIRED:
                    self.spans[at] = _after(span, Verb.TIME_OUT)
                    outputs.append(Freed(span.first, span.last, Verb.TIME_OUT))
                else:
                    self.spans[at] = span._replace(until_ms=0)
        self._exhaust()
        return outputs

    def _exhaust(self) -> None:
        most = self.max_delivery_count
        for at, span in enumerate(self.spans):
            if span.state is State.AVAILABLE and span.delivery_count >= most:
                self.spans[at] = _after(span, Verb.EXHAUST)

    def _acquire(self, event: Acquire, now_ms: int) -> list[Output]:
        left = event.max_records if self.max_delivery_count > 1 else min(1, event.max_records)
        until_ms = now_ms + self.acquire_timeout_ms
        if len(self.spans) < MAX_SPANS:
            self._extend(min(event.end_offset, self.end_offset + left) - 1)
        outputs: list[Output] = []
        for span in list(self.spans):
            is_alone = span.state is State.AVAILABLE and span.delivery_count > 0
            if left <= 0 or (is_alone and (outputs or event.is_fresh)):
                break
            if span.state is State.AVAILABLE and not span.until_ms and span.first < event.end_offset:
                last = span.first if is_alone else min(span.last, event.end_offset - 1, span.first + left - 1)
                [(at, taken)] = self._overlapping(span.first, last)
                taken = _after(taken, Verb.ACQUIRE, event.owner, until_ms)
                self._put(at, taken)
                outputs.append(Acquired(taken.first, taken.last, taken.delivery_count, until_ms))
                left = 0 if is_alone else left - (last - span.first + 1)
        return outputs

    def _acknowledge(self, event: Acknowledge, now_ms: int) -> list[Output]:
        outputs: list[Output] = []
        for one in event.acknowledgements:
            assert one.verb in OF_OWNER, f"{one.verb} is not an owner's to say"
            expected = one.first
            until_ms = now_ms + one.delay_ms if one.delay_ms and one.verb is Verb.RELEASE else 0
            for at, span in self._overlapping(one.first, one.last):
                if span.first > expected:
                    outputs.append(Refused(expected, span.first - 1, one.verb))
                expected = span.last + 1
                if span.owner != event.owner or (span.state, one.verb) not in TRANSITIONS:
                    outputs.append(Refused(span.first, span.last, one.verb))
                    continue
                changed = _after(span, one.verb, until_ms=until_ms)
                self._put(at, changed)
                if changed.state is State.AVAILABLE:
                    outputs.append(Freed(span.first, span.last, one.verb))
            if expected <= one.last:
                outputs.append(Refused(expected, one.last, one.verb))
        return outputs

    def _gone(self, event: Gone) -> list[Output]:
        outputs: list[Output] = []
        for at, span in enumerate(self.spans):
            if span.state is State.ACQUIRED and span.owner in event.owners:
                self.spans[at] = _after(span, Verb.ABANDON)
                outputs.append(Freed(span.first, span.last, Verb.ABANDON))
        return outputs

    def _bury(self, event: Bury) -> list[Output]:
        outputs: list[Output] = []
        for first, last in event.spans:
            for at, span in self._overlapping(first, last):
                if span.state is State.ARCHIVING:
                    self._put(at, _after(span, Verb.BURY))
                    outputs.append(Archived(span.first, span.last, span.delivery_count))
        return outputs

    def _log_start(self, event: LogStart) -> list[Output]:
        if event.offset > self.start_offset:
            self.spans = [
                span._replace(first=max(span.first, event.offset)) for span in self.spans if span.last >= event.offset
            ]
            self.start_offset = event.offset
        return []

    # Spans

    def _extend(self, last: int) -> None:
        """See to it that the window reaches to `last`, with records that were never delivered."""
        if last >= self.end_offset:
            self.spans.append(Span(self.end_offset, last, State.AVAILABLE))

    def _overlapping(self, first: int, last: int) -> Iterator[tuple[int, Span]]:
        """The parts of spans within [first, last], each with where it is: cut out, it may be put there anew."""
        at = max(0, bisect_right(self.spans, (first, MAX_OFFSET)) - 1)
        while at < len(self.spans) and self.spans[at].first <= last:
            span = self.spans[at]
            if span.last >= first:
                part = span._replace(first=max(first, span.first), last=min(last, span.last))
                count = len(self.spans)
                yield at, part
                at += len(self.spans) - count  # it was cut
            at += 1

    def _put(self, at: int, part: Span) -> None:
        """Replace, of the span at `at`, what `part` covers."""
        span = self.spans[at]
        pieces = [part]
        if span.first < part.first:
            pieces.insert(0, span._replace(last=part.first - 1))
        if part.last < span.last:
            pieces.append(span._replace(first=part.last + 1))
        self.spans[at : at + 1] = pieces

    def _tidy(self) -> None:
        """Join what is alike side by side; forget what is done at the start and what is new at the end."""
        joined: list[Span] = []
        for span in self.spans:
            if joined and joined[-1][2:] == span[2:]:
                joined[-1] = joined[-1]._replace(last=span.last)
            elif joined or span.state not in DONE:
                joined.append(span)
            else:
                self.start_offset = span.last + 1
        while joined and _is_fresh(joined[-1]):
            joined.pop()
        self.spans = joined


def _is_fresh(span: Span) -> bool:
    return span.state is State.AVAILABLE and not span.delivery_count and not span.until_ms


def _after(span: Span, verb: Verb, owner: str = NOBODY, until_ms: int = 0) -> Span:
    """A span after something happened to it, as the table says."""
    state = TRANSITIONS[span.state, verb]
    count = span.delivery_count + (verb is Verb.ACQUIRE) - (verb is Verb.RETURN)
    return Span(span.first, span.last, state, 0 if state in DONE else count, owner, until_ms)
