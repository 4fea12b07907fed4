"""The group of the demo: members really killed, and measurements that would notice what is amiss."""

import io
from pathlib import Path

from rich.console import Console

import kafkalite
from kafkalite.demo.child import Child
from kafkalite.demo.groups import Member, Shared, measured, share
from kafkalite.demo.member import Done, done
from kafkalite.demo.report import Report

MS = 1_000_000


def test_killed_members_partitions_are_done_by_the_others(
    store: kafkalite.Store, store_path: Path, tmp_path: Path
) -> None:
    topic = store.topic("work", partitions=3)
    for number in range(3):
        topic.append_many([b"%d" % at for at in range(40)], partition=number)
    result = share(store_path, "work", 120, tmp_path, members=3)
    assert result.is_proved, result
    assert (result.missing, sum(member.was_killed for member in result.members)) == (0, 1)
    assert len(result.takeovers) == 1
    assert result.gap_after is not None


def test_one_record_is_enough(store: kafkalite.Store, store_path: Path, tmp_path: Path) -> None:
    store.topic("work").append(b"alone")
    result = share(store_path, "work", 1, tmp_path, members=2)
    assert result.is_proved, result


def test_member_whose_starter_is_gone_before_the_word_ends(
    store: kafkalite.Store, store_path: Path, tmp_path: Path
) -> None:
    store.topic("work").append(b"a")
    with Child("member", store_path, "work", "g", tmp_path / "log", 0) as child:
        child.await_line()
        child.process.communicate("", timeout=60)
        assert child.process.returncode == 0
    assert not (tmp_path / "log").read_bytes()


def members() -> list[Member]:
    """One killed at 10 ms in partition 0, which the other takes over at 25 ms, with a pause of 15 ms."""
    killed = Member(1, was_killed=True, done=(Done(0, 0, 5 * MS), Done(0, 1, 9 * MS)))
    other = Member(
        2, was_killed=False, done=(Done(1, 0, 4 * MS), Done(1, 1, 7 * MS), Done(1, 2, 10 * MS), Done(0, 2, 25 * MS))
    )
    return [killed, other]


def test_takeover_and_gaps_are_measured() -> None:
    found = measured(members(), 6, 10 * MS)
    assert found.takeovers == (0.015,)
    assert (found.gap_before, found.gap_after) == (0.003, 0.015)
    assert (found.missing, found.repeats, found.is_proved) == (0, 0, True)


def test_missing_or_repeated_records_refute_it() -> None:
    one, two = members()
    assert not measured([one, two], 7, 10 * MS).is_proved
    twice = Member(2, was_killed=False, done=(*two.done, Done(0, 0, 30 * MS), Done(0, 1, 31 * MS)))
    assert measured([one, twice], 6, 10 * MS).repeats == 2
    assert not measured([one, twice], 6, 10 * MS).is_proved


def test_cut_off_last_line_does_not_count() -> None:
    assert list(done(Done(1, 2, 3).line() + b"4 5")) == [Done(1, 2, 3)]
    assert list(done(b"")) == []


def printed(result: Shared, width: int, encoding: str = "utf-8") -> str:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Report(Console(file=file, width=width, highlight=False)).shared(result)
    file.flush()
    return file.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]


def test_report_says_what_was_found_in_any_terminal() -> None:
    found = measured(members(), 6, 10 * MS)
    for width, encoding in ((80, "utf-8"), (80, "ascii"), (40, "utf-8")):
        text = " ".join(printed(found, width, encoding).split())
        assert "6. A group of 2 worker processes, one killed" in text
        assert "The partition that it was at went on elsewhere within 15 ms." in text
        assert "ok 0 of 6 records left undone" in text
    lost = " ".join(printed(measured(members(), 7, 10 * MS), 80).split())
    assert "WRONG 1 of 7 records left undone" in lost
