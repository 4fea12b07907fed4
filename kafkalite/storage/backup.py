"""Backup: a complete store of one moment at another place, while any number of processes write.

The moment is one snapshot of the index. All that was published before the call lies before its tail; the journal up
to the tail is whole commits, is never written over, and what is appended meanwhile comes behind. So nothing is
locked, and writers go on:

    1  the index, compacted by LMDB out of that snapshot; readers of this process wait for it, nobody else
    2  the segments, copied by the kernel, each up to where it ends; behind the tail come zeros again
    3  of that, what the source had not flushed yet is verified frame by frame: a flush that fails meanwhile may
       drop it from the page cache
    4  the index's positions, then the superblock: sealed at the tail, naming the inodes of *these* files
    5  flushed; renamed, replacing nothing; the directory flushed

Steps 1 to 4 happen in NAME-unfinished/ beside the target, which is no store until its superblock is there. A lock in it
tells a backup that is under way from the rubbish of one that was killed, which the next backup to that target
removes. An error removes it at once. In a file's layout the index takes its name just before the file does: killed in
between, what stands there is an index without a store, which the next creation or backup replaces.

*The store's id stays.* It is in each segment's header, the header's checksum seeds the chain, and every frame holds two
chains: another id would mean another hash for every frame, and a copy that is not the bytes that were written. What the
new salt of the design was for, a stale index beside a restored file, is noticed by the superblock: it names journal and
index by device and inode, and a sealed one is believed only if the index ends at its tail *and* its chain, which
covers all history. An index that fits in all of that is an index of exactly this journal. Segments of a
source that went on, mixed into a restored directory, are behind the seal, and do not count.

The copy is not checked further: `check` on the backup does that. Segments are opened one after another: a cleaner, once
there is one, must neither remove nor reuse one meanwhile, so a backup will have to hold CLEANER from before its
snapshot to the end of step 2.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import lmdb

from kafkalite import disk
from kafkalite.errors import (
    ConfigError,
    CorruptRecordError,
    KafkaliteError,
    StoreBusyError,
    StoreExistsError,
    StoreFailedError,
    StoreFullError,
)
from kafkalite.storage import frame, index, recovery, segment, superblock
from kafkalite.storage.engine import Engine
from kafkalite.storage.index import Index, Positions
from kafkalite.storage.journal import Journal
from kafkalite.storage.place import Place, resolve
from kafkalite.storage.recovery import End
from kafkalite.storage.segment import DirectorySegments, Header
from kafkalite.storage.superblock import State, Superblock

CHUNK_BYTES: Final = 16 << 20
"""Copied between two calls of the progress callback, at most."""
UNFINISHED: Final = "-unfinished"
LOCK_NAME: Final = "backup-lock"
STORE_NAME: Final = "store"

Progress = Callable[[int, int], object]
"""Called with the bytes of the journal that are copied, and those there are to copy."""


class BackupReport(NamedTuple):
    """What a backup made: the store's path, its segments, the bytes of its journal that are in use."""

    path: Path
    segments: int
    bytes: int


class _Part(NamedTuple):
    """A segment to copy: its header, and the byte at which the journal leaves it."""

    header: Header
    end: int


def backup(engine: Engine, target: str | os.PathLike[str], progress: Progress | None = None) -> BackupReport:
    """Copy an open store to `target`, which must not exist; see the module.

    Raises `StoreExistsError`, `StoreBusyError` when another backup to that target is under way, `StoreFullError`,
    `StorePermissionError`, `CorruptRecordError`, `StoreFailedError`, `ConfigError`, `ClosedError`.
    """
    place = _place_of(target)
    with _errors_named(place):
        _refuse_existing(place)
        disk.make_directory(place.path.parent)
        with _staging(place) as staging:
            positions = _copy_index(engine, staging)
            now = _superblock_of(engine)
            report = _copy_journal(engine, staging, now.store_id, positions, progress or _say_nothing)
            _seal(staging, now, positions)
            _give_name(staging, place)
    return report._replace(path=place.path)


def _say_nothing(done: int, total: int) -> None:
    """The progress of who does not ask for it."""


@contextlib.contextmanager
def _errors_named(place: Place) -> Iterator[None]:
    """The system's errors as the table's."""
    try:
        with disk.translated(f"cannot write the backup {place.path}"):
            yield
    except KafkaliteError:
        raise
    except OSError as error:
        raise StoreFailedError(
            f"the backup {place.path} was not made: {error}: mend what failed, then begin again; the store is as it was"
        ) from error


def _place_of(target: str | os.PathLike[str]) -> Place:
    text = os.fspath(target)
    if not text or text == ":memory:" or text.startswith("kafka://"):
        raise ConfigError(f"a backup cannot go to {text!r}: give the path of a file or a directory that does not exist")
    return resolve(text)


def _refuse_existing(place: Place) -> None:
    if place.path.exists():
        raise StoreExistsError(f"{place.path} exists, and a backup replaces nothing: choose another path, or remove it")


# The place beside


@contextlib.contextmanager
def _staging(place: Place) -> Iterator[Place]:
    """An empty place beside the target's, in its layout, for this backup alone; it is gone afterwards."""
    directory = place.path.with_name(place.path.name + UNFINISHED)
    fd = _claim(directory, place)
    unlock = disk.unlock_call(fd, 0)
    try:
        _clear(directory)
        staging = resolve(directory / (STORE_NAME if place.is_directory else f"{STORE_NAME}.klite"))
        disk.make_directory(staging.directory)
        yield staging
    finally:
        try:
            _remove(directory)
        finally:
            unlock()  # a child that was forked meanwhile has the descriptor, and with it the lock
            disk.close(fd)


def _claim(directory: Path, place: Place) -> int:
    """Lock the directory, making it if need be; raises `StoreBusyError` when another backup has it."""
    lock = directory / LOCK_NAME
    while True:
        try:
            _refuse_foreign(directory)
            disk.make_directory(directory)
            fd = disk.open_file(lock, write=True, create=True)
        except FileNotFoundError:
            continue  # the backup that had it has ended just now
        try:
            if not disk.is_taken(disk.lock_call(fd, 0)):
                raise StoreBusyError(
                    f"another backup to {place.path} is under way in {directory}: wait for it, or choose another path"
                )
            if disk.identity(fd) == disk.path_identity(lock):
                return fd
        except BaseException:
            disk.close(fd)
            raise
        disk.close(fd)


def _refuse_foreign(directory: Path) -> None:
    """Somebody may have a directory of this name for something else: ours has the lock first and last."""
    if directory.is_dir() and not (directory / LOCK_NAME).exists() and any(directory.iterdir()):
        raise StoreExistsError(
            f"{directory} is where the backup would be made, and something else is there: move it away"
        )


def _remove(directory: Path) -> None:
    """Leave nothing, if that can be done: what fails here must not hide why we are here, and a backup that has its
    name is complete.
    """
    with contextlib.suppress(OSError):
        _clear(directory)
        disk.unlink(directory / LOCK_NAME)
        disk.remove_directory(directory)


def _clear(directory: Path) -> None:
    """Remove what a backup left, all but the lock; what is not a backup's stays."""
    for entry in directory.glob(f"{STORE_NAME}*"):
        if entry.is_dir() and not entry.is_symlink():
            disk.step(f"rmtree {entry.name}")
            shutil.rmtree(entry)
        else:
            disk.unlink(entry)


def _give_name(staging: Place, place: Place) -> None:
    """The backup takes its name: from here on it is one."""
    disk.flush_directory(staging.directory)
    _refuse_existing(place)
    try:
        if not place.is_directory:
            for left_over in (place.index, place.index_lock):  # of a store that is gone
                disk.unlink(left_over)
            disk.rename_new(staging.index, place.index)
        disk.rename_new(staging.path, place.path)
    except FileExistsError as error:
        raise StoreExistsError(
            f"{place.path} came to be while the backup was made, and it replaces nothing: choose another path"
        ) from error
    disk.flush_directory(place.path.parent)


# The index and the superblock


def _copy_index(engine: Engine, staging: Place) -> Positions:
    """The index of one moment; returns where the journal stood then."""
    fd = disk.open_file(staging.index, write=True, create=True)
    try:
        with engine.snapshot() as (transaction, positions):
            disk.step("copy index")
            engine.index.env.copyfd(fd, compact=True, txn=transaction)
    except lmdb.Error as error:
        if isinstance(error, lmdb.DiskError) or disk.free_bytes(staging.directory) < CHUNK_BYTES:
            raise StoreFullError(
                f"cannot write the backup's index: the disk of {staging.directory} is full: free space, then try again"
            ) from error
        raise StoreFailedError(f"cannot copy the index {engine.index.path}: {error}") from error
    finally:
        disk.close(fd)
    return positions


def _superblock_of(engine: Engine) -> Superblock:
    """The source's superblock: its id and era do not change while it is open."""
    fd = disk.open_file(engine.place.file, write=False)
    try:
        found = superblock.read(fd, str(engine.place.path))
    finally:
        disk.close(fd)
    assert found is not None, "an open store has a superblock"
    return found


def _seal(staging: Place, source: Superblock, positions: Positions) -> None:
    """Say in index and superblock that all of it is there, on disk, and closed."""
    environment = Index(staging.index)
    try:
        tail = positions.tail
        # The segment that the source has prepared is not copied.
        whole = positions._replace(durable=tail, published=tail, flush_failed=0, spare_size=0)
        with environment.writing() as transaction:
            index.write_positions(transaction, whole)
            disk.step("index commit")
        environment.sync()
    finally:
        environment.close()
    disk.unlink(staging.index_lock)
    fd = disk.open_file(staging.file, write=True, create=True)
    try:
        device, inode = disk.identity(fd)
        identity = disk.path_identity(staging.index)
        assert identity is not None, "the index was written above"
        sealed = source._replace(
            state=State.SEALED, boot_id=disk.boot_id(), device=device, pid_namespace=disk.pid_namespace(),
            journal_inode=inode, index_inode=identity[1], index_schema=index.SCHEMA, tail=tail,
            tail_chain=positions.chain, index_size=disk.path_size(staging.index),
        )  # fmt: skip
        for generation in (1, 2):  # in both slots: one that is damaged later costs nothing
            superblock.write(fd, sealed._replace(generation=generation))
    finally:
        disk.close(fd)


# The journal


def _copy_journal(
    engine: Engine, staging: Place, store_id: bytes, positions: Positions, progress: Progress
) -> BackupReport:
    """The segments up to the tail, flushed."""
    source = Journal(engine.place.segments(store_id), store_id)
    copy = Journal(staging.segments(store_id), store_id)
    try:
        parts = _parts(source, positions)
        total = sum(part.end for part in parts)
        copier = _Copier(source, progress, total)
        is_filled = engine.settings()["durability"] != "none"
        for part, (path, at) in zip(parts, _layout(staging, parts), strict=True):
            copier.segment(part, path, at, ends_journal=part is parts[-1], is_filled=is_filled)
        if positions.durable < positions.tail and not _is_whole(copy, positions):
            raise StoreFailedError(
                f"{engine.place.path} has appended what it could not flush, and that does not verify: close the store "
                "everywhere and open it again, which recovers it, then make the backup"
            )
    finally:
        source.close()
        copy.close()
    return BackupReport(staging.path, len(parts), total)


def _parts(source: Journal, positions: Positions) -> list[_Part]:
    """The journal's segments, oldest first. What lies behind a part's end was cut by a recovery, or came later."""
    headers = recovery.whole_path(source, positions.tail).headers
    ends = [*(following.predecessor for following in headers[1:]), positions.tail]
    return [_Part(header, segment.byte_of(end)) for header, end in zip(headers, ends, strict=True)]


def _layout(place: Place, parts: Sequence[_Part]) -> Iterator[tuple[Path, int]]:
    """For each part the file that it goes to, and the byte at which it starts there."""
    at = superblock.SIZE
    for part in parts:
        if place.is_directory:
            yield DirectorySegments(place.path, part.header.store_id).path(part.header.number), 0
        else:
            yield place.file, at
            at += part.header.size


class _Copier:
    """Copies segments, and says how far it is."""

    def __init__(self, source: Journal, progress: Progress, total: int) -> None:
        self._source = source
        self._progress = progress
        self._total = total
        self._done = 0
        progress(0, total)

    def segment(self, part: _Part, path: Path, at: int, *, ends_journal: bool, is_filled: bool) -> None:
        """One segment to `path` at byte `at`, flushed. The rest of the one that will be appended to is written zeros,
        as the store prepares it; that of another is never written again, and takes no space.
        """
        size = part.header.size
        fd = disk.open_file(path, write=True, create=True)
        try:
            self._bytes(part, fd, at)
            if not ends_journal:
                disk.truncate(fd, at + size)
            elif part.end < size:
                (disk.fill_with_zeros if is_filled else disk.reserve)(fd, at + part.end, at + size)
            disk.flush(fd)
        finally:
            disk.close(fd)

    def _bytes(self, part: _Part, target: int, at: int) -> None:
        number = part.header.number
        try:
            fd, start = self._source.segments.open(number, write=False)
        except FileNotFoundError as error:
            raise CorruptRecordError(f"segment {number} is missing: `kafkalite check` says what is left") from error
        try:
            copied = 0
            while copied < part.end:
                size = min(part.end - copied, CHUNK_BYTES)
                count = disk.copy_range(fd, start + copied, target, at + copied, size)
                if not count:
                    raise CorruptRecordError(
                        f"segment {number} ends at byte {copied}, within its {part.header.size} bytes: "
                        "`kafkalite check` says what is left"
                    )
                copied += count
                self._done += count
                self._progress(self._done, self._total)
        finally:
            disk.close(fd)


def _is_whole(copy: Journal, positions: Positions) -> bool:
    """Whether the frames from `durable` to the tail are in the copy, one after another."""
    try:
        first = next(copy.search(positions.durable), None)
        if first is None or first.position != positions.durable:
            return False
        at, goal = End(first.position, first.previous), End(positions.tail, positions.chain)
        while True:
            kind = frame.BATCH
            for found in copy.frames(*at):
                at, kind = End(found.end, found.chain), found.kind
                if at == goal:
                    return True
            if kind != frame.END:
                return False
            following = copy.header(segment.number_of(at.position) + 1)
            if (following.predecessor, following.predecessor_chain) != at:
                return False
            at = End(following.start, following.checksum)
            if at == goal:
                return True
    except CorruptRecordError:
        return False
