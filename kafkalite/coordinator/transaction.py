"""Where a transactional id stands: Kafka's transaction states (KIP-98, KIP-360), as a pure state machine.

A transactional id belongs to whoever claimed it last. A claim raises the epoch, and what an older epoch says is refused
(`ProducerFencedError`): so a process that was thought dead, and goes on, can commit nothing.

    state             a transaction                          left by
    EMPTY             was never begun since the claim        `Add`, `Whole`, `Claim`
    ONGOING           has batches in partitions, undecided   `End`, `Claim` (aborts it), `Expire` (aborts it)
    COMPLETE_COMMIT   was committed                          `Add`, `Whole`, `Claim`
    COMPLETE_ABORT    was aborted                            `Add`, `Whole`, `Claim`

`TRANSITIONS` is that table, and runs: `step` refuses an event whose row is missing and asserts the state that it comes
to. Kafka's states in between (PREPARE_COMMIT, PREPARE_ABORT, PREPARE_EPOCH_FENCE) do not occur: in one store the end of
a transaction is one commit of all markers and of the state.

Embedded transactions are buffered and arrive as one commit, so they are never ongoing: `Whole` goes from any state but
ONGOING to COMPLETE_COMMIT. Those over the wire `Add` partitions first, and `End` later; what then has to be marked is
in the step's `ended`. `End` once more, with the same verdict, is an answer that was lost: it changes nothing.

A partition is a log id. Time comes in with each event, in ms since 1970. INV: an epoch never falls; partitions and
groups are there only while ONGOING (`check`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final

from kafkalite.errors import ProducerFencedError, TransactionStateError

LAST_EPOCH: Final = 2**15 - 2
"""The greatest epoch that is claimed; then the id goes on with another producer id. One above is left to fence it."""
NOTHING: Final[frozenset[int]] = frozenset()
NO_GROUPS: Final[frozenset[str]] = frozenset()
NO_TIMESTAMP: Final = -1


class State(IntEnum):
    """Of a transactional id; Kafka's numbers."""

    EMPTY = 0
    ONGOING = 1
    COMPLETE_COMMIT = 4
    COMPLETE_ABORT = 5


@dataclass(frozen=True, slots=True)
class Claim:
    """Somebody begins to use the id. `producer_id` is for an id that has none or whose epochs are used up.

    With `claimed`, (producer id, epoch), only if that is still who has it: a claimant that claims anew (KIP-360).
    """

    producer_id: int
    timeout_ms: int
    now_ms: int
    claimed: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Add:
    """Partitions, and groups whose offsets are to be committed, become part of the transaction."""

    producer_id: int
    epoch: int
    now_ms: int
    partitions: frozenset[int] = NOTHING
    groups: frozenset[str] = NO_GROUPS


@dataclass(frozen=True, slots=True)
class Whole:
    """A transaction that is one commit."""

    producer_id: int
    epoch: int
    now_ms: int


@dataclass(frozen=True, slots=True)
class End:
    """The verdict."""

    producer_id: int
    epoch: int
    now_ms: int
    is_commit: bool


@dataclass(frozen=True, slots=True)
class Expire:
    """Time has passed: a transaction past its timeout is aborted, and who has it is fenced."""

    now_ms: int


Event = Claim | Add | Whole | End | Expire

_IDLE: Final = (State.EMPTY, State.COMPLETE_COMMIT, State.COMPLETE_ABORT)

TRANSITIONS: Final[Mapping[tuple[State, type[Event]], frozenset[State]]] = {
    **{(state, Claim): frozenset({State.EMPTY}) for state in State},
    **{(state, Add): frozenset({State.ONGOING}) for state in State},
    **{(state, Whole): frozenset({State.COMPLETE_COMMIT}) for state in _IDLE},
    **{(state, Expire): frozenset({state}) for state in _IDLE},
    (State.ONGOING, Expire): frozenset({State.ONGOING, State.COMPLETE_ABORT}),
    (State.ONGOING, End): frozenset({State.COMPLETE_COMMIT, State.COMPLETE_ABORT}),
    (State.COMPLETE_COMMIT, End): frozenset({State.COMPLETE_COMMIT}),
    (State.COMPLETE_ABORT, End): frozenset({State.COMPLETE_ABORT}),
}


@dataclass(frozen=True, slots=True)
class Ended:
    """What has to be marked in the same commit: each partition, with this producer id and epoch."""

    producer_id: int
    epoch: int
    partitions: frozenset[int]
    groups: frozenset[str]
    is_commit: bool


@dataclass(frozen=True, slots=True)
class TransactionalId:
    """A transactional id: who has it, and where its transaction stands."""

    name: str
    producer_id: int = -1
    epoch: int = -1
    state: State = State.EMPTY
    timeout_ms: int = 0
    updated_ms: int = NO_TIMESTAMP
    started_ms: int = NO_TIMESTAMP
    partitions: frozenset[int] = NOTHING
    groups: frozenset[str] = NO_GROUPS

    def next_deadline(self) -> int | None:
        """When `Expire` would abort it; None when it has no transaction."""
        return self.started_ms + self.timeout_ms if self.state is State.ONGOING else None

    def check(self) -> None:
        """Assert what always holds."""
        assert 0 <= self.epoch <= LAST_EPOCH + 1, self
        assert self.state is State.ONGOING or not (self.partitions or self.groups), self
        assert (self.started_ms == NO_TIMESTAMP) == (self.state is not State.ONGOING), self


@dataclass(frozen=True, slots=True)
class Step:
    """The id after an event, and what has to be marked."""

    after: TransactionalId
    ended: Ended | None = None


def step(before: TransactionalId, event: Event) -> Step:
    """Take an event. Raises `ProducerFencedError`, `TransactionStateError`; then nothing has changed."""
    if not isinstance(event, Claim | Expire):
        _refuse_fenced(before, event.producer_id, event.epoch)
    allowed = TRANSITIONS.get((before.state, type(event)))
    if allowed is None:
        raise _misplaced(before, event)
    match event:
        case Claim():
            done = _claim(before, event)
        case Add():
            done = Step(_added(before, event))
        case Whole():
            done = Step(_over(before, State.COMPLETE_COMMIT, event.now_ms))
        case End():
            done = _end(before, event)
        case Expire():
            done = _expire(before, event)
    assert done.after.state in allowed, (before, event, done)
    done.after.check()
    return done


def _refuse_fenced(known: TransactionalId, producer_id: int, epoch: int) -> None:
    if (known.producer_id, known.epoch) != (producer_id, epoch):
        raise ProducerFencedError(
            f"transactional_id={known.name!r} was claimed by a newer producer: this one has producer id {producer_id}, "
            f"epoch {epoch}, the newer one {known.producer_id}, epoch {known.epoch}; nothing was committed"
        )


def _misplaced(before: TransactionalId, event: Event) -> TransactionStateError:
    return TransactionStateError(
        f"transactional_id={before.name!r} is in state {before.state.name}, in which {type(event).__name__} has no "
        "place: begin a transaction before you end it, and end it before you begin another"
    )


def _claim(before: TransactionalId, event: Claim) -> Step:
    if event.claimed is not None:
        _refuse_fenced(before, *event.claimed)
    if before.producer_id < 0 or before.epoch >= LAST_EPOCH:
        producer_id, epoch = event.producer_id, 0
    else:
        producer_id, epoch = before.producer_id, before.epoch + 1
    after = replace(
        _over(before, State.EMPTY, event.now_ms), producer_id=producer_id, epoch=epoch, timeout_ms=event.timeout_ms
    )
    return Step(after, _fencing(before))


def _fencing(before: TransactionalId) -> Ended | None:
    """The end of a transaction whose owner is not asked: marked with a higher epoch, so that late batches of it are
    refused.
    """
    if before.state is not State.ONGOING:
        return None
    return Ended(before.producer_id, before.epoch + 1, before.partitions, before.groups, is_commit=False)


def _added(before: TransactionalId, event: Add) -> TransactionalId:
    is_first = before.state is not State.ONGOING
    return replace(
        before,
        state=State.ONGOING,
        started_ms=event.now_ms if is_first else before.started_ms,
        updated_ms=event.now_ms,
        partitions=before.partitions | event.partitions,
        groups=before.groups | event.groups,
    )


def _over(before: TransactionalId, state: State, now_ms: int) -> TransactionalId:
    return replace(
        before, state=state, updated_ms=now_ms, started_ms=NO_TIMESTAMP, partitions=NOTHING, groups=NO_GROUPS
    )


def _end(before: TransactionalId, event: End) -> Step:
    verdict = State.COMPLETE_COMMIT if event.is_commit else State.COMPLETE_ABORT
    if before.state is verdict:
        return Step(before)
    if before.state is not State.ONGOING:
        raise _misplaced(before, event)
    ended = Ended(before.producer_id, before.epoch, before.partitions, before.groups, event.is_commit)
    return Step(_over(before, verdict, event.now_ms), ended)


def _expire(before: TransactionalId, event: Expire) -> Step:
    deadline = before.next_deadline()
    if deadline is None or event.now_ms < deadline:
        return Step(before)
    after = replace(_over(before, State.COMPLETE_ABORT, event.now_ms), epoch=before.epoch + 1)
    return Step(after, _fencing(before))
