"""One step of a group, under WRITE: events into the core, its changes out as records, who has to know is told.

Every change raises the group's epoch in the shared page, at least to the number of its transaction; a member compares
it before it begins with another run of records. A partition that is to move, of a member that has nothing of it in hand
and nobody to call, is moved by the step itself: so two members in one thread do not wait for each other. What makes
this safe is an order: here the epoch is raised before the hands are looked at, there a run is taken in hand before the
epoch is looked at, and `fence` stands between the two on both sides.
"""

import functools
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kafkalite import clock
from kafkalite.coordinator.group import NONE, Event, Gone, Group, Owns, Partitions
from kafkalite.coordinator.records import OffsetCommits
from kafkalite.group_state import Loaded, committed_offset, keep_deadlines
from kafkalite.storage.engine import Engine
from kafkalite.storage.internal import KeyedRecord
from kafkalite.storage.page import SharedPage
from kafkalite.storage.slots import FLAGS, INCARNATION, PASSIVE, Hand, Slots, adopt_hand, hand_of

LOCAL_HOST = "/local"
"""What members of this machine's processes have in place of an address: they are found by their hands."""
_barrier = threading.Lock()
_compiled = functools.cache(re.compile)


def fence() -> None:
    """Let what was written before be seen before anything is read after: taking a lock is a full memory barrier."""
    with _barrier:
        pass


@dataclass(slots=True)
class Stepped:
    """What a step came to: records to append, whether the group changed, hands to be seen to once it is committed."""

    records: list[KeyedRecord] = field(default_factory=list)
    is_changed: bool = False
    gone: list[Hand] = field(default_factory=list)
    away: list[Hand] = field(default_factory=list)

    def settle(self, slots: Slots) -> None:
        """It is committed: members that are gone, or away, write into their hands no more."""
        for hand in self.gone:
            hand.retire(slots)
        for hand in self.away:
            hand.leave()


def step(loaded: Loaded, events: Sequence[Event], page: SharedPage, place: int) -> Stepped:
    """Step a group, under WRITE; what a member had confirmed is committed with its end. Raises `GroupError`."""
    group, now = loaded.group, clock.boot_ms()
    hands = {name: hand for name in group.members if (hand := hand_of(page, name)) is not None}
    owned = {name: group.members[name].owned for name in hands}
    _bury(group, hands, page, now)
    for event in events:
        group.step(event, now)
    stepped = Stepped(gone=[hand for name, hand in hands.items() if name not in group.members])
    if group.changed:
        stepped.is_changed = True
        # One more than it was in any case: a transaction that fails leaves its number to the next one.
        page.epochs[place] = max(page.epochs[place] + 1, loaded.transaction.id())
        fence()
        ended = [name for name in hands if name not in group.members or group.members[name].is_away]
        kept = [record for name in ended for record in confirmed(loaded, hands[name], owned[name])]
        stepped.records = [*kept, *_move_idle(loaded, page, now), *loaded.changes()]
    there = group.members.items()
    stepped.away = [hands[name] for name, member in there if member.is_away and name in hands]
    keep_deadlines(group, page)
    return stepped


def _bury(group: Group, hands: Mapping[str, Hand], page: SharedPage, now: int) -> None:
    """Members of this machine's processes whose hand is gone, or let go of, have ended unnoticed: say so."""
    for member in list(group.members.values()):
        if member.client_host != LOCAL_HOST or member.is_away:
            continue
        hand = hands.get(member.member_id)
        if hand is None or not hand.words[INCARNATION]:
            group.step(Gone(member.member_id), now)
            if hand is None and member.member_id in group.members:
                adopt_hand(page, member.member_id, member.session_timeout_ms)


def _move_idle(loaded: Loaded, page: SharedPage, now: int) -> list[KeyedRecord]:
    """Take partitions from members that have nothing of them in hand, and nobody to be called.

    Returns the commits of what had been put aside of them.
    """
    group, records = loaded.group, list[KeyedRecord]()
    for member in list(group.members.values()):
        hand = hand_of(page, member.member_id) if member.revoking else None
        if hand is None or not hand.words[FLAGS] & PASSIVE:
            continue
        held = hand.held()
        kept = member.revoking & {held[0]} if held else NONE
        if kept != member.revoking:
            records += confirmed(loaded, hand, member.revoking - kept)
            group.step(Owns(member.member_id, member.epoch, member.assigned | kept), now)
    return records


def confirmed(loaded: Loaded, hand: Hand, logs: Partitions) -> list[KeyedRecord]:
    """The commits of what a member had confirmed of these partitions and not committed; under WRITE."""
    group_id, records = loaded.group.group_id, list[KeyedRecord]()
    for log_id, offset in hand.confirmed().items():
        owner = loaded.topics.owner(log_id) if log_id in logs else None
        if owner is None:
            continue
        topic, number = owner
        before = committed_offset(loaded.transaction, group_id, topic, number)
        if before is None or before < offset:
            encoder = OffsetCommits(group_id)
            value = encoder.value(offset, clock.now_ms(), topic_id=topic.topic_id)
            records.append((encoder.key(topic.name, number), value))
    return records


def resolved(engine: Engine, names: Sequence[str], patterns: Sequence[str]) -> tuple[str, ...]:
    """Names, and what patterns mean now."""
    return tuple(sorted({*names, *matching(engine.topic_names(), patterns)})) if patterns else tuple(sorted(names))


def matching(topics: Sequence[str], patterns: Sequence[str]) -> tuple[str, ...]:
    """Those of the topics whose whole name one of the patterns matches."""
    whole = _compiled("|".join(patterns))
    return tuple(name for name in topics if whole.fullmatch(name))
