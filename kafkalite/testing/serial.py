"""The serial model: whether one store that does one thing after another could have given all the answers of a history.

The model is one journal, commits one after another, each whole; a reader sees a prefix of it. The logs as they are at
the end give the order. What must hold, and how it is found:

- every record that was acknowledged is there, once, where it was said; an atomic commit is there as a whole; what was
  refused is not there; nothing is there that nobody wrote;
- there is one order of all commits that agrees with every log. A commit's *reach* is, for each log, the end that it
  implies: its own and that of all commits before it;
- real time: once somebody was told of a commit (it was acknowledged, or seen), whatever begins later is behind its
  reach: appends get offsets there, readers see at least so far, ends do not go back. So a half of a commit that is seen
  before the other is found as well;
- a record is not seen before somebody began to write it, and what is seen is what is there at the end; a reader that
  follows gets every offset once, in order;
- a conditional append got the offset that it expected, or was refused with an end that the log had meanwhile.

Time and memory grow with the history, not with its square: what was read is compared as it is loaded, then dropped.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, Self

from kafkalite.testing.history import NEVER, Log, Look, Name, Note, Run, Write

MAX_PROBLEMS: Final = 20
"""So many problems of each kind are described; all are counted."""

Reach = tuple[int, ...]
"""The end of each log, in the order of `_Order.logs`."""
Kind = Literal["lost", "torn", "wrong"]


@dataclass(slots=True)
class Verdict:
    """What was looked at, and what cannot be: nothing, when `ok`. `counts` is by kind: lost records, torn commits,
    other wrong answers.
    """

    records: int = 0
    acknowledged: int = 0
    writes: int = 0
    refused: int = 0
    unknown: int = 0
    looks: int = 0
    seen: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether a serial store could have given these answers."""
        return not self.counts

    def add(self, kind: Kind, problem: str, count: int = 1) -> None:
        """One more thing that cannot be."""
        self.counts[kind] += count
        if sum(known.startswith(kind) for known in self.problems) < MAX_PROBLEMS:
            self.problems.append(f"{kind}: {problem}")

    def __str__(self) -> str:
        figures = (
            f"{self.writes} writes ({self.refused} refused, {self.unknown} unanswered), {self.looks} looks, "
            f"{self.records} records, {self.acknowledged} of them acknowledged, {self.seen} read; "
            f"lost: {self.counts['lost']}, torn: {self.counts['torn']}, wrong: {self.counts['wrong']}"
        )
        return "\n".join([figures, *self.problems])


def judge(final: Mapping[Log, Sequence[Name]], operations: Iterable[Write | Look | Note]) -> Verdict:
    """Hold what clients were told against the logs as they are in the end, every offset from 0 on.

    A client's looks come in the order in which they were made; otherwise the order does not matter.
    """
    verdict = Verdict(records=sum(map(len, final.values())))
    looks = _Looks(final, verdict)
    writes = []
    for operation in operations:
        if isinstance(operation, Write):
            writes.append(operation)
        elif isinstance(operation, Look):
            looks.take(operation)
    places = _places(final, verdict)
    _hold_writes(writes, places, verdict)
    _nothing_else(final, writes, looks, verdict)
    order = _Order.of(final, writes, places, verdict) if len(places) == verdict.records else None
    if order is not None:
        _Sweep(order, verdict).run(writes, looks.kept, places)
    return verdict


class _Place(NamedTuple):
    log: Log
    offset: int

    def __str__(self) -> str:
        return f"{self.log} offset {self.offset}"


def _places(final: Mapping[Log, Sequence[Name]], verdict: Verdict) -> dict[Name, _Place]:
    """Where each record is; finds those that are there twice."""
    places: dict[Name, _Place] = {}
    for log, names in final.items():
        for offset, name in enumerate(names):
            first = places.setdefault(name, _Place(log, offset))
            if first != (log, offset):
                verdict.add("wrong", f"record {name} is there twice, at {first} and at {log} offset {offset}")
    return places


def _hold_writes(writes: Iterable[Write], places: Mapping[Name, _Place], verdict: Verdict) -> None:
    """Each write by itself: all there, or not there, and where it was said."""
    for write in writes:
        found = [places[name] for name in write.names() if name in places]
        missing = write.parts - len(found)
        verdict.writes += 1
        if write.outcome == "acknowledged":
            verdict.acknowledged += write.parts
            if missing:
                verdict.add("lost", f"{missing} of {write.parts} records of {write}", missing)
            elif not _is_within(write, found):
                verdict.add("wrong", f"{write} is elsewhere: said to be at {write.ranges}, is at {found}")
        elif write.outcome == "refused":
            verdict.refused += 1
            if found:
                verdict.add("wrong", f"{write} is there all the same, at {found[0]}")
        else:
            verdict.unknown += 1
        if write.is_atomic and found and missing:
            verdict.add("torn", f"{write} has {len(found)} of {write.parts} records, the first at {found[0]}")
        if write.expected and found and found[0] != write.expected:
            verdict.add("wrong", f"{write} expected to be at {write.expected}, is at {found[0]}")


def _is_within(write: Write, found: Sequence[_Place]) -> bool:
    """Whether the records are where their writer was told, in the order in which they were written."""
    ends: dict[Log, int] = {}
    for log, offset in found:
        if offset < ends.get(log, 0):
            return False
        ends[log] = offset + 1
        if not any(log == named and start <= offset < end for named, start, end in write.ranges):
            return False
    return not write.is_atomic or sum(end - start for _, start, end in write.ranges) == write.parts


class _Looks:
    """Compares what was seen with what is there, and keeps of a look what the sweep needs: logs and ends."""

    def __init__(self, final: Mapping[Log, Sequence[Name]], verdict: Verdict) -> None:
        self._final = final
        self._verdict = verdict
        self._next: dict[tuple[int, str, Log], int] = {}
        self.kept: list[Look] = []
        self.ghosts: dict[Name, str] = {}
        """Records that were seen and are not where they were seen, with who saw them."""

    def take(self, look: Look) -> None:
        self._verdict.looks += 1
        shown: dict[Log, Run] = {}
        for log, (start, names) in look.seen.items():
            self._verdict.seen += len(names)
            self._compare(look, log, start, names)
            if look.reader:
                self._follow(look, log, start, len(names))
            if names:
                shown[log] = (start + len(names), ())
        self.kept.append(Look(look.client, look.number, look.began, look.ended, shown, look.ends))

    def _compare(self, look: Look, log: Log, start: int, names: Sequence[Name]) -> None:
        there = self._final.get(log, ())[start : start + len(names)]
        if list(there) == list(names):
            return
        for offset, name in enumerate(names, start):
            is_there = offset < len(self._final.get(log, ())) and self._final[log][offset] == name
            if not is_there:
                self.ghosts.setdefault(name, f"{look} at {log} offset {offset}")

    def _follow(self, look: Look, log: Log, start: int, count: int) -> None:
        key = (look.client, look.reader, log)
        wanted = self._next.get(key, start)
        if start != wanted:
            self._verdict.add("wrong", f"{look}: reader {look.reader} of {log} was at {wanted} and got {start}")
        self._next[key] = start + count


def _nothing_else(
    final: Mapping[Log, Sequence[Name]], writes: Iterable[Write], looks: _Looks, verdict: Verdict
) -> None:
    """Nothing is there, and nothing was seen, that nobody wrote, or that is gone again."""
    written = {name for write in writes for name in write.names()}
    there = {name for names in final.values() for name in names}
    for name in there - written:
        verdict.add("wrong", f"record {name} is there, and nobody wrote it")
    for name, where in looks.ghosts.items():
        if name not in written:
            verdict.add("wrong", f"record {name} was seen by {where}, and nobody wrote it")
        elif name not in there:
            verdict.add("lost", f"record {name} was seen by {where}, and is not there")
        else:
            verdict.add("wrong", f"record {name} was seen by {where}, and is at another place")


class _Order:
    """One order of all commits that agrees with every log, and what each commit implies.

    A commit is an atomic write, or a single record of another one.
    """

    def __init__(self, logs: Sequence[Log], lengths: Mapping[Log, int]) -> None:
        self.logs = logs
        self.column = {log: number for number, log in enumerate(logs)}
        self.reach: dict[Log, list[Reach]] = {log: [()] * lengths[log] for log in logs}
        """The reach of the commit at each offset."""
        self.begun: dict[Log, list[int]] = {log: [0] * (lengths[log] + 1) for log in logs}
        """By end offset: when the last of the records before it began to be written."""

    @classmethod
    def of(
        cls,
        final: Mapping[Log, Sequence[Name]],
        writes: Iterable[Write],
        places: Mapping[Name, _Place],
        verdict: Verdict,
    ) -> Self | None:
        """The order, or `None` and a problem when there is none."""
        order = cls(sorted(final), {log: len(names) for log, names in final.items()})
        commits: dict[Name, Sequence[Name]] = {}
        began: dict[Name, int] = {}
        for write in writes:
            names = [name for name in write.names() if name in places]
            for name in names:
                began[name] = write.began
                commits[name] = names if write.is_atomic else [name]
        order._note_begun(final, began)
        return order if order._walk(final, commits, places, verdict) else None

    def _note_begun(self, final: Mapping[Log, Sequence[Name]], began: Mapping[Name, int]) -> None:
        for log, names in final.items():
            last = 0
            for end, name in enumerate(names, 1):
                last = max(last, began.get(name, 0))
                self.begun[log][end] = last

    def _walk(
        self,
        final: Mapping[Log, Sequence[Name]],
        commits: Mapping[Name, Sequence[Name]],
        places: Mapping[Name, _Place],
        verdict: Verdict,
    ) -> bool:
        """Go through the logs side by side; a commit's turn comes when it is the next one in all its logs."""
        at = dict.fromkeys(self.logs, 0)
        front: dict[Log, Reach] = dict.fromkeys(self.logs, (0,) * len(self.logs))
        waiting = list(self.logs)
        while waiting:
            log = waiting.pop()
            while at[log] < len(final[log]):
                name = final[log][at[log]]
                ends = self._ends(commits.get(name, [name]), places, at)
                if ends is None:
                    break  # its turn comes with another log
                self._pass(ends, at, front)
                waiting += [other for other in ends if other != log and other not in waiting]
        stuck = [f"{log} offset {at[log]}" for log in self.logs if at[log] < len(final[log])]
        if stuck:
            verdict.add("wrong", f"there is no order of commits that agrees with all logs, at {', '.join(stuck)}")
        return not stuck

    def _ends(
        self, names: Sequence[Name], places: Mapping[Name, _Place], at: Mapping[Log, int]
    ) -> dict[Log, int] | None:
        """The end of a commit in each of its logs, when it is the next one there, in one piece."""
        ends: dict[Log, int] = {}
        for name in names:
            log, offset = places[name]
            if offset != ends.get(log, at[log]):
                return None
            ends[log] = max(ends.get(log, at[log]), offset + 1)
        return ends

    def _pass(self, ends: Mapping[Log, int], at: dict[Log, int], front: dict[Log, Reach]) -> None:
        reach = list(map(max, zip(*(front[log] for log in ends), strict=True)))
        for log, end in ends.items():
            reach[self.column[log]] = max(reach[self.column[log]], end)
        known = tuple(reach)
        for log, end in ends.items():
            self.reach[log][at[log] : end] = [known] * (end - at[log])
            at[log] = end
            front[log] = known

    def up_to(self, log: Log, end: int) -> Reach:
        """What an end of a log implies."""
        return self.reach[log][end - 1] if end else (0,) * len(self.logs)


class _Sweep:
    """Goes through beginnings and ends in the order of time, and knows how far everybody must see by then.

    `visible` is for readers, `appended` for writers: a refused append knows of records that nobody may see yet.
    """

    def __init__(self, order: _Order, verdict: Verdict) -> None:
        self._order = order
        self._verdict = verdict
        self._visible = [0] * len(order.logs)
        self._appended = [0] * len(order.logs)

    def run(self, writes: Sequence[Write], looks: Sequence[Look], places: Mapping[Name, _Place]) -> None:
        for is_end, operation in _moments([*writes, *looks]):
            if isinstance(operation, Write):
                found = [places[name] for name in operation.names() if name in places]
                if is_end:
                    self._write_ends(operation, found)
                else:
                    self._write_begins(operation, found)
            elif is_end:
                self._look_ends(operation)
            else:
                self._look_begins(operation)

    def _write_begins(self, write: Write, found: Sequence[_Place]) -> None:
        for log, offset in found:
            floor = self._appended[self._order.column[log]]
            if offset < floor:
                self._verdict.add("wrong", f"{write} got {log} offset {offset}, after the end {floor} was known")
        if write.outcome == "refused" and write.expected is not None and write.actual is not None:
            log = write.expected[0]
            floor = self._appended[self._order.column[log]]
            if write.actual < floor or write.actual == write.expected[1]:
                self._verdict.add(
                    "wrong", f"{write}: expected {write.expected}, told {write.actual}, known before: {floor}"
                )

    def _write_ends(self, write: Write, found: Sequence[_Place]) -> None:
        if write.outcome == "acknowledged":
            for log, offset in found:
                reach = self._order.up_to(log, offset + 1)
                _raise_to(self._visible, reach)
                _raise_to(self._appended, reach)
        elif write.expected is not None and write.actual is not None:
            reach = self._known({write.expected[0]: write.actual}, write)
            _raise_to(self._appended, reach)

    def _look_begins(self, look: Look) -> None:
        for log, end in look.ends.items():
            floor = self._visible[self._order.column[log]]
            if end < floor:
                self._verdict.add("wrong", f"{look}: {log} ends at {end}, after somebody was told of {floor}")

    def _look_ends(self, look: Look) -> None:
        runs = {log: end for log, (end, _) in look.seen.items()}
        reach = self._known({log: max(end, look.ends.get(log, 0)) for log, end in {**look.ends, **runs}.items()}, look)
        for log, end in look.ends.items():
            if reach[self._order.column[log]] > end:
                self._verdict.add(
                    "torn", f"{look}: {log} ends at {end}, and what else was seen goes with {reach} of its logs"
                )
        _raise_to(self._visible, reach)
        _raise_to(self._appended, reach)

    def _known(self, ends: Mapping[Log, int], told: Write | Look) -> Reach:
        """What these ends imply; finds those that could not be known, or are not there."""
        reach = [0] * len(self._order.logs)
        for log, end in ends.items():
            length = len(self._order.reach[log])
            if end > length:
                self._verdict.add("lost", f"{told} was told that {log} ends at {end}, and it has {length}")
            there = min(end, length)
            if self._order.begun[log][there] > told.ended:
                self._verdict.add("wrong", f"{told} knew of {log} up to {there} before it was begun to be written")
            implied = self._order.up_to(log, there)
            if end <= length and isinstance(told, Write) and implied[self._order.column[log]] > end:
                self._verdict.add("torn", f"{told} was told that {log} ends at {end}, in the middle of a commit")
            _raise_to(reach, implied)
        return tuple(reach)


def _moments(operations: Sequence[Write | Look]) -> Iterator[tuple[bool, Write | Look]]:
    """Beginnings and ends in the order of time; at one moment beginnings first: only what is earlier is known."""
    began = ((one.began, False, one) for one in sorted(operations, key=lambda one: one.began))
    ended = ((one.ended, True, one) for one in sorted(operations, key=lambda one: one.ended) if one.ended != NEVER)
    for _, is_end, operation in heapq.merge(began, ended, key=lambda moment: moment[:2]):
        yield is_end, operation


def _raise_to(floors: list[int], reach: Reach) -> None:
    for column, end in enumerate(reach):
        if end > floors[column]:  # noqa: PLR1730  (max() is a call, and this the innermost loop)
            floors[column] = end
