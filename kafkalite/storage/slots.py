"""Slots and hands: which processes have members, whether they live, and what each member has in hand.

A process takes one of 1,024 *slots* before its first member registers: it locks the slot's byte of the journal's file
for life, and writes a random incarnation into the shared page. The lock, tested without being taken, is its liveness;
a pid is never trusted, a number that comes back is told apart by the incarnation.

A *hand* is a member's place in the shared page, 24 words:

    0  token         random, in the member's id as well; 0: the hand is free
    1  incarnation   of the member's process; 0 when it has ended, or the member is away
    2  slot | session timeout in ms << 16; bit 63 `RETIRED`: the group has removed the member
    3  flags         1 `HOLDS`: words 4 and 5 count; 2 `PASSIVE`: nobody is to be called before partitions are taken
    4  log id        of the partition whose records are being handed out
    5  offset        of the record in hand there: all before it were confirmed
    6  polled        when records were last asked for, ms since boot
    7  deadline      of the member in its group, ms since boot; 0: none
    8  log id        of a partition that was put aside, 0: none; and the offset before which all of it was confirmed;
    9  offset        eight such pairs

Each word is written by one store, so that SIGKILL finds it old or new. A member that begins with another partition
puts the one that it has in hand aside, drops `HOLDS`, writes 4 and 5, and takes it up again: so nobody waits for WRITE
between two partitions. What was put aside may be committed by now; an offset is never taken back to it.

A hand is free again when its member's process says so, or has ended: who was removed by others may still be writing
into it, and what is written into a hand is committed. Until then it is *retired*. Nothing that counts is written here
before the transaction that it goes with is committed.

All of it is volatile: it outlives processes that are killed, all of them too, but neither the store's closing nor a
power cut.
"""

import threading
from collections.abc import Callable, Collection
from typing import Final

from kafkalite import clock, disk
from kafkalite.errors import StoreBusyError
from kafkalite.records.checksum import hash64
from kafkalite.storage.locks import FIRST_BYTE, FIRST_SLOT
from kafkalite.storage.page import GROUPS, HAND_WORDS, HANDS, SLOTS, SharedPage

TOKEN, INCARNATION, SLOT, FLAGS, LOG, OFFSET, POLLED, DEADLINE, ASIDE = range(9)
_PAIRS: Final = range(ASIDE, HAND_WORDS, 2)
HOLDS: Final = 1
PASSIVE: Final = 2
SLOT_MASK: Final = 0xFFFF
TIMEOUT_SHIFT: Final = 16
MOST_TIMEOUT_MS: Final = 2**40
RETIRED: Final = 1 << 63


def random_number() -> int:
    """Not 0, and not to be had twice."""
    return int.from_bytes(disk.random_bytes(8)) >> 1 | 1


class Slots:
    """The slots of a store, as one process sees them; `mine` takes its own."""

    def __init__(self, fd: int, page: SharedPage) -> None:
        self._fd = fd
        self.page = page
        self._lock = threading.Lock()
        self.number = -1
        self.incarnation = 0

    def mine(self) -> int:
        """This process's slot, taken when first asked for; raises `StoreBusyError` when all are taken."""
        with self._lock:
            if self.number < 0:
                self._take()
        return self.number

    def _take(self) -> None:
        first = disk.process_id() % SLOTS
        for number in [*range(first, SLOTS), *range(first)]:
            if not self.page.incarnations[number] and disk.is_taken(disk.lock_call(self._fd, self._byte(number))):
                self.incarnation = random_number()
                self.page.pids[number] = disk.process_id()
                self.page.stamps[number] = clock.boot_ms()
                self.page.incarnations[number] = self.incarnation
                self.number = number
                return
        raise StoreBusyError(
            f"{SLOTS} processes have members of groups in this store, which is all it can have: end some"
        )

    @staticmethod
    def _byte(number: int) -> int:
        return FIRST_BYTE + FIRST_SLOT + number

    def stamp(self) -> None:
        """Note that this process is at work."""
        self.page.stamps[self.number] = clock.boot_ms()

    def taken(self) -> list[int]:
        """The slots that have an owner, dead or alive."""
        return [number for number, incarnation in enumerate(self.page.incarnations) if incarnation]

    def is_alive(self, number: int, incarnation: int) -> bool:
        """Whether the process that took this slot with this incarnation still lives."""
        if not incarnation or self.page.incarnations[number] != incarnation:
            return False
        return number == self.number or disk.is_locked(self._fd, self._byte(number))

    def dead(self) -> list[tuple[int, int]]:
        """Slot and incarnation of each process that has ended, and whose slot is not free yet."""
        processes = [(number, self.page.incarnations[number]) for number in self.taken()]
        return [process for process in processes if not self.is_alive(*process)]

    def free(self, number: int, incarnation: int) -> None:
        """A dead process's slot may be taken again; under WRITE, once its members are removed."""
        if self.page.incarnations[number] == incarnation:
            self.page.incarnations[number] = 0


class Hand:
    """One hand of the page. Taken and freed under WRITE, else written by its owner only."""

    __slots__ = ("number", "token", "words")

    def __init__(self, page: SharedPage, number: int, token: int) -> None:
        self.words = page.hands[number * HAND_WORDS : (number + 1) * HAND_WORDS]
        self.number = number
        self.token = token

    @property
    def name(self) -> str:
        """What the member's id ends with: where its hand is, and whose."""
        return f"{self.number:x}-{self.token:016x}"

    @property
    def session_timeout_ms(self) -> int:
        """For how long the member may be away, or its process stopped."""
        return (self.words[SLOT] & ~RETIRED) >> TIMEOUT_SHIFT

    @property
    def process(self) -> tuple[int, int]:
        """Slot and incarnation of the member's process."""
        return self.words[SLOT] & SLOT_MASK, self.words[INCARNATION]

    def is_mine(self) -> bool:
        """Whether the hand is still this member's, and the group has not removed it."""
        return self.words[TOKEN] == self.token and not self.words[SLOT] & RETIRED

    def hold(self, log_id: int, offset: int) -> None:
        """From now on records of that log are handed out, from that offset on."""
        self.words[FLAGS] &= ~HOLDS
        self.words[LOG] = log_id
        self.words[OFFSET] = offset
        self.words[FLAGS] |= HOLDS

    def drop(self) -> None:
        """Nothing is in hand."""
        self.words[FLAGS] &= ~HOLDS

    def held(self) -> tuple[int, int] | None:
        """Log id, and offset of the record in hand there; None when nothing is."""
        flags, log_id, offset = self.words[FLAGS : OFFSET + 1].tolist()  # at once: the keeper reads it as well
        return (log_id, offset) if flags & HOLDS else None

    def put_aside(self, log_id: int, offset: int) -> bool:
        """All of that log before that offset was confirmed, and is to be committed; False when there is no room."""
        words = self.words
        logs = words[ASIDE:HAND_WORDS:2].tolist()
        place = logs.index(log_id) if log_id in logs else logs.index(0) if 0 in logs else None
        if place is None:
            return False
        words[ASIDE + 2 * place + 1] = offset
        words[ASIDE + 2 * place] = log_id
        return True

    def forget(self, is_over: Callable[[int, int], bool]) -> None:
        """Of what was put aside, make room of what is over: it is asked by log id and offset."""
        for at in _PAIRS:
            if self.words[at] and is_over(self.words[at], self.words[at + 1]):
                self.words[at] = 0

    def let_go(self, logs: Collection[int]) -> None:
        """Nothing of these logs is in hand or put aside."""
        held = self.held()
        if held is not None and held[0] in logs:
            self.drop()
        self.forget(lambda log_id, _: log_id in logs)

    def empty(self) -> None:
        """Nothing is put aside."""
        for at in _PAIRS:
            self.words[at] = 0

    def confirmed(self) -> dict[int, int]:
        """The offsets before which all was confirmed, by log id: of what is in hand, and of what was put aside."""
        words = self.words.tolist()  # at once: the keeper reads it as well
        found = {words[at]: words[at + 1] for at in _PAIRS if words[at]}
        if words[FLAGS] & HOLDS:
            found[words[LOG]] = max(words[OFFSET], found.get(words[LOG], 0))
        return found

    def retire(self, slots: Slots) -> None:
        """The group has removed the member: its process is to free the hand, if it still lives."""
        if self.words[TOKEN] != self.token:
            return
        if slots.is_alive(*self.process):
            self.words[SLOT] |= RETIRED
        else:
            self.free()

    def leave(self) -> None:
        """The member is away: nobody writes here until another takes its place."""
        self.drop()
        self.empty()
        self.words[INCARNATION] = 0

    def free(self) -> None:
        """Nobody writes here any more: the hand may be another's."""
        if self.words[TOKEN] == self.token:
            self.words[FLAGS] = 0
            self.words[DEADLINE] = 0
            self.words[TOKEN] = 0


def take_hand(slots: Slots, token: int, session_timeout_ms: int, *, is_passive: bool) -> Hand:
    """A free hand for a member of this process; under WRITE. Raises `StoreBusyError` when there is none."""
    page = slots.page
    for number in range(HANDS):
        if not page.hands[number * HAND_WORDS]:
            hand = Hand(page, number, token)
            words = hand.words
            words[INCARNATION] = slots.incarnation
            words[SLOT] = slots.number | min(session_timeout_ms, MOST_TIMEOUT_MS) << TIMEOUT_SHIFT
            words[FLAGS] = PASSIVE if is_passive else 0
            words[POLLED] = clock.boot_ms()
            words[DEADLINE] = 0
            hand.empty()
            words[TOKEN] = token
            return hand
    raise StoreBusyError(f"the groups of this store have {HANDS} members, which is all it can have: end some")


def adopt_hand(page: SharedPage, member_id: str, session_timeout_ms: int) -> Hand | None:
    """A hand for a static member that is away, and whose own went with the page; under WRITE. None if it is taken."""
    hand = _named(page, member_id)
    if hand is None or hand.words[TOKEN]:
        return None
    hand.words[:] = memoryview(bytes(8 * HAND_WORDS)).cast("Q")
    hand.words[SLOT] = min(session_timeout_ms, MOST_TIMEOUT_MS) << TIMEOUT_SHIFT
    hand.words[TOKEN] = hand.token
    return hand


def free_hands(page: SharedPage, incarnation: int) -> None:
    """Free all hands of a process that has ended, and whose members were removed."""
    for number in range(HANDS):
        words = page.hands[number * HAND_WORDS : (number + 1) * HAND_WORDS]
        if words[INCARNATION] == incarnation:
            Hand(page, number, words[TOKEN]).free()


def hand_of(page: SharedPage, member_id: str) -> Hand | None:
    """The hand of a member by its id; None when it has none any more: its process ended, and so did all others."""
    hand = _named(page, member_id)
    return hand if hand is not None and hand.is_mine() else None


def _named(page: SharedPage, member_id: str) -> Hand | None:
    """The place that a member's id names; None for one that joined over the wire."""
    try:
        _, place, token = member_id.rsplit("-", 2)
        number = int(place, 16)
        return Hand(page, number, int(token, 16)) if number < HANDS else None
    except ValueError:
        return None


def epoch_place(group_id: str) -> int:
    """Where a group's epoch is in the page."""
    return hash64(group_id.encode()) % GROUPS
