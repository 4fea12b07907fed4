"""Copying: topics of one store into another, of any layout: records as they are, offsets and settings kept.

Batches travel undecoded, a few MiB to a commit. A new topic grows under a name of its own, `unfinished-copy.ID`
(the id of the topic it is a copy of), and one commit at the very end gives all of them the names they are to have. So
a copy is atomic, whatever ends it, and it goes on where it was ended: the next one finds the unfinished topics, and
if their last batches are the source's, continues behind them; if not, it deletes them and begins anew.

Every batch is appended under the condition that it gets the offset it had: a second copy of the same topic at the
same time fails, it does not interleave. `append=True` onto a topic that exists can keep neither offsets nor atomicity:
what it appended stays when it is interrupted, and once more is twice.

Not copied: the store's internal logs (topics and their settings are written anew, positions of consumers stay where
they are: a backup takes them along) and the ids of producers, see `storage.transfer`.
"""

import fnmatch
import os
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any, Final, NamedTuple

from kafkalite import config
from kafkalite.config import MIB
from kafkalite.errors import (
    ConfigError,
    OffsetConflictError,
    StoreNotFoundError,
    TopicSettingsError,
    UnknownTopicError,
    UnsupportedError,
)
from kafkalite.storage import transfer
from kafkalite.storage.catalogue import TopicState
from kafkalite.storage.commit import Append
from kafkalite.storage.engine import Engine
from kafkalite.store import Store, connect

UNFINISHED: Final = "unfinished-copy."
COMMIT_BYTES: Final = 4 * MIB

Progress = Callable[[int, int], object]
"""Called with the records that are copied, and those there are to copy."""


class CopiedTopic(NamedTuple):
    """What one call copied of a topic: its records, and the bytes of their batches (compressed as they are)."""

    name: str
    partitions: int
    records: int
    bytes: int


class _Job(NamedTuple):
    """One topic: where from and up to where, where to, and where each partition of that goes on."""

    source: TopicState
    bounds: Sequence[tuple[int, int]]
    target: TopicState
    starts: Sequence[int]
    is_new: bool


def copy_topics(
    source: Store | str | os.PathLike[str],
    target: Store | str | os.PathLike[str],
    topics: Iterable[str] = ("*",),
    *,
    exclude: Iterable[str] = (),
    regex: bool = False,
    append: bool = False,
    progress: Progress | None = None,
) -> list[CopiedTopic]:
    """Copy topics from one store to another, with their settings; both may be in use, by other processes as well.

    `source` and `target` are stores, or paths as `connect` takes them; a target that is not there is created with the
    source's settings. `topics` and `exclude` are names or shell patterns (`orders-*`), or with `regex=True`
    regular expressions that fit the whole name; case counts. All that is visible at the call is copied: values, keys,
    headers, timestamps, offsets and settings stay, byte for byte; internal topics are left out.

    All of it appears in the target in one commit at the end. Interrupted, nothing has appeared, and the same call goes
    on where it was (until then `unfinished-copy.…` topics hold what was copied). A topic that the target has already
    is refused, unless `append=True` appends to it: then offsets are new, what is appended stays there when it is
    interrupted, and calling again appends again; the partition counts must be equal. `progress` is called with
    records done and records in all.

    Returns what was copied, by topic in the order of names. Raises `UnknownTopicError` when a pattern fits no topic,
    `TopicSettingsError` for a topic that is there, `ConfigError`, `UnsupportedError` for topics from which old
    records were removed or that hold transactions, `OffsetConflictError` when somebody else is copying the same,
    `CorruptRecordError`, and what opening and appending raise.
    """
    patterns, left_out = _checked(topics, regex=regex), _checked(exclude, regex=regex)
    with ExitStack() as stack:
        origin = source if isinstance(source, Store) else stack.enter_context(_opened_to_read(source))
        names = _matching(origin, patterns, left_out)
        destination = target if isinstance(target, Store) else stack.enter_context(_opened_to_write(target, origin))
        destination._use_to_write()  # noqa: SLF001  (the faces of one store know each other)
        here, there = origin._engine, destination._engine  # noqa: SLF001  (as above)
        if here is there:
            raise ConfigError(f"{origin.path} cannot be copied into itself: give another target")
        return _copy(here, there, names, append=append, progress=progress)


def _opened_to_read(path: str | os.PathLike[str]) -> Store:
    return connect(path, create=False, read_only=True)


def _opened_to_write(path: str | os.PathLike[str], origin: Store) -> Store:
    try:
        return connect(path, create=False)
    except StoreNotFoundError:
        defaults = config.defaults("store")
        chosen: dict[str, Any] = {name: value for name, value in origin.settings.items() if value != defaults[name]}
        return connect(path, **chosen)


# Which topics


def _checked(patterns: Iterable[str], *, regex: bool) -> dict[str, re.Pattern[str]]:
    """Each pattern, compiled; raises `ConfigError`."""
    if isinstance(patterns, str):
        raise ConfigError(f"{patterns!r} is one pattern, where a list of them belongs: give [{patterns!r}]")
    try:
        return {pattern: re.compile(pattern if regex else fnmatch.translate(pattern)) for pattern in patterns}
    except re.error as error:
        raise ConfigError(f"{error.pattern!r} is not a regular expression: {error}") from error


def _matching(source: Store, patterns: dict[str, re.Pattern[str]], left_out: dict[str, re.Pattern[str]]) -> list[str]:
    names = [name for name in source.topics() if not name.startswith(UNFINISHED)]
    for text, pattern in patterns.items():
        if not any(map(pattern.fullmatch, names)):
            there = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
            raise UnknownTopicError(f"no topic of {source.path} fits {text!r}: there are {there or 'none'}")
    return [
        name
        for name in names
        if any(pattern.fullmatch(name) for pattern in patterns.values())
        and not any(pattern.fullmatch(name) for pattern in left_out.values())
    ]


# The copy


def _copy(
    source: Engine, target: Engine, names: Sequence[str], *, append: bool, progress: Progress | None
) -> list[CopiedTopic]:
    origins = [source.topic(name) for name in names]
    existing = set(target.topic_names()).intersection(names)
    if existing and not append:
        raise transfer.exists(target, sorted(existing))
    moment = transfer.ends(source, origins)
    _refuse_trimmed(origins, moment)
    target.flush()  # so that what an earlier copy appended is visible
    jobs = [
        _job_onto(target, origin, bounds) if origin.name in existing else _job_anew(source, target, origin, bounds)
        for origin, bounds in zip(origins, moment, strict=True)
    ]
    tell = _Progress(jobs, progress)
    copied = [_copy_topic(source, target, job, tell) for job in jobs]
    transfer.rename(target, [(job.target, job.source.name, _chosen(job.source)) for job in jobs if job.is_new])
    return copied


def _refuse_trimmed(origins: Sequence[TopicState], moment: Sequence[Sequence[tuple[int, int]]]) -> None:
    for origin, bounds in zip(origins, moment, strict=True):
        if any(first for first, _ in bounds):
            raise UnsupportedError(
                f"topic {origin.name!r} no longer begins at offset 0, as every new topic does: "
                "copy the whole store with backup"
            )


def _job_onto(target: Engine, origin: TopicState, bounds: Sequence[tuple[int, int]]) -> _Job:
    """Behind what the topic holds."""
    onto = target.topic(origin.name)
    if onto.partition_count != len(bounds):
        raise TopicSettingsError(
            f"topic {origin.name!r} has {len(bounds)} partitions, and {onto.partition_count} in {target.place.path}: "
            "append to one that has as many (topic.alter(partitions=…) adds some), or leave it out"
        )
    return _Job(origin, bounds, onto, [first for first, _ in bounds], is_new=False)


def _job_anew(source: Engine, target: Engine, origin: TopicState, bounds: Sequence[tuple[int, int]]) -> _Job:
    """A topic of its own, or the one that an earlier copy did not finish."""
    name = UNFINISHED + origin.topic_id.hex()
    if name in target.topic_names():
        job = _Job(origin, bounds, target.topic(name), (), is_new=True)
        starts = _resumed(source, target, job)
        if starts is not None:
            return job._replace(starts=starts)
        target.delete_topic(name)
    staged = target.create_topic(name, len(bounds), _chosen(origin))
    return _Job(origin, bounds, staged, [0] * len(bounds), is_new=True)


def _chosen(topic: TopicState) -> dict[str, Any]:
    """The settings that differ from the defaults, those of later versions too."""
    defaults = config.defaults("topic")
    return {name: value for name, value in topic.settings.items() if value != defaults.get(name)}


def _resumed(source: Engine, target: Engine, job: _Job) -> list[int] | None:
    """Where each partition goes on, if what an earlier copy left holds a beginning of what there is now."""
    if job.target.partition_count != len(job.bounds):
        return None
    (reached,) = transfer.ends(target, [job.target])
    starts = [end for _, end in reached]
    for partition, (start, (_, end)) in enumerate(zip(starts, job.bounds, strict=True)):
        if start > end:
            return None
        if not start:
            continue
        last = [
            next(transfer.batches(engine, topic, partition, start - 1, start), None)
            for engine, topic in ((source, job.source), (target, job.target))
        ]
        if last[0] != last[1]:  # the source was restored or made anew meanwhile
            return None
    return starts


class _Progress:
    """Counts records, and tells who asked."""

    def __init__(self, jobs: Sequence[_Job], tell: Progress | None) -> None:
        self._tell = tell
        self._total = sum(end - first for job in jobs for first, end in job.bounds)
        self._done = 0
        self.add(sum(start - first for job in jobs for start, (first, _) in zip(job.starts, job.bounds, strict=True)))

    def add(self, records: int) -> None:
        """So many more."""
        self._done += records
        if self._tell is not None:
            self._tell(self._done, self._total)


def _copy_topic(source: Engine, target: Engine, job: _Job, tell: _Progress) -> CopiedTopic:
    records = size = 0
    for partition, (start, (_, end)) in enumerate(zip(job.starts, job.bounds, strict=True)):
        group = _Group(target, job, partition)
        for taken in transfer.batches(source, job.source, partition, start, end):
            records += taken.batch.count
            size += taken.batch.size
            tell.add(group.add(taken))
        tell.add(group.commit())
    return CopiedTopic(job.source.name, len(job.bounds), records, size)


class _Group:
    """Batches of one partition that are committed together. `add` and `commit` return how many offsets were."""

    def __init__(self, target: Engine, job: _Job, partition: int) -> None:
        self._target = target
        self._job = job
        self._log_id = job.target.log_id(partition)
        settings = target.settings()
        self._most = min(COMMIT_BYTES, settings["segment_bytes"] // 2, settings["max_commit_bytes"] // 2)
        self._appends: list[Append] = []
        self._size = self._offsets = 0

    def add(self, taken: transfer.Taken) -> int:
        done = self.commit() if self._appends and self._size + taken.batch.size > self._most else 0
        expected = taken.base_offset if self._job.is_new else None
        self._appends.append(Append(self._log_id, taken.batch, self._job.target, expected))
        self._size += taken.batch.size
        self._offsets += taken.batch.last_offset_delta + 1
        return done

    def commit(self) -> int:
        if self._appends:
            try:
                self._target.append(self._appends)
            except OffsetConflictError as error:
                raise OffsetConflictError(
                    f"somebody else is writing the copy of topic {self._job.source.name!r} into "
                    f"{self._target.place.path}: wait for the other copy, then begin again ({error})",
                    error.expected,
                    error.actual,
                ) from error
        done = self._offsets
        self._appends, self._size, self._offsets = [], 0, 0
        return done
