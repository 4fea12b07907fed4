"""The judge of histories, on histories made by hand: it passes what a serial store can say, and finds each thing it
cannot. A test named `canary` breaks a sound history on purpose.

In these histories time is 10, 20, 30 …, and a log is the list of its records; `A`, `B`, `C` are writes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

import kafkalite
from kafkalite.testing.history import NEVER, Look, Name, Recorder, Write, load, log_name, name_of, value_of
from kafkalite.testing.serial import MAX_PROBLEMS, Verdict, judge
from tests.faults.ledger import LEDGER

FAULT_CLASS: Final = "F6"
L, M = "t/0", "t/1"

Logs = Mapping[str, Sequence[Name]]


def write(number: int, began: int, ended: int, *ranges: tuple[str, int, int], **named: Any) -> Write:
    """An acknowledged write of client 1, of as many records as it was given places."""
    defaults = {"parts": sum(end - start for _, start, end in ranges), "outcome": "acknowledged", "ranges": ranges}
    return Write(1, number, began=began, ended=ended, **(defaults | named))


def look(began: int, ended: int, *, client: int = 2, **named: Any) -> Look:
    return Look(client, began, began, ended, **named)


def names(*writes: Write) -> list[Name]:
    return [name for one in writes for name in one.names()]


A = write(1, 10, 20, (L, 0, 1))
B = write(2, 30, 40, (L, 1, 3), (M, 0, 2))
B_L, B_M = B.names()[:2], B.names()[2:]
C = write(3, 50, 60, (M, 2, 3))
SOUND: Logs = {L: [*names(A), *B_L], M: [*B_M, *names(C)]}
WRITES = [A, B, C]


def found(final: Logs, operations: Sequence[Write | Look], kind: str, words: str) -> None:
    """The judge finds at least one such thing, and says it in these words."""
    with LEDGER.apart():
        LEDGER.fault("history", words, kind)
        verdict = judge(final, operations)
    assert verdict.counts[kind] >= 1, str(verdict)
    assert any(one.startswith(kind) and words in one for one in verdict.problems), str(verdict)
    assert not verdict.ok


def sound(final: Logs, operations: Sequence[Write | Look]) -> Verdict:
    verdict = judge(final, operations)
    assert verdict.ok, str(verdict)
    return verdict


# What a serial store can say


def test_a_sound_history_is_one() -> None:
    reads = [
        look(41, 45, seen={L: (0, SOUND[L])}, ends={L: 3}),
        look(61, 65, seen={M: (1, SOUND[M][1:])}, ends={M: 3, L: 3}),
    ]
    verdict = sound(SOUND, [*WRITES, *reads])
    assert (verdict.writes, verdict.acknowledged, verdict.records) == (3, 6, 6)
    assert (verdict.looks, verdict.seen, verdict.unknown, verdict.refused) == (2, 5, 0, 0)


def test_an_empty_history_is_sound() -> None:
    sound({L: []}, [])


@pytest.mark.parametrize("is_there", [True, False])
def test_what_was_not_answered_may_be_there_or_not(is_there: bool) -> None:
    cut_short = replace(A, outcome="unknown", ended=NEVER, ranges=())
    verdict = sound({L: names(A) if is_there else []}, [cut_short])
    assert verdict.unknown == 1


def test_what_was_not_answered_may_come_to_light_late() -> None:
    """A killed process's commit, not yet flushed, is published by somebody else, long after."""
    cut_short = write(9, 10, NEVER, (L, 1, 2), outcome="unknown")
    reads = [look(70, 75, ends={L: 1}), look(80, 85, ends={L: 2})]
    sound({L: [*names(A), *names(cut_short)]}, [A, cut_short, *reads])


def test_writes_at_the_same_time_may_lie_in_any_order() -> None:
    one, other = write(1, 10, 30, (L, 1, 2)), write(2, 20, 40, (L, 0, 1))
    sound({L: [*names(other), *names(one)]}, [one, other])


def test_a_look_during_a_commit_may_see_it_or_not() -> None:
    for ends in ({L: 1, M: 0}, {L: 3, M: 2}):
        sound(SOUND, [*WRITES, look(32, 38, ends=ends)])


def test_records_that_are_no_commit_may_have_others_between_them() -> None:
    many = write(1, 10, 40, (L, 0, 3), parts=2, is_atomic=False)
    between = write(2, 20, 30, (L, 1, 2))
    sound({L: [(1, 1, 0), (1, 2, 0), (1, 1, 1)]}, [many, between])


def test_a_conditional_append_may_meet_its_end_or_be_told_of_another() -> None:
    met = write(4, 70, 80, (L, 3, 4), expected=(L, 3))
    refused = Write(1, 5, 1, 70, 75, outcome="refused", expected=(L, 2), actual=3)
    too_late = Write(1, 6, 1, 70, 90, outcome="refused", expected=(L, 3), actual=4)
    assert sound({**SOUND, L: [*SOUND[L], *names(met)]}, [*WRITES, met, refused, too_late]).refused == 2


# Canaries: what it cannot


def test_canary_a_lost_write() -> None:
    found({L: SOUND[L], M: B_M}, WRITES, "lost", "1 of 1 records of write 3 of client 1")


def test_canary_a_record_that_was_read_and_is_gone() -> None:
    cut_short = replace(C, outcome="unknown", ended=NEVER, ranges=())
    seen = look(61, 65, seen={M: (2, names(C))})
    found({L: SOUND[L], M: B_M}, [A, B, cut_short, seen], "lost", "record (1, 3, 0) was seen by look 61 of client 2")


def test_canary_an_end_that_is_gone() -> None:
    found(SOUND, [*WRITES, look(61, 65, ends={M: 4})], "lost", "t/1 ends at 4, and it has 3")


def test_canary_a_duplicate() -> None:
    found({**SOUND, L: [*SOUND[L], *names(A)]}, WRITES, "wrong", "twice, at t/0 offset 0 and at t/0 offset 3")


def test_canary_a_record_at_another_place_than_acknowledged() -> None:
    found({**SOUND, L: [*B_L, *names(A)]}, WRITES, "wrong", "write 1 of client 1, acknowledged is elsewhere")


def test_canary_a_commit_whose_records_changed_places() -> None:
    found({**SOUND, L: [*names(A), *B_L[::-1]]}, WRITES, "wrong", "write 2 of client 1, acknowledged is elsewhere")


def test_canary_a_torn_commit() -> None:
    cut_short = replace(B, outcome="unknown", ended=NEVER, ranges=())
    found({L: SOUND[L], M: []}, [A, cut_short], "torn", "2 of 4 records")


def test_canary_a_commit_with_another_in_the_middle() -> None:
    cut_short = replace(B, outcome="unknown", ended=NEVER, ranges=(), parts=2)
    between = write(7, 30, 40, (L, 2, 3))
    final = {L: [*names(A), B_L[0], *names(between), B_L[1]]}
    found(final, [A, cut_short, between], "wrong", "no order of commits")


def test_canary_two_commits_in_different_orders_in_two_logs() -> None:
    one = write(1, 10, 40, (L, 0, 1), (M, 1, 2))
    other = write(2, 10, 40, (L, 1, 2), (M, 0, 1))
    final = {L: [(1, 1, 0), (1, 2, 0)], M: [(1, 2, 1), (1, 1, 1)]}
    found(final, [one, other], "wrong", "no order of commits that agrees with all logs, at t/0 offset 0, t/1 offset 0")


def test_canary_a_commit_seen_in_one_log_and_not_in_the_other_at_one_moment() -> None:
    found(SOUND, [*WRITES, look(32, 38, ends={L: 3, M: 0})], "torn", "t/1 ends at 0")


def test_canary_a_commit_seen_in_one_log_and_later_not_in_the_other() -> None:
    reads = [look(31, 33, seen={L: (1, B_L)}), look(34, 38, ends={M: 0})]
    found(SOUND, [*WRITES, *reads], "wrong", "t/1 ends at 0, after somebody was told of 2")


def test_canary_half_of_a_commit_in_one_log() -> None:
    found(SOUND, [*WRITES, look(32, 38, ends={L: 2})], "torn", "t/0 ends at 2")


def test_canary_what_comes_before_a_seen_commit_is_not_seen() -> None:
    """Through a log that the two looks do not share: A, then B in two logs, then C in the second."""
    reads = [look(61, 62, seen={M: (2, names(C))}), look(63, 64, ends={L: 0})]
    unacknowledged = [replace(one, outcome="unknown", ended=NEVER) for one in WRITES]
    found(SOUND, [*unacknowledged, *reads], "wrong", "t/0 ends at 0, after somebody was told of 3")


def test_canary_a_write_that_nobody_made() -> None:
    found({**SOUND, L: [*SOUND[L], (8, 1, 0)]}, WRITES, "wrong", "record (8, 1, 0) is there, and nobody wrote it")


def test_canary_a_read_of_what_nobody_wrote() -> None:
    ghost = look(61, 65, seen={L: (0, [(8, 1, 0)])})
    found(SOUND, [*WRITES, ghost], "wrong", "record (8, 1, 0) was seen by look 61 of client 2 at t/0 offset 0")


def test_canary_a_read_of_a_record_at_another_offset() -> None:
    found(SOUND, [*WRITES, look(61, 65, seen={L: (1, names(A))})], "wrong", "record (1, 1, 0) was seen by look 61")


def test_canary_a_read_before_the_write_began() -> None:
    found(SOUND, [*WRITES, look(21, 25, seen={L: (1, B_L)})], "wrong", "up to 3 before it was begun to be written")


def test_canary_an_acknowledged_record_that_a_later_reader_does_not_see() -> None:
    found(SOUND, [*WRITES, look(21, 25, ends={L: 0})], "wrong", "t/0 ends at 0, after somebody was told of 1")


def test_canary_an_end_that_goes_back() -> None:
    reads = [look(32, 34, ends={L: 3}), look(35, 36, client=3, ends={L: 1})]
    found(SOUND, [*WRITES, *reads], "wrong", "look 35 of client 3: t/0 ends at 1, after somebody was told of 3")


@pytest.mark.parametrize(("start", "seen"), [(0, SOUND[L]), (2, SOUND[L][2:])])
def test_canary_a_reader_that_goes_back_or_leaves_out(start: int, seen: Sequence[Name]) -> None:
    reads = [
        look(61, 62, reader="r", seen={L: (0, names(A))}),
        look(63, 64, reader="r", seen={L: (start, seen)}),
    ]
    found(SOUND, [*WRITES, *reads], "wrong", f"reader r of t/0 was at 1 and got {start}")


def test_two_readers_do_not_go_on_where_the_other_was() -> None:
    reads = [look(61, 62, reader=name, seen={L: (0, names(A))}) for name in ("r", "s")]
    sound(SOUND, [*WRITES, *reads])


def test_canary_an_append_before_one_that_was_acknowledged_earlier() -> None:
    early, late = write(1, 10, 20, (L, 1, 2)), write(2, 30, 40, (L, 0, 1))
    found({L: [*names(late), *names(early)]}, [early, late], "wrong", "got t/0 offset 0, after the end 2 was known")


def test_canary_an_unanswered_append_before_one_that_was_acknowledged_earlier() -> None:
    early, late = write(1, 10, 20, (L, 1, 2)), write(2, 30, NEVER, (L, 0, 1), outcome="unknown", ranges=())
    found({L: [(1, 2, 0), (1, 1, 0)]}, [early, late], "wrong", "write 2 of client 1, unknown got t/0 offset 0")


def test_canary_a_conditional_append_at_another_end() -> None:
    astray = write(4, 70, 80, (L, 3, 4), expected=(L, 2))
    found({**SOUND, L: [*SOUND[L], *names(astray)]}, [*WRITES, astray], "wrong", "expected to be at ('t/0', 2)")


def test_canary_a_refused_append_that_is_there() -> None:
    refused = Write(1, 4, 1, 70, 80, outcome="refused", expected=(L, 2), actual=3)
    final = {**SOUND, L: [*SOUND[L], *names(refused)]}
    found(final, [*WRITES, refused], "wrong", "is there all the same, at t/0 offset 3")


@pytest.mark.parametrize(("expected", "actual"), [(3, 3), (0, 1)])
def test_canary_an_append_refused_for_an_end_that_was_right_or_long_past(expected: int, actual: int) -> None:
    refused = Write(1, 4, 1, 70, 80, outcome="refused", expected=(L, expected), actual=actual)
    found(SOUND, [*WRITES, refused], "wrong", f"expected ('t/0', {expected}), told {actual}, known before: 3")


def test_canary_an_append_refused_for_an_end_that_is_yet_to_come() -> None:
    refused = Write(1, 4, 1, 21, 25, outcome="refused", expected=(L, 1), actual=3)
    found(SOUND, [*WRITES, refused], "wrong", "knew of t/0 up to 3 before it was begun to be written")


def test_canary_an_append_refused_for_an_end_in_the_middle_of_a_commit() -> None:
    refused = Write(1, 4, 1, 32, 38, outcome="refused", expected=(L, 1), actual=2)
    found(SOUND, [*WRITES, refused], "torn", "in the middle of a commit")


def test_canary_an_append_behind_an_end_that_somebody_was_refused_for() -> None:
    refused = Write(1, 4, 1, 32, 33, outcome="refused", expected=(L, 0), actual=3)
    slow = replace(B, outcome="unknown", ended=NEVER)
    early = write(5, 34, 39, (M, 0, 1))
    final = {L: SOUND[L], M: [*names(early), *B_M]}
    found(final, [A, slow, early, refused], "wrong", "got t/1 offset 0, after the end 3 was known")


def test_problems_are_all_counted_and_not_all_described() -> None:
    many = write(1, 10, 20, *[(L, number, number + 1) for number in range(500)])
    verdict = judge({L: []}, [many, *(replace(A, number=number) for number in range(2, 200))])
    assert verdict.counts["lost"] == 500 + 198
    assert len(verdict.problems) == MAX_PROBLEMS


# Values, files


@pytest.mark.parametrize("size", [0, 7, 8, 200])
def test_a_value_names_its_record(size: int) -> None:
    assert name_of(value_of(3, 12, 1, 4, size)) == (3, 12, 1)


@pytest.mark.parametrize("bad", [None, b"", b"1 2 3", b"a b c d ", value_of(3, 12, 1, 4, 50)[:-1] + b"?"])
def test_canary_a_value_that_was_altered(bad: bytes | None) -> None:
    with pytest.raises(ValueError, match="value"):
        name_of(bad)


def test_what_was_recorded_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "history"
    with Recorder(path, 7) as recorder:
        first = recorder.writes(2, expected=(L, 5))
        second = recorder.looks()
        recorder.acknowledged(first, [(L, 5, 7)])
        recorder.saw(second, {L: (5, [(7, 1, 0), (7, 1, 1)])}, ends={L: 7}, reader="r")
        recorder.refused(recorder.writes(1, expected=(L, 5)), 7)
        recorder.unknown(recorder.writes(3, is_atomic=False), "timed out")
        recorder.note("fault", step="write")
        recorder.writes(1)
        recorder.looks()
    one, seen, refused, unknown, note, cut_short = load(path)
    assert isinstance(one, Write)
    assert one == Write(7, 1, 2, one.began, one.ended, True, "acknowledged", [(L, 5, 7)], (L, 5))
    assert isinstance(seen, Look)
    assert seen == Look(7, 2, seen.began, seen.ended, {L: (5, [(7, 1, 0), (7, 1, 1)])}, {L: 7}, "r")
    assert one.began <= seen.began <= one.ended <= seen.ended
    assert isinstance(refused, Write)
    assert refused == Write(7, 3, 1, refused.began, refused.ended, True, "refused", [], (L, 5), 7)
    assert isinstance(unknown, Write)
    assert unknown == Write(7, 4, 3, unknown.began, NEVER, False, "unknown", [])
    assert note == ("fault", {"step": "write"})
    assert isinstance(cut_short, Write)
    assert cut_short == Write(7, 5, 1, cut_short.began, NEVER, True, "unknown", [])


def test_a_line_that_was_cut_short_was_not_written(tmp_path: Path) -> None:
    path = tmp_path / "history"
    with Recorder(path, 7) as recorder:
        recorder.acknowledged(recorder.writes(1), [(L, 0, 1)])
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    (cut_short,) = load(path)
    assert isinstance(cut_short, Write)
    assert cut_short.outcome == "unknown"


# A real store, and a break of it on purpose


def recorded(path: Path, history: Path) -> None:
    """A store of two partitions, and what its writer and reader were told."""
    with kafkalite.connect(path) as store, Recorder(history, 1) as recorder:
        topic = store.topic("t", partitions=2)
        for _ in range(20):
            number = recorder.writes(4)
            values = [value_of(1, number, part, 4, 60) for part in range(4)]
            done = topic.append_many(values, keys=[b"a", b"b", b"c", b"d"])
            recorder.acknowledged(number, [(log_name("t", part), on.start, on.stop) for part, on in done.items()])
            look_number = recorder.looks()
            ends = topic.end_offsets()
            recorder.saw(look_number, {}, ends={log_name("t", part): end for part, end in ends.items()})


def logs_of(path: Path) -> dict[str, list[Name]]:
    with kafkalite.connect(path) as store:
        assert store.check().ok
        topic = store.topic("t")
        return {log_name("t", part): [name_of(record.value) for record in topic.read(part)] for part in (0, 1)}


def test_a_real_history_is_sound(tmp_path: Path) -> None:
    recorded(tmp_path / "store", tmp_path / "history")
    verdict = judge(logs_of(tmp_path / "store"), load(tmp_path / "history"))
    assert verdict.ok, str(verdict)
    assert (verdict.acknowledged, verdict.looks) == (80, 20)
    LEDGER.acknowledged(verdict.acknowledged)


def test_canary_a_store_put_back_to_an_earlier_day(tmp_path: Path) -> None:
    """The store is sound in itself, and a copy of it from before the last commits: only the history knows."""
    recorded(tmp_path / "earlier", tmp_path / "first")
    verdict = judge(logs_of(tmp_path / "earlier"), load(tmp_path / "first"))
    assert verdict.ok, str(verdict)
    recorded(tmp_path / "store", tmp_path / "history")
    with kafkalite.connect(tmp_path / "store") as store, Recorder(tmp_path / "history", 1) as recorder:
        recorder._number = 1000
        number = recorder.writes(1)
        done = store.topic("t").append(value_of(1, number, 0, 1, 10))
        recorder.acknowledged(number, [(log_name("t", done.partition), done.offset, done.offset + 1)])
        assert store.check().ok
    found(logs_of(tmp_path / "earlier"), list(load(tmp_path / "history")), "lost", "1 of 1 records of write 1001")
