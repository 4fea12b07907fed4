"""Members: this process's members of the groups of one store, looked after by the keeper.

Every 50 ms, without the members' threads: it stamps the process's slot, has each member commit what it confirmed, cuts
short what a member hands out when its group changed, sees to the target of a group whose member went on, watches the
next process in the ring of slots, and removes the members of a dead one, committing what they had confirmed. Liveness
is the slot's lock, held for life: who dies is noticed within a round. A keeper that ran late itself judges nobody.
"""

import contextlib
import threading
from collections.abc import Callable
from typing import Final

import lmdb

from kafkalite import clock
from kafkalite.coordinator.group import Fence, Gone
from kafkalite.errors import FencedMemberError, KafkaliteError
from kafkalite.group_state import load, members_of
from kafkalite.group_step import Stepped, step
from kafkalite.membership import Membership
from kafkalite.storage import internal, keeper
from kafkalite.storage.commit import Append
from kafkalite.storage.engine import Engine
from kafkalite.storage.index import read_positions
from kafkalite.storage.internal import OFFSETS_LOG, KeyedRecord
from kafkalite.storage.slots import FLAGS, OFFSET, POLLED, Hand, epoch_place, free_hands

PROBE_SECONDS: Final = 0.05
QUIET_MS: Final = 150
"""A process without a sign for so long, three rounds, is perhaps stopped: what it watches is watched by others."""
LATE_MS: Final = 1000
"""A keeper that ran so late judges nobody: it was stopped itself."""

Removal = Gone | Fence
"""How a group loses a member that does not leave by itself."""


class Members:
    """This process's members of the groups of one store; one for an engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._lock = threading.Lock()
        self._members: list[Membership] = []
        self._is_due = False
        self._last = 0
        self._held: dict[int, tuple[int, int]] = {}
        self._commits_at: dict[int, int] = {}
        engine.after_fork(self._begin)

    def _begin(self) -> None:
        """In a forked child: the members are the parent's."""
        self._lock = threading.Lock()
        self._members = []
        self._is_due = False

    def add(self, member: Membership) -> None:
        """Look after a member from now on."""
        with self._lock:
            self._members.append(member)
            self._last = clock.boot_ms()
            if not self._is_due:
                self._is_due = True
                keeper.after(PROBE_SECONDS, self.round)

    def remove(self, member: Membership) -> None:
        """Look after it no more."""
        with self._lock:
            if member in self._members:
                self._members.remove(member)

    # The keeper's round

    def round(self) -> None:
        """Look after the members once, and see to it that it is done again."""
        with self._lock:
            members = list(self._members)
            if not members or not self.engine.is_open:
                self._is_due = False
                return
        try:
            now = clock.boot_ms()
            is_late, self._last = now - self._last > LATE_MS, now
            self.engine.slots.stamp()
            catalogue = self.engine.index.positions().catalogue
            for member in members:
                try:
                    self._look_after(member, now, catalogue, is_late=is_late)
                except FencedMemberError:  # its own thread will learn it when it next asks
                    member.interrupt()
            if not is_late:
                self._probe(now)
        except (KafkaliteError, ValueError, OSError):  # the store is closing, busy or full: the next round sees
            pass
        finally:
            keeper.after(PROBE_SECONDS, self.round)

    def _look_after(self, member: Membership, now: int, catalogue: int, *, is_late: bool) -> None:
        hand = member.hand
        if hand is None or not hand.is_mine():
            member.interrupt()
            return
        if catalogue not in (member.catalogue, member.told):
            member.told = catalogue
            self.engine.wakeup.poke([member.place])
        if member.has_changed():
            member.interrupt()
        self._judge(member, hand, now, is_late=is_late)
        if member.owes_look:
            self._look(member)
        if member.deadline_ms is not None and member.deadline_ms <= now:
            member.tick(is_late=is_late)
        is_due = member.is_waiting or now >= self._commits_at.get(hand.number, 0)
        if member.settings["enable_auto_commit"] and is_due:
            self._commits_at[hand.number] = now + member.settings["auto_commit_interval_ms"]
            member.commit_held()

    def _look(self, member: Membership) -> None:
        """Look at a member's group, for all of this process's members of it that owe it."""
        member.look()
        for other in list(self._members):
            if other.owes_look and other.group_id == member.group_id:
                other.deadline_ms, other.owes_look = member.deadline_ms, False

    def _judge(self, member: Membership, hand: Hand, now: int, *, is_late: bool) -> None:
        """Fence a member that has not asked for records for too long; waiting for them does not count."""
        held = (hand.words[FLAGS], hand.words[OFFSET])
        if member.is_waiting or is_late or self._held.get(hand.number) != held:
            self._held[hand.number] = held
            hand.words[POLLED] = now
        elif now - hand.words[POLLED] > member.settings["max_poll_interval_ms"]:
            limit = member.settings["max_poll_interval_ms"]
            member.remove(f"it asked for no records for more than max_poll_interval_ms={limit}")

    def _probe(self, now: int) -> None:
        """Look at the processes behind this one in the ring of slots, up to the first that looks on from there."""
        slots = self.engine.slots
        taken = slots.taken()
        behind = [number for number in taken if number > slots.number]
        for number in [*behind, *(one for one in taken if one < slots.number)]:
            incarnation = slots.page.incarnations[number]
            if not slots.is_alive(number, incarnation):
                self.expel((number, incarnation))
                continue
            silent = now - slots.page.stamps[number]
            if silent < QUIET_MS:
                return
            if silent >= LATE_MS:
                self._fence_stopped((number, incarnation), silent)

    def expel_dead(self) -> None:
        """Remove the members of all processes that have ended, so that who joins now finds what they had."""
        for process in self.engine.slots.dead():
            self.expel(process)

    def expel(self, process: tuple[int, int]) -> None:
        """Remove the members of a dead process, committing what they had confirmed."""
        self._remove(process, lambda member_id, _: Gone(member_id))
        free_hands(self.engine.wakeup.page, process[1])
        self.engine.slots.free(*process)

    def _fence_stopped(self, process: tuple[int, int], silent: int) -> None:
        """Remove those members of a stopped process whose sessions are over."""

        def events(member_id: str, hand: Hand) -> Removal | None:
            if silent <= hand.session_timeout_ms:
                return None
            return Fence(member_id, f"its process gave no sign for {silent} ms")

        self._remove(process, events)

    def _remove(self, process: tuple[int, int], event_of: Callable[[str, Hand], Removal | None]) -> None:
        groups: set[str] = set()
        all_stepped: list[Stepped] = []

        def decide(transaction: lmdb.Transaction) -> list[Append]:
            groups.clear()
            all_stepped.clear()
            positions = read_positions(transaction)
            records: list[KeyedRecord] = []
            page = self.engine.wakeup.page
            for group_id, found in members_of(transaction, page, process).items():
                events = [event for name, hand in found if (event := event_of(name, hand)) is not None]
                if events:
                    loaded = load(transaction, positions.catalogue, group_id, page)
                    stepped = step(loaded, events, page, epoch_place(group_id))
                    records += stepped.records
                    all_stepped.append(stepped)
                    groups.add(group_id)
            return [Append(OFFSETS_LOG, internal.batch_of(records))] if records else []

        with self.engine.snapshot() as (transaction, _):
            there = members_of(transaction, self.engine.wakeup.page, process)
        if not any(event_of(name, hand) for found in there.values() for name, hand in found):
            return
        self.engine.decide(decide, waits=False)
        for stepped in all_stepped:
            stepped.settle(self.engine.slots)
        self.engine.wakeup.poke(map(epoch_place, groups))
        for member in list(self._members):
            if member.group_id in groups:
                groups.discard(member.group_id)
                with contextlib.suppress(KafkaliteError):  # it owes it then: the next round tries again
                    self._look(member)


_making = threading.Lock()


def members_of_store(engine: Engine) -> Members:
    """The members of this process in a store; the engine keeps them."""
    with _making:
        if not isinstance(engine.members, Members):
            engine.members = Members(engine)
        return engine.members
