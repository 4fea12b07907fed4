"""The states of a transactional id: every row of the table, what is refused, fencing, and random walks."""

import random
from itertools import product

import pytest

from kafkalite.coordinator.transaction import (
    LAST_EPOCH,
    TRANSITIONS,
    Add,
    Claim,
    End,
    Ended,
    Event,
    Expire,
    State,
    TransactionalId,
    Whole,
    step,
)
from kafkalite.errors import ProducerFencedError, TransactionStateError

PID = 7
TIMEOUT = 100


def claimed() -> TransactionalId:
    return step(TransactionalId("a"), Claim(PID, TIMEOUT, 1)).after


def in_state(state: State) -> TransactionalId:
    begun = claimed()
    if state is State.EMPTY:
        return begun
    ongoing = step(begun, Add(PID, 0, 10, frozenset({16, 17}), frozenset({"g"}))).after
    if state is State.ONGOING:
        return ongoing
    return step(ongoing, End(PID, 0, 11, state is State.COMPLETE_COMMIT)).after


def events(now: int) -> list[Event]:
    return [
        Claim(9, TIMEOUT, now), Add(PID, 0, now, frozenset({18})), Whole(PID, 0, now),
        End(PID, 0, now, is_commit=True), End(PID, 0, now, is_commit=False), Expire(now),
    ]  # fmt: skip


@pytest.mark.parametrize(("state", "number"), list(product(State, range(6))), ids=str)
def test_every_event_in_every_state_follows_its_row_or_is_refused_and_changes_nothing(
    state: State, number: int
) -> None:
    before = in_state(state)
    assert before.state is state
    for now in (20, 10 + TIMEOUT):
        event = events(now)[number]
        try:
            done = step(before, event)
        except TransactionStateError:
            verdict = {State.COMPLETE_COMMIT: True, State.COMPLETE_ABORT: False}.get(state)
            is_other_verdict = isinstance(event, End) and verdict is not None and event.is_commit is not verdict
            assert (state, type(event)) not in TRANSITIONS or is_other_verdict
        else:
            assert done.after.state in TRANSITIONS[state, type(event)]


def test_every_row_of_the_table_is_reached() -> None:
    seen = {
        (state, type(event), step(in_state(state), event).after.state)
        for state in State
        for now in (20, 10 + TIMEOUT)
        for event in events(now)
        if (state, type(event)) in TRANSITIONS
        and not (state is State.COMPLETE_COMMIT and event == End(PID, 0, now, is_commit=False))
        and not (state is State.COMPLETE_ABORT and event == End(PID, 0, now, is_commit=True))
    }
    assert seen == {(state, kind, after) for (state, kind), afters in TRANSITIONS.items() for after in afters}


@pytest.mark.parametrize("kind", range(1, 5))
def test_what_an_older_epoch_says_is_refused_in_every_state(kind: int) -> None:
    for state in State:
        newer = step(in_state(state), Claim(9, TIMEOUT, 12)).after
        assert (newer.producer_id, newer.epoch) == (PID, 1)
        with pytest.raises(ProducerFencedError, match="claimed by a newer producer"):
            step(newer, events(20)[kind])


def test_a_claim_aborts_what_is_ongoing_and_marks_it_with_the_new_epoch() -> None:
    done = step(in_state(State.ONGOING), Claim(9, TIMEOUT, 20))
    assert done.ended == Ended(PID, 1, frozenset({16, 17}), frozenset({"g"}), is_commit=False)
    assert done.after.state is State.EMPTY
    assert not done.after.partitions


def test_an_end_marks_every_partition_once_and_an_end_again_marks_nothing() -> None:
    ongoing = in_state(State.ONGOING)
    first = step(ongoing, End(PID, 0, 20, is_commit=True))
    assert first.ended == Ended(PID, 0, frozenset({16, 17}), frozenset({"g"}), is_commit=True)
    again = step(first.after, End(PID, 0, 21, is_commit=True))
    assert again.ended is None
    assert again.after == first.after


def test_a_transaction_expires_at_its_timeout_and_not_before_and_its_owner_is_fenced() -> None:
    ongoing = in_state(State.ONGOING)
    assert ongoing.next_deadline() == 10 + TIMEOUT
    assert step(ongoing, Expire(9 + TIMEOUT)).after == ongoing
    expired = step(ongoing, Expire(10 + TIMEOUT)).after
    assert (expired.state, expired.epoch) == (State.COMPLETE_ABORT, 1)
    with pytest.raises(ProducerFencedError):
        step(expired, End(PID, 0, 200, is_commit=True))


def test_adding_more_does_not_move_the_deadline() -> None:
    later = step(in_state(State.ONGOING), Add(PID, 0, 50, frozenset({30}))).after
    assert later.next_deadline() == 10 + TIMEOUT
    assert later.partitions == {16, 17, 30}


def test_used_up_epochs_go_on_under_another_producer_id() -> None:
    worn = TransactionalId("a", PID, LAST_EPOCH, timeout_ms=TIMEOUT)
    after = step(worn, Claim(9, TIMEOUT, 1)).after
    assert (after.producer_id, after.epoch) == (9, 0)
    with pytest.raises(ProducerFencedError):
        step(after, Whole(PID, LAST_EPOCH, 2))


def test_who_claims_anew_must_still_have_the_claim() -> None:
    mine = claimed()
    again = step(mine, Claim(9, TIMEOUT, 2, claimed=(PID, 0))).after
    assert again.epoch == 1
    with pytest.raises(ProducerFencedError):
        step(again, Claim(9, TIMEOUT, 3, claimed=(PID, 0)))


def test_random_walks_keep_the_invariants_and_never_lower_an_epoch() -> None:
    chance = random.Random(1)
    taken = refused = 0
    for _ in range(200):
        known = claimed()
        for now in range(20, 60):
            pid = known.producer_id
            epoch = known.epoch - chance.randrange(2)
            event = chance.choice([
                Claim(chance.randrange(100), 5, now), Add(pid, epoch, now, frozenset({now})), Whole(pid, epoch, now),
                End(pid, epoch, now, bool(chance.randrange(2))), Expire(now),
            ])  # fmt: skip
            before = known
            try:
                known = step(known, event).after
                taken += 1
            except (ProducerFencedError, TransactionStateError):
                refused += 1
            known.check()
            assert known.epoch >= before.epoch
    assert taken > 1000
    assert refused > 1000
