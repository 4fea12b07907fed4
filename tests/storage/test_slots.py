"""Slots and hands: who lives, and what each member has in hand, as other processes see it through the page."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from kafkalite import clock, disk
from kafkalite.errors import StoreBusyError
from kafkalite.storage.page import GROUPS, HAND_WORDS, HANDS, SLOTS, SharedPage
from kafkalite.storage.slots import (
    INCARNATION,
    OFFSET,
    PASSIVE,
    TOKEN,
    Hand,
    Slots,
    epoch_place,
    hand_of,
    random_number,
    take_hand,
)


class Process:
    """A process's view of one store's slots: a descriptor and a map of its own."""

    def __init__(self, directory: Path) -> None:
        self.fd = disk.open_file(directory / "superblock", write=True, create=True)
        self.page = SharedPage(directory)
        self.slots = Slots(self.fd, self.page)

    def die(self) -> None:
        """As SIGKILL does: locks are gone, the page is as it was."""
        disk.close(self.fd)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[tuple[Process, Process]]:
    one, other = Process(tmp_path), Process(tmp_path)
    yield one, other
    other.die()


def taken(process: Process, *, is_passive: bool = True, session_timeout_ms: int = 45_000) -> Hand:
    process.slots.mine()
    return take_hand(process.slots, random_number(), session_timeout_ms, is_passive=is_passive)


def test_a_slot_is_taken_once_and_for_life(processes: tuple[Process, Process]) -> None:
    one, other = processes
    number = one.slots.mine()
    assert one.slots.mine() == number
    assert other.slots.mine() != number
    assert sorted(other.slots.taken()) == sorted([number, other.slots.number])
    assert other.page.pids[number] == os.getpid()
    one.die()


def test_liveness_is_the_lock_and_not_the_pid(processes: tuple[Process, Process]) -> None:
    one, other = processes
    process = one.slots.mine(), one.slots.incarnation
    assert one.slots.is_alive(*process)
    assert other.slots.is_alive(*process)
    one.die()
    assert other.page.pids[process[0]] == os.getpid()
    assert not other.slots.is_alive(*process)


def test_an_incarnation_is_told_apart_from_the_next_one(processes: tuple[Process, Process]) -> None:
    one, other = processes
    number = one.slots.mine()
    assert not other.slots.is_alive(number, one.slots.incarnation + 2)
    assert not other.slots.is_alive(number, 0)
    other.slots.free(number, one.slots.incarnation + 2)
    assert number in other.slots.taken()
    one.die()
    other.slots.free(number, one.slots.incarnation)
    assert number not in other.slots.taken()


def test_a_dead_slot_is_not_taken_before_it_is_freed(processes: tuple[Process, Process], tmp_path: Path) -> None:
    one, other = processes
    number, incarnation = one.slots.mine(), one.slots.incarnation
    one.die()
    assert other.slots.mine() != number
    other.slots.free(number, incarnation)
    third = Process(tmp_path)
    assert third.slots.mine() == number
    assert third.slots.incarnation != incarnation
    third.die()


def test_a_killed_process_is_seen_dead_and_a_stopped_one_alive(tmp_path: Path) -> None:
    watcher = Process(tmp_path)
    end, ready = os.pipe()
    pid = os.fork()
    if not pid:
        Process(tmp_path).slots.mine()
        os.write(ready, b"x")
        signal.pause()
        os._exit(0)
    os.read(end, 1)
    (number,) = watcher.slots.taken()
    process = number, watcher.page.incarnations[number]
    assert watcher.page.pids[number] == pid
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
    assert watcher.slots.is_alive(*process)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert not watcher.slots.is_alive(*process)
    os.close(end)
    os.close(ready)
    watcher.die()


def test_all_slots_taken_is_an_error(processes: tuple[Process, Process]) -> None:
    one, other = processes
    for number in range(SLOTS):
        one.page.incarnations[number] = 7
    with pytest.raises(StoreBusyError, match=f"{SLOTS} processes"):
        other.slots.mine()
    one.page.incarnations[SLOTS - 1] = 0
    assert other.slots.mine() == SLOTS - 1
    one.die()


def test_a_stamp_is_seen_by_others(processes: tuple[Process, Process]) -> None:
    one, other = processes
    number = one.slots.mine()
    one.page.stamps[number] = 0
    before = clock.boot_ms()
    one.slots.stamp()
    assert before <= other.page.stamps[number] <= clock.boot_ms()
    one.die()


def test_what_is_in_hand_is_seen_by_others(processes: tuple[Process, Process]) -> None:
    one, other = processes
    hand = taken(one, session_timeout_ms=1234)
    seen = hand_of(other.page, f"any-client-{hand.name}")
    assert seen is not None
    assert seen.held() is None
    assert seen.session_timeout_ms == 1234
    assert seen.process == (one.slots.number, one.slots.incarnation)
    hand.hold(17, 5)
    assert seen.held() == (17, 5)
    hand.words[OFFSET] = 2**62
    assert seen.held() == (17, 2**62)
    hand.drop()
    assert seen.held() is None
    one.die()


def test_what_was_put_aside_is_seen_by_others_with_what_is_in_hand(processes: tuple[Process, Process]) -> None:
    one, other = processes
    hand = taken(one)
    seen = hand_of(other.page, f"any-client-{hand.name}")
    assert seen is not None
    assert seen.confirmed() == {}
    hand.hold(17, 5)
    assert hand.put_aside(17, 9)
    assert seen.confirmed() == {17: 9}  # before the hand was dropped: the later one
    hand.drop()
    hand.hold(18, 1)
    assert seen.confirmed() == {17: 9, 18: 1}
    hand.hold(17, 12)
    assert seen.confirmed() == {17: 12}
    assert hand.put_aside(17, 13)
    hand.let_go({17})
    assert seen.held() is None
    assert seen.confirmed() == {}
    one.die()


def test_a_hand_has_room_for_eight_and_makes_room_of_what_is_over(processes: tuple[Process, Process]) -> None:
    one, _ = processes
    hand = taken(one)
    for log_id in range(16, 24):
        assert hand.put_aside(log_id, log_id)
    assert not hand.put_aside(24, 1)
    assert hand.put_aside(20, 99)
    hand.forget(lambda log_id, offset: log_id < 18 or offset == 99)
    assert sorted(hand.confirmed()) == [18, 19, 21, 22, 23]
    assert hand.put_aside(24, 1)
    assert hand.confirmed()[24] == 1
    hand.free()
    again = taken(one)
    assert again.number == hand.number
    assert again.confirmed() == {}
    assert again.put_aside(16, 1)
    again.leave()
    assert again.confirmed() == {}
    one.die()


@pytest.mark.parametrize("timeout_ms", [1, 45_000, 2**31, 2**62])
@pytest.mark.parametrize("is_passive", [True, False])
def test_timeout_and_flags_do_not_disturb_each_other(
    processes: tuple[Process, Process], timeout_ms: int, is_passive: bool
) -> None:
    one, _ = processes
    hand = taken(one, session_timeout_ms=timeout_ms, is_passive=is_passive)
    hand.hold(1, 2)
    assert hand.process == (one.slots.number, one.slots.incarnation)
    assert hand.session_timeout_ms == timeout_ms or hand.session_timeout_ms > 2**31
    assert bool(hand.words[3] & PASSIVE) == is_passive
    hand.drop()
    assert bool(hand.words[3] & PASSIVE) == is_passive
    one.die()


def test_a_freed_hand_is_nobodys_and_can_be_taken(processes: tuple[Process, Process]) -> None:
    one, other = processes
    hand = taken(one)
    name = f"c-{hand.name}"
    hand.hold(1, 2)
    hand.free()
    assert hand_of(other.page, name) is None
    next_one = taken(other)
    assert next_one.number == hand.number
    assert next_one.held() is None
    assert not hand.is_mine()
    hand.free()  # comes too late, and does no harm
    assert next_one.is_mine()
    one.die()


@pytest.mark.parametrize(
    "member_id",
    ["", "consumer-1", "a-b-c", "kafkalite-0-0", f"x-{HANDS:x}-1", "x--1-1", f"x-{2**70:x}-1", "x-0-" + "f" * 40],
)  # fmt: skip
def test_ids_that_name_no_hand(processes: tuple[Process, Process], member_id: str) -> None:
    one, _ = processes
    taken(one)
    assert hand_of(one.page, member_id) is None
    one.die()


def test_all_hands_taken_is_an_error(processes: tuple[Process, Process]) -> None:
    one, _ = processes
    for number in range(HANDS):
        one.page.hands[number * HAND_WORDS + TOKEN] = 1
    with pytest.raises(StoreBusyError, match=f"{HANDS} members"):
        taken(one)
    one.page.hands[(HANDS - 1) * HAND_WORDS] = 0
    assert taken(one).number == HANDS - 1
    one.die()


def test_hands_do_not_overlap(processes: tuple[Process, Process]) -> None:
    one, _ = processes
    hands = [taken(one) for _ in range(50)]
    for hand in hands:
        hand.hold(hand.number, hand.number + 1)
    assert [hand.held() for hand in hands] == [(hand.number, hand.number + 1) for hand in hands]
    assert {hand.words[INCARNATION] for hand in hands} == {one.slots.incarnation}
    assert len({hand.token for hand in hands}) == 50
    one.die()


def test_epochs_of_groups_spread_over_the_page() -> None:
    places = {epoch_place(f"group-{number}") for number in range(5000)}
    assert places <= set(range(GROUPS))
    assert len(places) > GROUPS * 0.95
