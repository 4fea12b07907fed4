"""Append: groups, conditions, sequences, rolls, and failures of the system."""

import errno
import os
from collections.abc import Sequence
from typing import Any
from unittest.mock import Mock

import pytest

from kafkalite import disk
from kafkalite.clock import Deadline
from kafkalite.errors import (
    OffsetConflictError,
    OutcomeUnknownError,
    ProducerFencedError,
    RecordTooLargeError,
    SequenceError,
    StoreBusyError,
    StoreFailedError,
    StoreFullError,
    UnknownTopicError,
)
from kafkalite.storage import commit, index, locks, segment
from kafkalite.storage.commit import SEQUENCE_LIMIT, Append, NeedsSegment, Operation
from kafkalite.storage.engine import Engine
from kafkalite.storage.frame import HEADER_SIZE
from kafkalite.storage.index import ProducerState
from kafkalite.storage.reader import LogReader

from .kit import LOG, Fault, append, batch, frames_of, sized

FORTY = 40.0


def read(engine: Engine, name: str, partition: int = 0) -> list[bytes | None]:
    reader = LogReader(engine, engine.topic(name), partition, 0)
    found: list[bytes | None] = []
    while (fetched := reader.next_batch()) is not None:
        found += fetched.columns.values
    return found


def ends(engine: Engine, *log_ids: int) -> list[int]:
    with engine.index.snapshot() as transaction:
        return [index.log_end(transaction, log_id)[0] for log_id in log_ids]


def together(engine: Engine, *operations: Operation) -> None:
    """Append operations as one group, as the leader of threads that wait for WRITE does."""
    *others, last = operations
    engine.committer._queue.extend(others)
    engine.committer.submit(last, FORTY)
    engine.flush()


# Groups


def test_offsets_go_on_where_the_log_ended(engine: Engine) -> None:
    assert engine.commit(append(b"a", b"b")).offsets == [0]
    assert engine.commit(append(b"c")).offsets == [2]
    assert engine.commit(append(b"d", log_id=LOG + 1)).offsets == [0]
    assert ends(engine, LOG, LOG + 1, LOG + 2) == [3, 1, 0]


def test_a_group_is_one_transaction_and_one_write(engine: Engine) -> None:
    operations = [append(b"%d" % number, log_id=LOG + number % 3) for number in range(9)]
    with Fault(0) as counted:
        together(engine, *operations)
    assert counted.steps.count("write") == 1
    assert [operation.offsets for operation in operations] == [[0]] * 3 + [[1]] * 3 + [[2]] * 3
    assert [operation.end for operation in operations] == sorted(operation.end for operation in operations)
    assert all(operation.is_done and operation.error is None for operation in operations)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 100, 5000])
@pytest.mark.parametrize("expected_end", [None, 1])
@pytest.mark.parametrize("is_remembered", [True, False])
def test_the_short_way_of_a_lone_batch_gives_the_same_bytes_and_rows_as_the_long_one(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, size: int, expected_end: int | None, is_remembered: bool
) -> None:
    engine.commit(append(b"so that the log's end is 1"))
    committer = engine.committer
    given = [Append(LOG, batch(bytes(size)), None, expected_end)]
    written: list[tuple[int, bytes, int]] = []
    monkeypatch.setattr(
        committer._journal, "write", lambda at, buffers, size: written.append((at, b"".join(buffers), size))
    )

    def long_way(transaction: Any, group: Any, one: Operation) -> bool:
        count = committer._build(transaction, group, [one])
        committer._put(transaction, group)
        return count == 1

    outcomes: list[Any] = []
    for way in (committer._append_alone, long_way):
        committer._forget()
        with engine.index.snapshot() as transaction:
            committer._look(transaction)
            if is_remembered:
                committer._ends[LOG] = index.log_end(transaction, LOG)
            operation, group = Operation(given), committer._group
            rows = Mock(cursor=transaction.cursor, get=transaction.get)
            assert way(rows, group, operation)
        outcomes.append(
            (rows.put.call_args_list, group.position, group.chain, committer._ends[LOG],
             operation.offsets, operation.end, operation.error)
        )  # fmt: skip
    committer._forget()
    assert outcomes[0] == outcomes[1]
    assert written[0] == written[1]
    monkeypatch.undo()
    assert engine.commit(append(b"next")).offsets == [1]


def test_only_what_is_queued_can_be_in_the_hands_of_the_thread_that_appends(engine: Engine) -> None:
    committer = engine.committer
    never_queued, queued = StoreBusyError("busy"), StoreBusyError("busy")
    one = append(b"x")
    with engine.locks.write.threads:
        committer._withdraw(append(b"y"), never_queued)
        committer._queue.append(one)
        committer._withdraw(one, queued)
    committer._withdraw(one, queued)
    assert never_queued.__cause__ is None
    assert isinstance(queued.__cause__, OutcomeUnknownError)
    assert list(committer._queue) == []


def test_one_that_fails_leaves_no_trace_in_its_neighbours(engine: Engine) -> None:
    before, after = append(b"before"), append(b"after")
    conflicting = Operation([Append(LOG, batch(b"x")), Append(LOG + 1, batch(b"y"), None, 7)])
    together(engine, before, conflicting, after)
    assert isinstance(conflicting.error, OffsetConflictError)
    assert (conflicting.error.expected, conflicting.error.actual) == (7, 0)
    assert (before.offsets, after.offsets, before.error, after.error) == ([0], [1], None, None)
    assert ends(engine, LOG, LOG + 1) == [2, 0]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_group_in_which_each_in_turn_fails(engine: Engine, place: int) -> None:
    operations = [append(b"%d" % number) for number in range(3)]
    operations[place] = Operation([Append(LOG, batch(b"x"), None, 99)])
    together(engine, *operations)
    good = [operation for number, operation in enumerate(operations) if number != place]
    assert [operation.offsets for operation in good] == [[0], [1]]
    assert isinstance(operations[place].error, OffsetConflictError)


def test_one_that_fails_alone_writes_nothing(engine: Engine) -> None:
    tail = engine.index.positions().tail
    with pytest.raises(OffsetConflictError, match="ends at offset 0"):
        engine.commit(Operation([Append(LOG, batch(b"x"), None, 1)]))
    assert engine.index.positions().tail == tail


def test_an_empty_operation_succeeds(engine: Engine) -> None:
    operation = engine.commit(Operation())
    assert (operation.offsets, operation.error) == ([], None)


def test_what_is_queued_is_appended_in_the_order_of_the_queue(engine: Engine) -> None:
    engine.create_topic("t", 1, {})
    operations = [append(b"%d" % number) for number in range(50)]
    together(engine, *operations)
    assert [operation.offsets[0] for operation in operations] == list(range(50))
    assert read(engine, "t") == [b"%d" % number for number in range(50)]


def test_a_decision_sees_what_was_queued_before_it(engine: Engine) -> None:
    seen = []

    def decide(transaction: Any) -> Sequence[Append]:
        seen.append(index.log_end(transaction, LOG)[0])
        return [Append(LOG, batch(b"decided"))]

    first, decided, last = append(b"first"), Operation(decide=decide), append(b"last")
    together(engine, first, decided, last)
    assert seen == [1]
    assert [operation.offsets for operation in (first, decided, last)] == [[0], [1], [2]]


def test_a_decision_that_raises_fails_alone(engine: Engine) -> None:
    def decide(_: Any) -> Sequence[Append]:
        raise UnknownTopicError("no such topic")

    first, decided, last = append(b"first"), Operation(decide=decide), append(b"last")
    together(engine, first, decided, last)
    assert isinstance(decided.error, UnknownTopicError)
    assert (first.offsets, last.offsets) == ([0], [1])


# Conditions


def test_a_condition_is_on_what_was_appended_in_the_same_group(engine: Engine) -> None:
    operations = [Operation([Append(LOG, batch(b"x", b"y"), None, expected)]) for expected in (0, 2, 2, 4)]
    together(engine, *operations)
    assert [type(operation.error) for operation in operations] == [type(None)] * 2 + [OffsetConflictError, type(None)]
    error = operations[2].error
    assert isinstance(error, OffsetConflictError)
    assert (error.expected, error.actual) == (2, 4)


def test_a_condition_on_several_logs_holds_for_all_or_none(engine: Engine) -> None:
    engine.commit(append(b"x"))
    for first, second in ((1, 1), (0, 0)):
        with pytest.raises(OffsetConflictError):
            engine.commit(
                Operation([Append(LOG, batch(b"a"), None, first), Append(LOG + 1, batch(b"b"), None, second)])
            )
    assert ends(engine, LOG, LOG + 1) == [1, 0]
    engine.commit(Operation([Append(LOG, batch(b"a"), None, 1), Append(LOG + 1, batch(b"b"), None, 0)]))
    assert ends(engine, LOG, LOG + 1) == [2, 1]


def test_a_commit_over_many_logs_is_one_run_of_frames_with_one_commit_flag(engine: Engine) -> None:
    engine.commit(Operation([Append(LOG + number, batch(b"x" * number)) for number in range(100)]))
    frames = [found for found in frames_of(engine.place.path) if found.log_id >= LOG]
    assert [found.log_id for found in frames] == list(range(LOG, LOG + 100))
    assert [found.is_commit for found in frames] == [False] * 99 + [True]


# Sequences


def sequenced(sequence: int, count: int = 1, epoch: int = 0, log_id: int = LOG) -> Operation:
    return append(
        *[b"%d" % sequence] * count, log_id=log_id, producer_id=7, producer_epoch=epoch, base_sequence=sequence
    )


def test_a_repeat_is_answered_with_its_first_offset_and_written_once(engine: Engine) -> None:
    for number in range(5):
        engine.commit(sequenced(number * 2, 2))
    tail = engine.index.positions().tail
    for number in range(5):
        assert engine.commit(sequenced(number * 2, 2)).offsets == [number * 2]
    assert engine.index.positions().tail == tail


def test_only_five_are_remembered(engine: Engine) -> None:
    for number in range(6):
        engine.commit(sequenced(number))
    assert engine.commit(sequenced(1)).offsets == [1]
    with pytest.raises(SequenceError, match="6 is next"):
        engine.commit(sequenced(0))


@pytest.mark.parametrize(("sequence", "count"), [(3, 1), (0, 2), (1, 2), (100, 1)])
def test_a_gap_and_a_repeat_cut_otherwise_are_refused(engine: Engine, sequence: int, count: int) -> None:
    engine.commit(sequenced(0))
    engine.commit(sequenced(1))
    with pytest.raises(SequenceError, match="2 is next"):
        engine.commit(sequenced(sequence, count))
    assert engine.commit(sequenced(2)).offsets == [2]


def test_repeats_within_one_group_are_recognised(engine: Engine) -> None:
    operations = [sequenced(0), sequenced(0), sequenced(1), sequenced(0), sequenced(1)]
    together(engine, *operations)
    assert [operation.offsets for operation in operations] == [[0], [0], [1], [0], [1]]
    assert ends(engine, LOG) == [2]


def test_sequences_wrap_from_the_greatest_to_zero(engine: Engine) -> None:
    start = SEQUENCE_LIMIT - 3
    engine.commit(sequenced(start, 2))
    engine.commit(sequenced(SEQUENCE_LIMIT - 1, 3))
    assert engine.commit(sequenced(2)).offsets == [5]
    assert engine.commit(sequenced(SEQUENCE_LIMIT - 1, 3)).offsets == [2]
    with pytest.raises(SequenceError, match="3 is next"):
        engine.commit(sequenced(SEQUENCE_LIMIT - 2))
    exact = SEQUENCE_LIMIT - 2
    engine.commit(sequenced(exact, 2, log_id=LOG + 1))
    assert engine.commit(sequenced(0, log_id=LOG + 1)).offsets == [2]


def test_a_newer_epoch_fences_the_older_one(engine: Engine) -> None:
    engine.commit(sequenced(0, epoch=3))
    assert engine.commit(sequenced(0, epoch=4)).offsets == [1]
    with pytest.raises(ProducerFencedError, match="epoch 4"):
        engine.commit(sequenced(1, epoch=3))
    assert engine.commit(sequenced(1, epoch=4)).offsets == [2]
    assert ends(engine, LOG) == [3]


def test_a_commit_half_of_which_is_a_repeat(engine: Engine) -> None:
    engine.commit(sequenced(0))
    first, second = sequenced(0).appends[0], sequenced(0, log_id=LOG + 1).appends[0]
    assert engine.commit(Operation([first, second])).offsets == [0, 0]
    assert ends(engine, LOG, LOG + 1) == [1, 1]
    assert frames_of(engine.place.path)[-1].is_commit


def test_a_repeat_of_what_is_not_published_yet_waits_for_it(engine: Engine) -> None:
    operation = sequenced(0)
    engine.committer.submit(operation, FORTY)
    assert engine.index.positions().published < operation.end
    assert engine.commit(sequenced(0)).offsets == [0]
    assert engine.index.positions().published >= operation.end


def test_a_conflict_waits_until_what_it_saw_is_published(engine: Engine) -> None:
    unpublished = append(b"x")
    engine.committer.submit(unpublished, FORTY)
    with pytest.raises(OffsetConflictError):
        engine.commit(Operation([Append(LOG, batch(b"y"), None, 0)]))
    assert engine.index.positions().published >= unpublished.end


def test_the_state_of_a_producer_step_by_step() -> None:
    state: ProducerState | None = None
    for number in range(7):
        sealed = batch(b"x", producer_id=7, producer_epoch=0, base_sequence=number)
        assert commit.known_batch(state, sealed) is None
        state = commit.next_state(state, sealed, number * 10)
    assert state is not None
    assert [entry[2] for entry in state.batches] == [20, 30, 40, 50, 60]
    newer = commit.next_state(state, batch(b"x", producer_id=7, producer_epoch=1, base_sequence=0), 70)
    assert newer == ProducerState(1, ((0, 0, 70),))


# Rolls


def room(engine: Engine) -> int:
    """Bytes of the segment behind the tail, its END frame set aside."""
    positions = engine.index.positions()
    return positions.segment_size - segment.byte_of(positions.tail) - HEADER_SIZE


def fill(engine: Engine, left: int) -> None:
    """Leave about `left` bytes of the segment, another log's records before them, and the next one prepared."""
    if room(engine) < 200_000:
        engine.commit(Operation([Append(9, sized(300_000))]))
    engine.commit(Operation([Append(9, sized(room(engine) - left))]))
    engine._prepare_now()


@pytest.mark.parametrize("more", [-64, -16, -9, -8, -7, -1, 0, 1, 7, 8, 9, 64])
def test_a_commit_around_the_size_of_what_is_left(engine: Engine, more: int) -> None:
    engine.create_topic("t", 1, {})
    sealed = sized(room(engine) - HEADER_SIZE + more)
    before = segment.number_of(engine.index.positions().tail)
    engine.commit(Operation([Append(LOG, sealed)]))
    engine.commit(append(b"next"))
    engine.commit(append(b"last"))
    positions = engine.index.positions()
    assert segment.number_of(positions.tail) > before
    journal = engine.journal
    for number in range(1, segment.number_of(positions.tail)):
        header = journal.header(number)
        following = journal.header(number + 1)
        assert header.start < following.predecessor <= segment.position_of(number, header.size)
    assert read(engine, "t")[1:] == [b"next", b"last"]


@pytest.mark.parametrize("size", [600 * 1024, 3 << 20, 40 << 20])
def test_a_commit_larger_than_a_segment_gets_one_of_its_own(engine: Engine, size: int) -> None:
    engine.create_topic("t", 1, {})
    engine.commit(append(b"first"))
    engine.commit(Operation([Append(LOG, sized(size))]))
    engine.commit(append(b"last"))
    found = read(engine, "t")
    assert [found[0], found[-1]] == [b"first", b"last"]
    assert len(found[1] or b"") > size - 200


def test_a_commit_beyond_the_greatest_size_fails_alone(engine: Engine) -> None:
    engine.alter({"max_commit_bytes": 1 << 20})
    first, large, last = append(b"1"), Operation([Append(LOG, sized(2 << 20))]), append(b"2")
    together(engine, first, large, last)
    assert isinstance(large.error, RecordTooLargeError)
    assert "max_commit_bytes=1048576" in str(large.error)
    assert (first.offsets, last.offsets) == ([0], [1])


def test_without_a_prepared_segment_the_commit_says_so_and_appends_nothing(engine: Engine) -> None:
    large = Operation([Append(LOG, sized(600 * 1024))])
    tail = engine.index.positions().tail
    with pytest.raises(NeedsSegment) as caught:
        engine.committer.submit(large, FORTY)
    assert caught.value.needed >= 600 * 1024
    assert not large.is_done
    assert list(engine.committer._queue) == []
    assert engine.index.positions().tail == tail


def test_what_fits_before_the_one_that_needs_a_segment_is_appended(engine: Engine) -> None:
    small = append(b"small")
    large = Operation([Append(LOG, sized(600 * 1024))])
    engine.committer._queue.append(small)
    with pytest.raises(NeedsSegment):
        engine.committer.submit(large, FORTY)
    assert small.is_done
    assert not large.is_done
    assert engine.commit(large).offsets == [1]


def test_a_segment_is_wanted_when_half_of_the_one_in_use_is_full(engine: Engine) -> None:
    assert not engine.committer.wants_segment
    engine.commit(Operation([Append(LOG, sized(100_000))]))
    assert not engine.committer.wants_segment
    engine.commit(Operation([Append(LOG, sized(200_000))]))
    assert engine.committer.wants_segment
    engine._prepare_now()
    assert engine.index.positions().spare_size == 2 * segment.FIRST_SIZE
    engine.commit(append(b"x"))
    assert not engine.committer.wants_segment


def test_nobody_can_roll_into_a_segment_that_is_being_made_larger(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its zeros would be written over what another process appends meanwhile."""
    engine._prepare_now()
    assert engine.index.positions().spare_size > 0
    sizes: list[int] = []
    noting = {"zeros", "reserve"}
    monkeypatch.setattr(
        disk, "on_step", lambda step: sizes.append(engine.index.positions().spare_size) if step in noting else None
    )
    engine._prepare(3 << 20, Deadline(FORTY))
    assert sizes
    assert set(sizes) == {0}
    assert engine.index.positions().spare_size > 3 << 20


def test_a_prepared_segment_that_is_too_small_is_made_larger(engine: Engine) -> None:
    engine._prepare_now()
    small = engine.index.positions().spare_size
    engine.commit(Operation([Append(LOG, sized(5 << 20))]))
    assert small < 5 << 20 <= engine.index.positions().segment_size


def test_a_failed_condition_on_a_roll_leaves_the_tail_where_it_was(engine: Engine) -> None:
    engine.commit(Operation([Append(LOG, sized(400_000))]))
    engine._prepare_now()
    tail = engine.index.positions().tail
    with pytest.raises(OffsetConflictError):
        engine.commit(Operation([Append(LOG, sized(300_000), None, 99)]))
    assert engine.index.positions().tail == tail
    assert engine.commit(append(b"fits")).offsets == [1]
    assert engine.commit(Operation([Append(LOG, sized(300_000))])).offsets == [2]


def test_a_group_that_begins_with_a_failed_condition_on_a_roll(engine: Engine) -> None:
    engine.commit(Operation([Append(LOG, sized(400_000))]))
    engine._prepare_now()
    failing = Operation([Append(LOG, sized(300_000), None, 99)])
    others = [append(b"1"), Operation([Append(LOG, sized(200_000))]), append(b"2")]
    together(engine, failing, *others)
    assert isinstance(failing.error, OffsetConflictError)
    assert [operation.offsets for operation in others] == [[1], [2], [3]]


# Failures of the system


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("rolls", [False, True])
def test_a_full_disk_is_said_and_mends_itself(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, code: int, rolls: bool
) -> None:
    engine.commit(Operation([Append(LOG, sized(400_000))]))
    engine._prepare_now()
    sealed = sized(300_000) if rolls else batch(b"x")
    with monkeypatch.context() as broken:
        broken.setattr(disk, "_pwritev", _raising(code))
        with pytest.raises(StoreFullError, match="free space"):
            engine.commit(Operation([Append(LOG, sealed)]))
    assert engine.commit(Operation([Append(LOG, sealed)])).offsets == [1]


# Fails as long as `_roll` lets an OSError through that `_put` would translate.
@pytest.mark.parametrize("rolls", [False, True])
def test_an_error_of_the_disk_is_ours_and_mends_itself(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, rolls: bool
) -> None:
    engine.commit(Operation([Append(LOG, sized(400_000))]))
    engine._prepare_now()
    sealed = sized(300_000) if rolls else batch(b"x")
    with monkeypatch.context() as broken:
        broken.setattr(disk, "_pwritev", _raising(errno.EIO))
        with pytest.raises(StoreFailedError, match="Input/output error"):
            engine.commit(Operation([Append(LOG, sealed)]))
    assert engine.commit(Operation([Append(LOG, sealed)])).offsets == [1]


def _raising(code: int) -> Any:
    def fail(*_: Any) -> int:
        raise OSError(code, os.strerror(code))

    return fail


def test_a_lock_that_is_not_freed_in_time_is_named_and_nothing_is_left_in_the_queue(engine: Engine) -> None:
    fd = os.open(engine.place.file, os.O_RDWR)
    take = disk.lock_call(fd, locks.FIRST_BYTE + locks.WRITE)
    assert disk.is_taken(take)
    with pytest.raises(StoreBusyError, match="write lock"):
        engine.commit(append(b"x"), timeout=0.05)
    os.close(fd)
    assert list(engine.committer._queue) == []
    assert engine.commit(append(b"y")).offsets == [0]
