"""The shared page: who holds a lock, and who sleeps on a log, between maps of the same file."""

import os
import random
from pathlib import Path

import pytest

from kafkalite.storage import locks
from kafkalite.storage.page import GROUPS, HAND_WORDS, HANDS, SIZE, SLOTS, Flushed, SharedPage


@pytest.fixture
def pages(tmp_path: Path) -> tuple[SharedPage, SharedPage]:
    return SharedPage(tmp_path), SharedPage(tmp_path)


def test_one_page_is_seen_through_the_other(pages: tuple[SharedPage, SharedPage], tmp_path: Path) -> None:
    one, other = pages
    assert (tmp_path / "page").stat().st_size == SIZE
    one.arm(16)
    assert other.disarm(16)
    assert not one.disarm(16)
    one.set_flushed(2**64 - 1, 40)
    assert other.flush_state() == (2**64 - 1, 0)
    one.set_flushed(2**64 - 1, 2)
    assert other.flushed() == (2**64 - 1, 2, 42)


def test_a_flush_is_due_until_it_is_over(pages: tuple[SharedPage, SharedPage]) -> None:
    one, other = pages
    one.set_flushed(7, 0)
    one.set_flush_due(2**63)
    assert other.flush_state() == (7, 2**63)
    other.set_flush_due(0)
    assert one.flush_state() == (7, 0)
    one.set_flush_due(1)
    one.set_flushed(8, 0)
    assert other.flush_state() == (8, 0)


@pytest.mark.parametrize("flushes", range(4))
@pytest.mark.parametrize("words", range(4))
def test_a_kill_between_two_words_of_a_flush_leaves_the_one_before(
    pages: tuple[SharedPage, SharedPage], flushes: int, words: int
) -> None:
    one, other = pages
    one.begin_flushed(Flushed(1 << 32, 6, 0))
    for flush in range(1, flushes + 1):
        one.set_flushed(flush + 1 << 32, 0)
    before = other.flushed()
    one._flush = Killed(one._flush, words)  # type: ignore[assignment]
    with pytest.raises(Killed.Error):
        one.set_flushed(1 << 40, 0)
    after = other.flushed()
    assert after.count == before.count
    assert after.end == (before.end if words < 2 else 1 << 40)


class Killed:
    """Words of which the process writes a few and is killed."""

    class Error(BaseException):
        pass

    def __init__(self, words: memoryview, left: int) -> None:
        self._words, self._left = words, left

    def __getitem__(self, number: int) -> int:
        return int(self._words[number])

    def __setitem__(self, number: int, word: int) -> None:
        if not self._left:
            raise self.Error
        self._left -= 1
        self._words[number] = word


def test_nonsense_is_no_flush(pages: tuple[SharedPage, SharedPage], tmp_path: Path) -> None:
    contents = bytearray((tmp_path / "page").read_bytes())
    contents[128:192] = random.Random(1).randbytes(64)
    (tmp_path / "page").write_bytes(contents)
    assert pages[0].flush_state()[0] == pages[1].flushed().end == 0


def test_what_the_index_knows_of_flushes_never_lowers_what_the_page_knows(pages: tuple[SharedPage, SharedPage]) -> None:
    one, other = pages
    one.set_flush_due(1)
    one.begin_flushed(Flushed(100, 3, 50))
    assert (other.flushed(), other.flush_state()) == ((100, 3, 50), (100, 1))
    one.set_flushed(200, 10)
    one.begin_flushed(Flushed(100, 3, 50))
    assert other.flushed() == (200, 4, 60)


def test_a_closed_page_knows_of_no_flush(tmp_path: Path) -> None:
    page = SharedPage(tmp_path)
    page.set_flushed(1, 0)
    page.close()
    page.set_flush_due(1)
    page.set_flushed(1, 0)
    assert page.flush_state() == (0, 0)
    assert page.flushed() == (0, 0, 0)


def test_the_holder_of_each_lock_stands_in_its_own_place(pages: tuple[SharedPage, SharedPage]) -> None:
    one, other = pages
    for number in range(len(locks.NAMES)):
        assert other.holder(number) == 0
        one.holder_setter(number)()
        assert other.holder(number) == os.getpid()
    assert other.flush_state() == (0, 0)
    assert not any(other.disarm(log_id) for log_id in range(256))


def test_a_sleeper_is_found_once_and_by_its_log_only(pages: tuple[SharedPage, SharedPage]) -> None:
    page = pages[0]
    for log_id in (0, 16, 255):
        page.arm(log_id)
    page.set_flushed(5, 0)
    assert not page.disarm(17)
    assert page.disarm(16)
    assert [log_id for log_id in range(256) if page.disarm(log_id)] == [0, 255]
    assert (page.holder(len(locks.NAMES) - 1), page.flush_state()) == (0, (5, 0))


@pytest.mark.parametrize("log_id", [0, 15, 255, 256, 2**32 - 1])
def test_any_log_has_a_byte(pages: tuple[SharedPage, SharedPage], log_id: int) -> None:
    pages[0].arm(log_id)
    assert pages[1].disarm(log_id)


def test_logs_that_share_a_byte_wake_too_many_and_never_too_few(pages: tuple[SharedPage, SharedPage]) -> None:
    pages[0].arm(16)
    assert pages[0].disarm(16 + 256)


def test_without_a_directory_there_is_private_memory() -> None:
    page = SharedPage(None)
    page.arm(3)
    assert not SharedPage(None).disarm(3)
    assert page.disarm(3)
    page.holder_setter(locks.WRITE)()
    assert page.holder(locks.WRITE) == os.getpid()


def test_words_of_groups_are_seen_through_the_other_and_do_not_overlap(pages: tuple[SharedPage, SharedPage]) -> None:
    one, other = pages
    fields = {"incarnations": SLOTS, "stamps": SLOTS, "pids": SLOTS, "epochs": GROUPS, "hands": HAND_WORDS * HANDS}
    for number, (name, count) in enumerate(fields.items(), 1):
        words = getattr(one, name)
        assert len(words) == count
        for at in (0, count // 2, count - 1):
            words[at] = number
    for number, (name, count) in enumerate(fields.items(), 1):
        words = getattr(other, name)
        assert [at for at in range(count) if words[at]] == [0, count // 2, count - 1]
        assert words[0] == number
    assert (other.flush_state(), other.holder(locks.WRITE)) == ((0, 0), 0)
    assert not any(other.disarm(log_id) for log_id in range(256))


def test_a_word_holds_eight_bytes_and_no_more(pages: tuple[SharedPage, SharedPage]) -> None:
    one, other = pages
    one.hands[5] = 2**64 - 1
    assert other.hands[4:7].tolist() == [0, 2**64 - 1, 0]
    with pytest.raises(ValueError, match="format"):
        one.hands[5] = 2**64


def test_a_closed_page_refuses_words_and_keeps_what_a_member_still_sees(pages: tuple[SharedPage, SharedPage]) -> None:
    one, other = pages
    hand = one.hands[8:16]
    one.close()
    with pytest.raises(ValueError, match="released"):
        one.epochs[0]
    hand[0] = 3
    assert other.hands[8] == 3
