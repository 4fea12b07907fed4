"""Opening and closing a store: who is here, whether the index may be trusted, and what to do when not.

Decided by the superblock and the locks, before LMDB is touched, under RECOVER:

    others have it open                       join them; nothing is rebuilt under them
    alone, sealed, everything matches         trusted
    alone, open, of this boot, inodes match   a process crash: trusted, what lies past its tail was never answered
    alone, anything else                      rebuild from the journal
    nothing there                             create: the superblock is written last

The last to close flushes, syncs the index and seals the superblock. The state goes back to open, durably, before the
next write to the index.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import lmdb

from kafkalite import clock, disk
from kafkalite.clock import Deadline
from kafkalite.config import MIB
from kafkalite.errors import (
    CorruptRecordError,
    NotAStoreError,
    StoreFailedError,
    StoreLocationError,
    StoreNotFoundError,
    StorePermissionError,
)
from kafkalite.records.checksum import hash64
from kafkalite.storage import catalogue, frame, index, recovery, segment, superblock
from kafkalite.storage.index import Index
from kafkalite.storage.journal import Journal
from kafkalite.storage.locks import Locks
from kafkalite.storage.page import EMPTY, LONG_AGO, Flushed, SharedPage, left_behind
from kafkalite.storage.place import SUPERBLOCK_NAME, Place
from kafkalite.storage.recovery import End
from kafkalite.storage.segment import Header
from kafkalite.storage.superblock import State, Superblock

NO_BOOT_ID: Final = bytes(16)
OPEN_TIMEOUT: Final = 60.0
MOST_DIGESTED: Final = 64 * MIB
"""An index up to this size is compared with the seal's digest: about 20 ms; some 800,000 batches."""


class Opened(NamedTuple):
    """An open store's resources. `superblock` is what stood there when it was opened, or was written then."""

    fd: int
    locks: Locks
    environment: Index
    journal: Journal
    page: SharedPage
    run: Path | None
    superblock: Superblock
    is_read_only: bool


def open_store(
    place: Place, *, create: bool, read_only: bool, settings: Mapping[str, Any] = MappingProxyType({})
) -> Opened:
    """Open, join, recover or create the store at a place; a new one has the settings given."""
    _check_location(place)
    while True:
        fd = _open_file(place, create=create and not read_only, read_only=read_only)
        try:
            if read_only and not disk.may_write(place.file):
                return _open_unwritable(place, fd)
            locks = Locks(fd)
            with locks.recover.held(Deadline(OPEN_TIMEOUT)):
                if disk.identity(fd) == disk.path_identity(place.file):
                    return _open_locked(place, fd, locks, settings if create and not read_only else None)
        except BaseException:
            disk.close(fd)
            raise
        disk.close(fd)  # the path names another file by now: begin again with that one


def _check_location(place: Place) -> None:
    existing = place.path
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    kind = disk.file_system_type(existing)
    if kind in disk.NETWORK_FILE_SYSTEMS:
        raise StoreLocationError(
            f"{place.path} is on a network file system ({kind}), whose locks and maps cannot be relied on: "
            "use a local disk"
        )


def _open_file(place: Place, *, create: bool, read_only: bool) -> int:
    if place.is_directory and place.path.is_dir() and not place.file.exists():
        others = sorted(entry.name for entry in place.path.iterdir())
        if others and SUPERBLOCK_NAME not in others:  # there by now: another process begins the store
            raise NotAStoreError(
                f"{place.path} is a directory with {others[0]!r} in it and no store of kafkalite: choose an "
                "absent or empty path"
            )
    if place.file.exists():
        _check_is_store_file(place)
    elif not create:
        raise StoreNotFoundError(f"there is no store at {place.path}: check the path, or open it with create=True")
    else:
        new = [one for one in (place.directory, *place.directory.parents) if not one.exists()]
        disk.make_directory(place.directory)
        for one in new[1:]:  # `_create` sees to the first
            disk.flush_directory(one.parent)
    writable = not read_only or disk.may_write(place.file)
    fd = disk.open_file(place.file, write=writable, create=create and writable)
    links = disk.link_count(fd)
    if links > 1:
        disk.close(fd)
        raise StoreLocationError(f"{place.file} has {links} hard links: remove the others, or copy the store")
    return fd


def _check_is_store_file(place: Place) -> None:
    if not place.file.is_file():
        raise NotAStoreError(f"{place.file} is not a regular file: choose an absent or empty path")
    if not place.is_directory and place.file.name == SUPERBLOCK_NAME:
        raise NotAStoreError(f"{place.file} is a part of the store {place.directory}: open that")


def _open_locked(place: Place, fd: int, locks: Locks, settings: Mapping[str, Any] | None) -> Opened:
    """Under RECOVER: decide, and come back with a share of OPEN. Without `settings` nothing is created."""
    found = superblock.read(fd, str(place.path))
    if not locks.open.try_alone():
        return _join(place, fd, locks, found)
    try:
        if found is None:
            if settings is None:
                raise StoreNotFoundError(f"the store at {place.path} was never finished: open it with create=True")
            found = _create(place, fd, settings)
        is_known = is_trusted(place, fd, found)
        page = _new_page(place, goes_on=is_known and found.state is not State.SEALED)
        locks.attach(page)
        opened = _reopen(place, fd, found if is_known else _rebuild(place, found))
        environment = Index(place.index)
        environment.env.reader_check()
        now = environment.positions()
        page.begin_flushed(Flushed(now.durable, now.flushes, now.flush_us))
        page.lock_file[0] = _inode(place.index_lock)
        environment.attach(page)
    except BaseException:
        locks.open.release()
        raise
    locks.open.share()
    return Opened(
        fd,
        locks,
        environment,
        Journal(place.segments(opened.store_id), opened.store_id),
        page,
        place.run,
        opened,
        is_read_only=False,
    )


def _join(place: Place, fd: int, locks: Locks, found: Superblock | None) -> Opened:
    locks.open.share()
    try:
        if found is None:
            raise StoreFailedError(
                f"{place.path} is being created by a process that cannot finish: end it and try again"
            )
        if found.pid_namespace != disk.pid_namespace():
            raise StoreLocationError(
                f"{place.path} is open in another PID namespace (a container?): open it from one namespace at a time"
            )
        identity = disk.path_identity(place.index)
        if identity is None or identity[1] != found.index_inode:
            raise _replaced(place.index)
        if found.state is State.FAILED:
            raise StoreFailedError(f"{place.path} failed: close it everywhere, then open it again, which rebuilds it")
        page = SharedPage(place.run)
        locks.attach(page)
        environment = Index(place.index)
        environment.env.reader_check()
        environment.attach(page)
        if page.lock_file[0] != _inode(place.index_lock):  # LMDB's writers and readers would not see each other
            environment.close()
            raise _replaced(place.index_lock)
    except BaseException:
        locks.open.release()
        raise
    return Opened(
        fd,
        locks,
        environment,
        Journal(place.segments(found.store_id), found.store_id),
        page,
        place.run,
        found,
        is_read_only=False,
    )


def _replaced(path: Path) -> StoreFailedError:
    return StoreFailedError(
        f"{path}, a part of the index, was removed or replaced while the store is open: close the store everywhere, "
        "then open it again, which mends that"
    )


def _inode(path: Path) -> int:
    identity = disk.path_identity(path)
    return identity[1] if identity else 0


def _new_page(place: Place, *, goes_on: bool) -> SharedPage:
    """A page in an empty `run/`; where the machine `goes_on` it says what those have left who were killed."""
    left = left_behind(place.run) if goes_on else b""
    disk.remove_files(place.run)
    disk.make_directory(place.run, 0o700)
    page = SharedPage(place.run, left or EMPTY)
    if goes_on and not left:
        page.set_flush_due(LONG_AGO)  # the last flush may have failed unheard
    return page


def _here(place: Place, fd: int, found: Superblock, **changes: Any) -> Superblock:
    """The superblock as this opener writes it next: open, of this boot and place, one generation on."""
    device, inode = disk.identity(fd)
    fields: dict[str, Any] = {
        "state": State.OPEN,
        "generation": found.generation + 1,
        "boot_id": disk.boot_id(),
        "device": device,
        "pid_namespace": disk.pid_namespace(),
        "journal_inode": inode,
        "index_inode": _inode(place.index),
        "index_schema": index.SCHEMA,
        "index_size": disk.path_size(place.index),
        "tail": 0,
        "tail_chain": 0,
        "index_digest": 0,
    }
    return found._replace(**fields | changes)


def _create(place: Place, fd: int, settings: Mapping[str, Any]) -> Superblock:
    """A new store, or one whose creation was not finished, begun again; the superblock follows in `_reopen`."""
    _check_holds_nothing(place, fd)
    _remove_index(place)
    store_id = disk.random_bytes(16)
    segments = place.segments(store_id)
    if place.is_directory:
        for extent in segments.extents():
            segments.remove(extent.number)
        disk.flush_directory(place.directory)  # a segment without the superblock beside it would be nobody's
    else:
        disk.truncate(fd, 0)
        disk.write(fd, [bytes(superblock.SIZE)], 0, superblock.SIZE)
    header = Header(store_id, 1, segment.FIRST_SIZE, 0, clock.now_ms(), 0, 0)
    segments.prepare(1, header.size, zeros=settings.get("durability") != "none")
    journal = Journal(segments, store_id)
    try:
        journal.begin_segment(header)
        end = _write_settings(journal, header, settings)
        journal.flush(header.start, end.position)
        recovery.derive_first(journal, place.index, header, end)
    finally:
        journal.close()
    disk.flush_directory(place.directory)
    disk.flush_directory(place.directory.parent)
    empty = Superblock(State.SEALED, 0, store_id, NO_BOOT_ID, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0)
    return _here(place, fd, empty, state=State.SEALED, tail=end.position, tail_chain=end.chain)


def _check_holds_nothing(place: Place, fd: int) -> None:
    """Refuse to begin anew what was a store: a creation that was not finished leaves one segment, and in it at most
    the settings; a single file has its whole length before a byte of it is other than zero.
    """
    begin = disk.read(fd, superblock.SIZE, 0)
    if not place.is_directory and len(begin) < superblock.SIZE and begin.strip(b"\0"):
        raise CorruptRecordError(
            f"{place.file} begins as a store and ends within its superblock, at byte {len(begin)}: restore a backup"
        )
    if not place.is_directory:
        _check_is_ours(place, fd)
    for header in [extent.header for extent in place.segments(None).extents() if extent.header]:
        journal = Journal(place.segments(header.store_id), header.store_id)
        try:
            if header.number > 1 or len(list(islice(journal.search(header.start), 2))) > 1:
                raise CorruptRecordError(
                    f"the superblock of {place.path} is empty, and segment {header.number} holds records: restore "
                    f"{place.file}, or a backup; nothing was changed"
                )
        finally:
            journal.close()


def _check_is_ours(place: Place, fd: int) -> None:
    """Refuse a file that begins with zeros, as images of disks do, and was never to be a store."""
    size = disk.file_size(fd)
    rest = disk.read(fd, segment.FIRST_SIZE, superblock.SIZE)
    if size > superblock.SIZE + segment.FIRST_SIZE or (rest.strip(b"\0") and not rest.startswith(segment.MAGIC)):
        raise NotAStoreError(
            f"{place.file} begins with zeros, and is no store whose creation was cut short: choose an absent or empty "
            "path"
        )


def _write_settings(journal: Journal, header: Header, settings: Mapping[str, Any]) -> End:
    """The settings that a store is created with are the first record of log 0."""
    if not settings:
        return End(header.start, header.checksum)
    batch = catalogue.batch_of([(("store",), dict(settings))])
    head, chain = frame.encode_batch(
        batch, catalogue.CATALOGUE_LOG, 0, 0, frame.COMMIT, header.start, header.checksum, header.start
    )
    size = frame.padded_size(batch.size)
    journal.write(header.start, [head, batch.payload, bytes(size - len(head) - len(batch.payload))], size)
    return End(header.start + size, chain)


def _remove_index(place: Place) -> None:
    """Away with an index that is not trusted, unopened, and with its lock file."""
    for path in (
        place.index,
        place.index_lock,
        place.new_index,
        place.new_index.with_name(place.new_index.name + "-lock"),
    ):
        disk.unlink(path)


def _reopen(place: Place, fd: int, found: Superblock) -> Superblock:
    """Alone, with an index that is trusted: mark the store open. Returns the superblock written."""
    opened = _here(place, fd, found)
    superblock.write(fd, opened)
    if found.state is State.SEALED:  # the other slot's seal, were this slot damaged, would cut off all that comes now
        opened = opened._replace(generation=opened.generation + 1)
        superblock.write(fd, opened)
    return opened


def is_trusted(place: Place, fd: int, found: Superblock) -> bool:
    device, inode = disk.identity(fd)
    identity = disk.path_identity(place.index)
    if identity is None or found.index_schema != index.SCHEMA or found.state is State.FAILED:
        return False
    if disk.path_size(place.index) < found.index_size:
        return False
    if (found.device, found.journal_inode, found.index_inode) != (device, inode, identity[1]):
        return False
    if found.state is not State.SEALED and not found.boot_id == disk.boot_id() != NO_BOOT_ID:
        return False
    if found.index_digest not in (0, _digest(place.index)):
        return False
    end = _end_in_index(place)
    return end is not None and (found.state is not State.SEALED or end == (found.tail, found.tail_chain))


def _digest(path: Path) -> int:
    """XXH3 of an index, which has no checksums of its own; 0 when it is too large to be read at every opening."""
    if not 0 < disk.path_size(path) <= MOST_DIGESTED:
        return 0
    fd = disk.open_file(path, write=False)
    try:
        return hash64(disk.read(fd, MOST_DIGESTED, 0))
    finally:
        disk.close(fd)


def _end_in_index(place: Place) -> tuple[int, int] | None:
    """Tail and chain as the index has them; None when it is no index, or shorter than the pages that it counts."""
    try:
        environment = Index(place.index, read_only=True)
    except StoreFailedError:  # not an LMDB file
        return None
    try:
        pages = environment.env.info()["last_pgno"] + 1
        if disk.path_size(place.index) < pages * environment.env.stat()["psize"]:
            return None  # touching what was cut off would end the process
        with environment.snapshot() as transaction:
            row = index.get(transaction, index.POSITIONS)
    except lmdb.Error:
        return None
    finally:
        environment.env.close()  # without a look at the pages, as `Index.close` has it
    if row is None or len(row) != index.POSITIONS_ROW.size:
        return None
    tail, chain, *_ = index.POSITIONS_ROW.unpack(row)
    return tail, chain


def _rebuild(place: Place, found: Superblock) -> Superblock:
    _remove_index(place)
    journal = Journal(place.segments(found.store_id), found.store_id)
    try:
        sealed_at = End(found.tail, found.tail_chain) if found.state is State.SEALED else None
        recovered = recovery.rebuild(
            journal, place.new_index, era=found.era, era_segment=found.era_segment, sealed_at=sealed_at
        )
    except BaseException:
        disk.unlink(place.new_index)
        raise
    finally:
        journal.close()
        disk.unlink(place.new_index.with_name(place.new_index.name + "-lock"))
    disk.rename(place.new_index, place.index)
    disk.flush_directory(place.directory)
    return found._replace(era=recovered.positions.era, era_segment=recovered.era_segment)


def _open_unwritable(place: Place, fd: int) -> Opened:
    """Files that may only be read: a sealed store, without locks; a change is noticed by its superblock."""
    found = superblock.read(fd, str(place.path))
    if found is None or found.state is not State.SEALED or not is_trusted(place, fd, found):
        raise StorePermissionError(
            f"{place.file} may only be read, and the store was not closed cleanly or was copied: opening it "
            "needs to write. "
            "Grant the permission, or copy it to where you may write"
        )
    return Opened(
        fd,
        Locks(fd),
        Index(place.index, read_only=True),
        Journal(place.segments(found.store_id), found.store_id),
        SharedPage(None),
        None,
        found,
        is_read_only=True,
    )


def let_go(opened: Opened) -> None:
    """Let go of what was opened and never used."""
    opened.environment.close()
    opened.journal.close()
    opened.page.close()
    opened.locks.open.release()
    disk.close(opened.fd)


def close_store(
    place: Place, opened: Opened, flush: Callable[[], None], quiet: Callable[[], AbstractContextManager[object]]
) -> None:
    """Let go of everything; the last one flushes and seals the store, unless that flush fails.

    `quiet` gives a block in which no thread of this process appends, flushes or prepares a segment.
    """
    locks = opened.locks
    is_sealed = False
    try:
        if opened.is_read_only:
            opened.environment.close()
            return
        with locks.recover.held(Deadline(OPEN_TIMEOUT)):
            is_last = locks.open.try_alone()
            try:
                if is_last:
                    flush()
            finally:
                with quiet():
                    try:
                        is_sealed = is_last and _seal(place, opened)
                    finally:
                        locks.close()
                        opened.environment.close()
                        opened.journal.close()
                        locks.open.release()
                if is_sealed:
                    disk.unlink(place.index_lock)
    finally:
        opened.page.close()
        opened.journal.close()
        disk.close(opened.fd)


def _seal(place: Place, opened: Opened) -> bool:
    """The last one out: make the index durable, then say so. False when the store has to be recovered."""
    with opened.environment.snapshot() as transaction:
        positions = index.read_positions(transaction)
    now = superblock.read(opened.fd, str(place.path))
    assert now is not None, "an open store has a superblock"
    if positions.durable < positions.tail or now.state is not State.OPEN:
        return False  # its last flush failed, and was reported; or the index could not be told of it
    opened.environment.sync()
    superblock.write(
        opened.fd,
        now._replace(
            state=State.SEALED,
            generation=now.generation + 1,
            tail=positions.tail,
            tail_chain=positions.chain,
            index_size=disk.path_size(place.index),
            index_digest=_digest(place.index),
        ),
    )
    disk.remove_files(place.run)
    return True


def mark_failed(place: Place, fd: int) -> None:
    """Record durably that a failed flush is beyond mending: whoever opens the store alone rebuilds it."""
    now = superblock.read(fd, str(place.path))
    assert now is not None, "an open store has a superblock"
    superblock.write(fd, now._replace(state=State.FAILED, generation=now.generation + 1))
