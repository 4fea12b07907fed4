"""Repair: each kind of damage gives exactly the right report; killed at any step, nothing is lost."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import kafkalite
from kafkalite import NotAStoreError, RepairReport, StoreBusyError, StoreNotFoundError, UnsupportedError, disk
from kafkalite.errors import StoreLocationError
from kafkalite.records import native
from kafkalite.records.envelope import parse, seal
from kafkalite.storage import index, segment, superblock
from kafkalite.storage import repair as repair_module
from kafkalite.storage.commit import Append
from kafkalite.storage.salvage import Damage, Lost
from kafkalite.testing.procs import python
from tests.faults import small_store
from tests.faults.ledger import LEDGER

from .kit import LOG, Fault, Killed, abandon, batch, copied, flip, frames_of, patch, reboot, state_of, values, where

BODY = 105
"""A byte of a frame that is of its batch's payload."""
NOON = 1_357_041_600_000


def shop(path: Path) -> Path:
    """Six appends to two partitions, one commit over both, a settings change; closed cleanly."""
    with kafkalite.connect(path, durability="interval") as store:
        topic = store.topic("t", partitions=2)
        for number in range(6):
            topic.append(b"%d" % number, partition=number % 2, timestamp_ms=NOON + number)
        store._engine.append([Append(LOG, batch(b"both")), Append(LOG + 1, batch(b"both"))])
        topic.append(b"last", partition=0)
        topic.append(b"last", partition=1)
    return path


def image(path: Path) -> dict[str, bytes]:
    """The bytes of all files of a store."""
    return {file.name: file.read_bytes() for file in small_store.files_of(path) if "damaged" not in file.name}


def reported(path: Path) -> RepairReport:
    """Repair, after a dry run that says the same and changes nothing; then the store is sound."""
    before = image(path)
    dry = kafkalite.repair(path, dry_run=True)
    assert image(path) == before
    report = kafkalite.repair(path)
    same = ("outcome", "segments", "batches", "records", "bytes", "problems", "damages", "lost", "torn", "recovered")
    assert [getattr(dry, name) for name in same] == [getattr(report, name) for name in same]
    assert (dry.kept, dry.dry_run, report.dry_run) == (None, True, False)
    assert_sound(path)
    again = kafkalite.repair(path)
    assert again.ok, again
    return report


def assert_sound(path: Path) -> None:
    with kafkalite.connect(path, create=False) as store:
        assert store.check().ok, store.check()


def batch_at(path: Path, log_id: int, offset: int) -> int:
    """The position of the frame whose batch begins at an offset of a log."""
    (found,) = [one for one in frames_of(path, log_id) if parse(one.batch).base_offset == offset]
    return found.position


def zero(path: Path, start: int, end: int) -> None:
    patch(path, start, bytes(end - start))


def read(path: Path, name: str = "t") -> list[bytes | None]:
    with kafkalite.connect(path, create=False) as store:
        return values(store, name)


# Nothing, or only the index


def test_a_sound_store_is_left_as_it_is(path: Path) -> None:
    shop(path)
    before = image(path)
    report = kafkalite.repair(path)
    assert (report.ok, report.outcome, report.kept) == (True, "healthy", None)
    assert "sound" in str(report)
    assert image(path) == before
    assert_sound(path)


def test_a_missing_index_is_built_anew(path: Path, tmp_path: Path) -> None:
    path = copied(shop(path), tmp_path / "there", "copy")
    report = reported(path)
    assert (report.outcome, report.problems, report.kept) == ("index", ["the index is missing"], None)


def test_an_index_whose_pages_are_damaged_is_built_anew(path: Path) -> None:
    shop(path)
    file = repair_module.resolve(path).index
    for at in (0, 16, 4096, 9000, 20_000):
        data = bytearray(file.read_bytes())
        data[at : at + 3000] = os.urandom(len(data[at : at + 3000]))
        file.write_bytes(data)
        report = kafkalite.repair(path)
        assert report.outcome == "index"
        assert_sound(path)


def test_an_index_that_ends_who_reads_it_is_built_anew(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop(path)
    monkeypatch.setattr("kafkalite.storage.check.sys.executable", shutil.which("false"))
    report = kafkalite.repair(path)
    assert report.problems == ["the index cannot be read: who tries ends with status 1"]
    monkeypatch.undo()
    assert_sound(path)


def test_an_index_with_a_wrong_row_is_built_anew(path: Path) -> None:
    shop(path)
    store = kafkalite.connect(path)
    with store._engine.index.writing() as transaction:
        transaction.put(index.topic_key("ghost"), b"\x80")
    abandon(store)  # the machine runs on: the index is trusted
    report = kafkalite.repair(path)
    assert report.outcome == "index"
    assert report.problems == [f"index, topics: the row {index.topic_key('ghost').hex()} is not in the journal"]
    assert_sound(path)


def test_a_torn_tail_is_cut_as_at_an_opening(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = kafkalite.connect(shop(path))
    store.topic("t").append(b"torn", partition=0)
    abandon(store)
    reboot(monkeypatch)
    patch(path, batch_at(path, LOG, 5) + 60, b"torn")
    report = reported(path)
    assert (report.outcome, report.lost, report.kept) == ("index", [], None)
    assert read(path) == [b"0", b"2", b"4", b"both", b"last", b"1", b"3", b"5", b"both", b"last"]


# One damage


def test_a_flipped_bit_costs_its_batch(path: Path) -> None:
    at = batch_at(shop(path), LOG + 1, 1)
    size = next(one.end - one.position for one in frames_of(path) if one.position == at)
    flip(path, at + BODY)
    report = reported(path)
    assert report.outcome == "journal"
    assert report.lost == [Lost(LOG + 1, 1, 1, "t", 1)]
    assert report.damages == [Damage(1, segment.byte_of(at), size, "no valid frame")]
    assert (report.damaged_bytes, report.torn, report.recovered, report.is_exact) == (size, [], [], True)
    assert "lost: topic 't', partition 1: offsets 1 to 1" in str(report)
    with kafkalite.connect(path, create=False) as store:
        records = list(store.topic("t").read(1))
        assert [(one.offset, one.value) for one in records] == [(0, b"1"), (2, b"5"), (3, b"both"), (4, b"last")]
        assert [one.offset for one in store.topic("t").read(1, start=1)] == [2, 3, 4]
        assert store.settings["durability"] == "interval"
        checked = store.check()
        assert checked.lost == [Lost(LOG + 1, 1, 1, "t", 1)]
        assert "lost, and given up by a repair: topic 't', partition 1: offsets 1 to 1" in str(checked)
        assert store.topic("t").append(b"new", partition=1).offset == 5
    assert report.kept == path.with_name(f"{path.name}.damaged-1")
    assert report.kept.exists()


def test_damage_in_a_partition_that_was_added_is_named_and_the_topic_keeps_all_of_them(path: Path) -> None:
    with kafkalite.connect(shop(path)) as store:
        store.topic("between")
        topic = store.topic("t")
        topic.alter(partitions=4)
        for number in range(4):
            topic.append(b"%d" % number, partition=3)
        assert topic._state.log_id(3) == LOG + 4
    flip(path, batch_at(path, LOG + 4, 1) + BODY)
    report = reported(path)
    assert report.lost == [Lost(LOG + 4, 1, 1, "t", 3)]
    assert "lost: topic 't', partition 3: offsets 1 to 1" in str(report)
    with kafkalite.connect(path, create=False) as store:
        topic = store.topic("t")
        assert topic.partition_count == 4
        assert [(one.offset, one.value) for one in topic.read(3)] == [(0, b"0"), (2, b"2"), (3, b"3")]
        topic.alter(partitions=5)
        assert topic.append(b"new", partition=4).offset == 0


def test_the_original_is_kept_with_its_index_and_can_still_be_read(path: Path) -> None:
    flip(path, batch_at(shop(path), LOG, 0) + BODY)
    files = image(path)
    report = kafkalite.repair(path)
    assert report.kept is not None
    kept = {
        file.name.replace(report.kept.name, path.name): file.read_bytes() for file in small_store.files_of(report.kept)
    }
    assert kept == files
    with kafkalite.connect(report.kept, create=False) as store:
        assert store.topic("t").read(1).__next__().value == b"1"
        with pytest.raises(kafkalite.CorruptRecordError):
            list(store.topic("t").read(0))
    assert_sound(path)


def test_what_is_left_of_a_torn_commit_is_kept_and_named(path: Path) -> None:
    flip(path, batch_at(shop(path), LOG, 3) + BODY)
    report = reported(path)
    assert report.lost == [Lost(LOG, 3, 3, "t", 0)]
    (torn,) = report.torn
    assert (torn.kept, torn.is_certain) == ((Lost(LOG + 1, 3, 3, "t", 1),), True)
    assert "torn: the commit that ends in segment 1" in str(report)


def test_a_commit_whose_last_frame_is_damaged_is_torn_too(path: Path) -> None:
    flip(path, batch_at(shop(path), LOG + 1, 3) + BODY)
    report = reported(path)
    assert [one.kept for one in report.torn] == [(Lost(LOG, 3, 3, "t", 0),)]


def test_offsets_at_the_end_of_a_log_are_known_from_the_damaged_header(path: Path) -> None:
    flip(path, batch_at(shop(path), LOG, 4) + BODY)
    report = reported(path)
    assert (report.lost, report.is_exact) == ([Lost(LOG, 4, 4, "t", 0)], True)
    with kafkalite.connect(path, create=False) as store:
        assert store.topic("t").append(b"new", partition=0).offset == 5
        assert store.check().ok


def test_a_damage_without_trace_is_said_not_to_be_exact(path: Path) -> None:
    at = batch_at(shop(path), LOG + 1, 4)
    zero(path, at, at + BODY)
    report = reported(path)
    assert (report.lost, report.is_exact) == ([], False)
    assert "may be lost unseen" in str(report)


@pytest.mark.parametrize("both", [True, False])
def test_a_lost_catalogue_gives_names_to_logs(path: Path, both: bool) -> None:
    facts = frames_of(shop(path), 0)
    for one in facts if both else facts[-1:]:
        flip(path, one.position + BODY)
    report = reported(path)
    assert report.recovered == ["recovered-log-16", "recovered-log-17"]
    assert report.lost == [Lost(0, 0 if both else 1, 2, None, None)]
    assert "it is 'recovered-log-16' now" in str(report)
    assert "deleted topics may be back" in str(report)
    with kafkalite.connect(path, create=False) as store:
        assert store.topics() == ["recovered-log-16", "recovered-log-17"]
        assert values(store, "recovered-log-17") == [b"1", b"3", b"5", b"both", b"last"]
        assert store.settings["durability"] == ("commit" if both else "interval")
        assert store.topic("new")._state.log_ids[0] == 18
        assert store.check().ok


def test_a_deleted_topic_does_not_come_back(path: Path) -> None:
    with kafkalite.connect(path) as store:
        for name in ("gone", "t"):
            store.topic(name).append(b"1")
            store.topic(name).append(b"2")
        store.delete_topic("gone")
    flip(path, batch_at(path, LOG + 1, 0) + BODY)
    report = reported(path)
    assert (report.lost, report.recovered) == ([Lost(LOG + 1, 0, 0, "t", 0)], [])
    with kafkalite.connect(path, create=False) as store:
        assert store.topics() == ["t"]
        assert any("deleted topics" in line for line in kafkalite.check(path).notes)


# Superblock, headers, segments


def test_without_superblock_the_segments_tell_whose_they_are(path: Path) -> None:
    before = read(shop(path))
    store_id = state_of(path).store_id
    file = repair_module.resolve(path).file
    with file.open("r+b") as stream:
        stream.write(os.urandom(superblock.SIZE))
    report = reported(path)
    assert (report.outcome, report.lost, report.is_exact) == ("journal", [], False)
    assert read(path) == before
    assert state_of(path).store_id == store_id


def test_a_missing_superblock_file(tmp_path: Path) -> None:
    path = shop(tmp_path / "store")
    before = read(path)
    (path / "superblock").unlink()
    assert reported(path).problems == ["superblock is missing"]
    assert read(path) == before


def test_one_damaged_slot_is_written_anew(path: Path) -> None:
    shop(path)
    flip_file(repair_module.resolve(path).file, 4096 * ((state_of(path).generation + 1) % 2) + 100)
    report = reported(path)
    assert report.outcome == "index"
    assert "of the superblock is damaged; the other one counts" in report.problems[-1]


def flip_file(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


def test_a_damaged_segment_header_costs_nothing(path: Path) -> None:
    small_store.make(path)
    truth = small_store.derive(path)
    for number in (1, 2):
        flip(path, segment.position_of(number, 40))
    report = reported(path)
    assert (report.lost, report.recovered) == ([], [])
    assert [damage.what for damage in report.damages] == ["the segment's header is damaged"] * 2
    assert small_store.derive(path) == truth


def test_headers_of_a_repaired_store_are_found_by_the_frames_when_all_else_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "s.klite"
    small_store.make(path)
    flip(path, frames_of(path)[-1].position + BODY)
    kafkalite.repair(path)
    truth = small_store.derive(path)
    (first, *_) = {one.position >> 32 for one in frames_of(path)}
    assert first > 2
    flip(path, segment.position_of(first, 40))
    with path.open("r+b") as stream:
        stream.write(bytes(superblock.SIZE))
    report = reported(path)
    assert small_store.derive(path) == truth
    assert report.damages[0].segment == first


def test_a_missing_segment(tmp_path: Path) -> None:
    path = tmp_path / "s"
    truth = small_store.make(path).answer
    (path / f"{2:020d}.segment").unlink()
    report = reported(path)
    assert report.damages == [Damage(2, 0, 0, "the segment is missing")]
    assert report.is_exact is False
    left = small_store.derive(path)
    assert left == {log_id: [row for row in rows if row in left[log_id]] for log_id, rows in truth.items()}
    assert len(left[16]) == len(truth[16])


def test_a_truncated_segment(path: Path) -> None:
    small_store.make(path)
    last = max(one.position for one in frames_of(path))
    file, at = where(path, last)
    os.truncate(file, at + 50)
    report = reported(path)
    assert report.damages[-1].what.startswith("the segment ends at byte")
    assert report.damages[-1].byte == segment.byte_of(last)


def test_a_segment_under_anothers_name_is_as_one_that_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "s"
    small_store.make(path)
    shutil.copy(path / f"{1:020d}.segment", path / f"{2:020d}.segment")
    report = reported(path)
    assert report.segments == 2
    assert any(damage.segment == 2 for damage in report.damages)


def test_what_an_earlier_recovery_cut_does_not_come_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = kafkalite.connect(path, durability="none")
    topic = store.topic("t")
    for number in range(4):
        topic.append(b"old %d" % number)
    abandon(store)
    flip(path, batch_at(path, LOG, 1) + BODY)  # nobody witnesses it: a torn end, and old 2 and 3 are cut with it
    reboot(monkeypatch)
    with kafkalite.connect(path) as store:
        store.topic("t").append_many([b"new 1", b"new 2"])
        store.topic("t").append(b"new 3")
    header = max(one.number for one in repair_module.Salvage(repair_module.resolve(path)).known.values() if one.header)
    flip(path, segment.position_of(header, 70))  # and now nothing says where that was
    report = reported(path)
    assert read(path) == [b"old 0", b"new 1", b"new 2", b"new 3"]
    assert report.lost == []


def test_a_batch_that_was_written_unreadable_is_given_up(path: Path) -> None:
    store = kafkalite.connect(shop(path))
    store._engine.append([Append(LOG, seal(b"\xc1", count=1, base_timestamp=1, max_timestamp=1))])
    store._engine.append([Append(LOG, native.encode(["text"], base_timestamp=1))])  # type: ignore[list-item]
    store.topic("t").append(b"after", partition=0)
    store.close()
    report = reported(path)
    assert report.lost == [Lost(LOG, 5, 6, "t", 0)]
    assert "no msgpack array" in report.damages[0].what
    assert read(path)[:6] == [b"0", b"2", b"4", b"both", b"last", b"after"]


def test_damage_to_a_repaired_store_adds_to_what_was_lost(path: Path) -> None:
    flip(path, batch_at(shop(path), LOG, 1) + BODY)
    kafkalite.repair(path)
    flip(path, batch_at(path, LOG, 2) + BODY)
    report = kafkalite.repair(path)
    assert report.lost == [Lost(LOG, 2, 2, "t", 0)]
    assert report.kept == path.with_name(f"{path.name}.damaged-2")
    with kafkalite.connect(path, create=False) as store:
        assert store.check().lost == [Lost(LOG, 1, 1, "t", 0), Lost(LOG, 2, 2, "t", 0)]


def test_positions_and_eras_of_the_repaired_store_are_new(path: Path) -> None:
    flip(path, batch_at(shop(path), LOG, 1) + BODY)
    before = frames_of(path)[-1].position
    kafkalite.repair(path)
    assert min(one.position for one in frames_of(path)) > before
    assert state_of(path).era > 0
    assert_sound(path)


def test_a_store_of_many_segments_is_rebuilt_in_many(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with kafkalite.connect(path, durability="none") as store:
        topic = store.topic("t")
        for number in range(40):
            topic.append(os.urandom(60_000), timestamp_ms=NOON + number)
        expected = values(store)
    flip(path, batch_at(path, LOG, 20) + 1000)
    report = reported(path)
    assert report.segments > 2
    assert read(path) == expected[:20] + expected[21:]


# Refusals


def test_a_store_in_use_is_refused_and_the_process_named(path: Path) -> None:
    shop(path)
    code = """
import sys, kafkalite
with kafkalite.connect(sys.argv[1]) as store:
    store.topic("t").append(b"x", partition=0)
    print("open", flush=True)
    input()
"""
    with python(code, path) as child:
        child.wait_for("open")
        for dry_run in (True, False):
            with pytest.raises(StoreBusyError, match=rf"is open; last at work in it: process {child.pid} "):
                kafkalite.repair(path, dry_run=dry_run)
    assert_sound(path)


def test_this_process_is_refused_too(path: Path) -> None:
    with kafkalite.connect(shop(path)) as store:
        store.topic("t").append(b"x", partition=0)
        with pytest.raises(StoreBusyError, match="this process: close it there"):
            kafkalite.repair(path)
        assert store.check().ok


@pytest.mark.parametrize("content", [b"", b"a text\n" * 3000])
def test_what_is_no_store_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "notes.txt"
    with pytest.raises(StoreNotFoundError):
        kafkalite.repair(file)
    file.write_bytes(content)
    (tmp_path / "folder").mkdir()
    for path in (file, tmp_path / "folder"):
        with pytest.raises(NotAStoreError):
            kafkalite.repair(path)
    assert file.read_bytes() == content


def test_a_hard_link_is_refused(tmp_path: Path) -> None:
    path = shop(tmp_path / "s.klite")
    (tmp_path / "other.klite").hardlink_to(path)
    with pytest.raises(StoreLocationError, match="hard links"):
        kafkalite.repair(path)
    (tmp_path / "other.klite").unlink()
    assert_sound(path)


def test_where_names_cannot_be_exchanged_the_store_stays_as_it_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flip(path, batch_at(shop(path), LOG, 1) + BODY)
    before = image(path)

    def refuse(one: Path, other: Path) -> None:
        raise UnsupportedError("this file system cannot")

    monkeypatch.setattr(disk, "exchange", refuse)
    with pytest.raises(UnsupportedError):
        kafkalite.repair(path)
    assert image(path) == before
    assert [file.name for file in path.parent.iterdir() if "repairing" in file.name or "damaged" in file.name] == []


# Killed, and failing


def damaged_shop(path: Path) -> None:
    flip(path, batch_at(shop(path), LOG, 1) + BODY)


@pytest.mark.parametrize(
    ("name", "error"), [("s.klite", Killed), ("s", Killed), ("s.klite", lambda: OSError(5, "the disk is broken"))]
)
def test_at_every_step_the_original_or_the_repaired_store_is_there(
    tmp_path: Path, name: str, error: Callable[[], BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    for flush in ("fdatasync", "fsync"):  # a killed process loses nothing of what it wrote, flushed or not
        monkeypatch.setattr(os, flush, lambda _: None)
    path = tmp_path / name
    damaged_shop(path)
    journal = {file.name: file.read_bytes() for file in small_store.journal_files(path)}
    step, done = 0, False
    while not done:
        step += 1
        place = tmp_path / f"step {step}"
        place.mkdir()
        victim = place / path.name
        (shutil.copytree if path.is_dir() else shutil.copy)(path, victim)
        fault = Fault(step, error)
        try:
            with fault:
                kafkalite.repair(victim)
            done = True
        except (Killed, OSError, kafkalite.KafkaliteError):
            LEDGER.fault("repair", f"{path.name} {step}", str(error))
        if done:
            break
        here = {file.name: file.read_bytes() for file in small_store.journal_files(victim)}
        beside = victim.with_name(f"{victim.name}.damaged-1")
        if here != journal:  # exchanged
            kept = {file.name: file.read_bytes() for file in small_store.journal_files(beside)}
            assert list(kept.values()) == list(journal.values())
        kafkalite.repair(victim)
        assert read(victim) == [b"0", b"4", b"both", b"last", b"1", b"3", b"5", b"both", b"last"]
        assert_sound(victim)
        assert not list(place.glob("*.repairing*"))
        shutil.rmtree(place)
    assert step > 15
