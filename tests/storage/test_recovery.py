"""Recovery: eras, cuts, damage. What was acknowledged comes back, or an error says that it cannot."""

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import kafkalite
from kafkalite import disk
from kafkalite.errors import CorruptRecordError, KafkaliteError, SequenceError
from kafkalite.storage import frame, segment
from kafkalite.storage.commit import Append, Operation
from kafkalite.storage.frame import Frame
from kafkalite.storage.place import resolve

from .kit import (
    LOG,
    Fault,
    Killed,
    abandon,
    abandon_at,
    append,
    batch,
    copied,
    extents_of,
    flip,
    frames_of,
    patch,
    reboot,
    sized,
    state_of,
    values,
    where,
)

NAMES = [b"%d" % number for number in range(8)]


def crashed(path: Path, durability: str = "commit", names: list[bytes] = NAMES) -> Path:
    """A store whose machine went down after these appends; it is opened as by the next boot."""
    store = kafkalite.connect(path, durability=durability, flush_interval_ms=3_600_000)  # type: ignore[arg-type]
    for name in names:
        store.topic("t").append(name)
    abandon(store)
    return path


def recovered(path: Path) -> list[bytes | None]:
    """What a store holds when it is opened; that it is sound, and goes on."""
    with kafkalite.connect(path, create=False) as store:
        found = values(store)
        assert store.check().ok
        assert store.topic("t").append(b"after").offset == len(found)
        assert values(store) == [*found, b"after"]
    with kafkalite.connect(path, create=False) as store:
        assert values(store) == [*found, b"after"]
        assert store.check().ok
    return found


def user_frames(path: Path) -> list[Frame]:
    return frames_of(path, LOG)


def size_of(path: Path) -> int:
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.iterdir()) if file.is_file())


@pytest.fixture(autouse=True)
def _new_boot(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A copy is never of this boot's inodes; the path itself is told apart by `reboot`."""
    yield
    monkeypatch.undo()


# Eras


def test_every_recovery_begins_an_era_and_keeps_everything(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected: list[bytes] = []
    for era in range(5):
        with_era = []
        store = kafkalite.connect(path)
        topic = store.topic("t")
        assert values(store) == expected
        assert state_of(path).era == era
        for number in range(3):
            name = b"%d-%d" % (era, number)
            assert topic.append(name).offset == len(expected)
            expected.append(name)
            with_era.append(name)
        assert store.check().ok
        assert list(topic.batches())[-1].leader_epoch == era
        abandon(store)
        reboot(monkeypatch)
    with kafkalite.connect(path) as store:
        assert [batch.leader_epoch for batch in store.topic("t").batches()] == [
            0,
            0,
            0,
            1,
            1,
            1,
            2,
            2,
            2,
            3,
            3,
            3,
            4,
            4,
            4,
        ]


def test_recoveries_without_an_append_between_them(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crashed(path)
    for era in range(1, 5):
        reboot(monkeypatch)
        store = kafkalite.connect(path)
        assert values(store) == NAMES
        assert state_of(path).era == era
        abandon(store)
    reboot(monkeypatch)
    assert recovered(path) == NAMES


def test_everything_of_the_catalogue_survives(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = kafkalite.connect(path, durability="interval", segment_bytes=1 << 20)
    store.topic("gone", partitions=3).append(b"x")
    store.topic("t", partitions=4, retention_ms=5).append(b"y", partition=3)
    store.delete_topic("gone")
    store.topic("t").alter(retention_ms=6)
    abandon(store)
    reboot(monkeypatch)
    with kafkalite.connect(path) as store:
        assert store.topics() == ["t"]
        assert store.topic("t").settings["retention_ms"] == 6
        assert store.topic("t").partition_count == 4
        assert (store.settings["durability"], store.settings["segment_bytes"]) == ("interval", 1 << 20)
        assert store._engine.create_topic("new", 1, {}).log_ids[0] == LOG + 7
        assert values(store) == [b"y"]
        assert store.check().ok


def test_partitions_that_were_added_survive(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = kafkalite.connect(path)
    topic = store.topic("t", partitions=2)
    store.topic("u").append(b"between")
    topic.alter(partitions=4)
    topic.append_many([b"0", b"3"], partition=3)
    topic.alter(partitions=5, retention_ms=6)
    topic.append(b"4", partition=4)
    abandon(store)
    reboot(monkeypatch)
    with kafkalite.connect(path) as store:
        state = store.topic("t")._state
        assert [state.log_id(number) - LOG for number in range(5)] == [0, 1, 3, 4, 5]
        assert state.settings["retention_ms"] == 6
        assert (values(store), values(store, "u")) == ([b"0", b"3", b"4"], [b"between"])
        store.topic("t").alter(partitions=6)
        assert store._engine.create_topic("new", 1, {}).log_ids[0] == LOG + 7
        assert store.check().ok


def test_sequences_survive(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = kafkalite.connect(path)
    store.topic("t")
    for number in range(7):
        store._engine.commit(append(b"x", producer_id=7, producer_epoch=1, base_sequence=number))
    abandon(store)
    reboot(monkeypatch)
    with kafkalite.connect(path) as store:
        engine = store._engine
        assert engine.commit(append(b"x", producer_id=7, producer_epoch=1, base_sequence=6)).offsets == [6]
        with pytest.raises(SequenceError):
            engine.commit(append(b"x", producer_id=7, producer_epoch=1, base_sequence=9))
        assert engine.commit(append(b"x", producer_id=7, producer_epoch=1, base_sequence=7)).offsets == [7]
        assert store.check().ok


def test_a_store_of_many_segments(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = kafkalite.connect(path, segment_bytes=512 * 1024)
    topic = store.topic("t")
    for number in range(30):
        topic.append(b"%d" % number * 100_000 if number < 10 else b"%d" % number * 50_000)
    expected = values(store)
    assert len(store._engine.journal.segments.extents()) > 5
    abandon(store)
    reboot(monkeypatch)
    assert recovered(path) == expected


# Recovery interrupted (F11)


@pytest.mark.parametrize("durability", ["commit", "none"])
def test_a_recovery_interrupted_at_every_step_is_repeated_with_the_same_result(
    path: Path, tmp_path: Path, durability: str
) -> None:
    crashed(path, durability)
    steps = 0
    for at in range(1, 100):
        place = copied(path, tmp_path, f"copy{at}")
        try:
            with Fault(at, Killed):
                store = kafkalite.connect(place)
        except Killed:
            abandon_at(place)
        else:
            abandon(store)
            break
        steps += 1
        assert recovered(place) == NAMES
    assert steps > 5


def test_a_recovery_interrupted_again_and_again_gets_there(path: Path, tmp_path: Path) -> None:
    crashed(path)
    place = copied(path, tmp_path, "copy")
    for at in range(1, 100):
        try:
            with Fault(at, Killed):
                store = kafkalite.connect(place)
        except Killed:
            abandon_at(place)
        else:
            abandon(store)
            break
    assert recovered(place) == NAMES


def test_a_recovery_on_a_full_disk_changes_nothing(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = copied(crashed(path), tmp_path, "copy")

    def full(fd: int, start: int, end: int) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as broken:
        broken.setattr(disk, "fill_with_zeros", full)
        with pytest.raises(kafkalite.StoreFullError):
            kafkalite.connect(place)
    assert recovered(place) == NAMES


# Torn tails


def test_a_last_frame_torn_at_every_eighth_byte_is_cut(path: Path, tmp_path: Path) -> None:
    crashed(path, names=[b"a" * 50, b"b" * 50])
    last = user_frames(path)[-1]
    length = frame.HEADER_SIZE + last.length
    for number, kept in enumerate([*range(0, length, 8), length - 1]):
        place = copied(path, tmp_path, f"copy{number}")
        patch(place, last.position + kept, bytes(length - kept))
        assert recovered(place) == [b"a" * 50], kept


def test_a_torn_tail_of_a_store_that_flushes_at_close_is_cut_where_it_is_torn(path: Path, tmp_path: Path) -> None:
    crashed(path, "none")
    for number, found in enumerate(user_frames(path)):
        place = copied(path, tmp_path, f"copy{number}")
        flip(place, found.position + frame.HEADER_SIZE + 3)
        assert recovered(place) == NAMES[:number]


def test_a_commit_over_several_logs_is_there_whole_or_not_at_all(path: Path, tmp_path: Path) -> None:
    store = kafkalite.connect(path)
    store.topic("t").append(b"before")
    store.topic("u", partitions=3)
    store._engine.commit(Operation([Append(LOG + number, batch(b"x")) for number in range(4)]))
    frames = [found for found in frames_of(path) if found.log_id >= LOG and found.length][-4:]
    abandon(store)
    for number, found in enumerate(frames):
        place = copied(path, tmp_path, f"copy{number}")
        flip(place, found.position + 60)
        with kafkalite.connect(place) as again:
            assert values(again) == [b"before"]
            assert values(again, "u") == []
            assert again.check().ok
    with kafkalite.connect(copied(path, tmp_path, "whole")) as again:
        assert values(again) == [b"before", b"x"]
        assert values(again, "u") == [b"x"] * 3
        assert again.check().ok


def test_what_lies_beyond_a_cut_is_never_entered_again(path: Path, tmp_path: Path) -> None:
    """Frames behind the cut verify, and follow: only the next segment's header says that they do not count."""
    crashed(path, "none")
    place = copied(path, tmp_path, "copy")
    third = user_frames(place)[3]
    file, at = where(place, third.position + 60)
    good = file.read_bytes()[at : at + 1]
    patch(place, third.position + 60, bytes([good[0] ^ 1]))
    for era in range(1, 4):
        store = kafkalite.connect(place)
        assert values(store)[:3] == NAMES[:3]
        assert store.topic("t").append(b"new").offset == 2 + era
        assert state_of(place).era == era
        assert store.check().ok
        abandon(store)
        patch(place, third.position + 60, good)
        place = copied(place, tmp_path, f"copy{era}")
    assert recovered(place) == [*NAMES[:3], b"new", b"new", b"new"]


def test_a_group_that_was_never_committed_is_there_whole_or_not_at_all(path: Path, tmp_path: Path) -> None:
    store = kafkalite.connect(path)
    store.topic("t").append(b"before")
    with pytest.raises(Killed), Fault(2, Killed):
        store._engine.commit(Operation([Append(LOG, batch(b"orphan")), Append(LOG, batch(b"orphan"))]))
    assert store._engine.index.positions().tail < user_frames(path)[-1].end
    place = copied(path, tmp_path, "copy")
    abandon(store)
    assert recovered(place) in ([b"before"], [b"before", b"orphan", b"orphan"])
    assert recovered(path) == [b"before"]


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_a_roll_killed_at_every_step(path: Path, tmp_path: Path, at: int) -> None:
    store = kafkalite.connect(path)
    engine = store._engine
    engine._prepare_is_due = True
    large = b"x" * 400_000
    store.topic("t").append(large)
    engine._prepare_now()
    with pytest.raises(Killed), Fault(at, Killed):
        engine.commit(Operation([Append(LOG, sized(300_000))]))
    place = copied(path, tmp_path, "copy")
    abandon(store)
    assert recovered(place)[0] == large
    assert recovered(path) == [large]


# Damage


def test_a_flipped_bit_in_what_was_acknowledged_is_an_error_and_nothing_is_discarded(
    path: Path, tmp_path: Path
) -> None:
    crashed(path)
    frames = user_frames(path)
    random_ = random.Random(5)
    for number, found in enumerate(frames[:-1]):
        for where_ in (random_.randrange(4), random_.randrange(4, 40), random_.randrange(40, 40 + found.length)):
            place = copied(path, tmp_path, f"copy{number}-{where_}")
            flip(place, found.position + where_, random_.randrange(8))
            before = {extent.number: extent.size for extent in extents_of(place)}
            with pytest.raises(CorruptRecordError, match="acknowledged"):
                kafkalite.connect(place)
            assert {extent.number: extent.size for extent in extents_of(place)} == before
            assert not resolve(place).index.exists()
            flip(place, found.position + where_, 0)


def test_any_flipped_bit_gives_an_error_or_a_prefix(path: Path, tmp_path: Path) -> None:
    """From the segment's header to the tail; a closed store never gives less than all of it."""
    crashed(path)
    last = user_frames(path)[-1]
    random_ = random.Random(7)
    for number in range(40):
        place = copied(path, tmp_path, f"copy{number}")
        flip(place, segment.position_of(1, random_.randrange(segment.byte_of(last.end))), random_.randrange(8))
        try:
            found = recovered(place)
        except KafkaliteError:
            continue
        assert found in (NAMES, NAMES[:-1])


def test_any_flipped_bit_of_a_closed_store_is_noticed(path: Path, tmp_path: Path) -> None:
    crashed(path)
    kafkalite.connect(path).close()
    last = user_frames(path)[-1]
    random_ = random.Random(8)
    for number in range(20):
        place = copied(path, tmp_path, f"copy{number}")
        at = random_.randrange(96, segment.byte_of(last.position) + 40 + last.length)
        flip(place, segment.position_of(1, at), random_.randrange(8))
        try:
            with kafkalite.connect(place) as store:
                assert values(store) == NAMES  # a byte of padding
                assert store.check().ok
        except CorruptRecordError:
            continue


def test_damage_to_what_a_recovery_accepted_is_an_error(path: Path, tmp_path: Path) -> None:
    """The header of the era's segment is written when what lies before it is durable: it witnesses all of that."""
    store = kafkalite.connect(path)
    store.topic("t", partitions=2)
    store._engine.commit(Operation([Append(LOG, batch(b"x")), Append(LOG + 1, batch(b"y"))]))
    abandon(store)
    place = copied(path, tmp_path, "first")
    store = kafkalite.connect(place)
    assert values(store) == [b"x", b"y"]
    abandon(store)
    again = copied(place, tmp_path, "second")
    flip(again, frames_of(again, LOG)[0].position + 60)
    with pytest.raises(CorruptRecordError):
        kafkalite.connect(again).close()


@pytest.mark.parametrize("durability", ["commit", "none"])
def test_every_truncation_gives_an_error_or_a_prefix(path: Path, tmp_path: Path, durability: str) -> None:
    crashed(path, durability)
    file = path if path.is_file() else path / f"{1:020d}.segment"
    size = file.stat().st_size
    tail = user_frames(path)[-1].end
    start = where(path, segment.position_of(1, 0))[1]
    lengths = {0, 1, 95, 96, 97, 4095, 4096, 4097, 8191, 8192, 8193, 8288, size - 1, size - 4096}
    lengths |= {start + segment.byte_of(tail) + shift for shift in (-1, 0, 1)}
    lengths |= {start + segment.byte_of(found.position) for found in user_frames(path)}
    for length in sorted(lengths):
        place = copied(path, tmp_path, f"copy{length}")
        os.truncate(place if place.is_file() else place / file.name, length)
        try:
            with kafkalite.connect(place) as store:
                if length:
                    found = values(store)
                    assert found == NAMES[: len(found)]
                assert store.check().ok
        except KafkaliteError:
            continue


def test_a_segment_cut_short_is_an_error_not_a_shorter_store(path: Path, tmp_path: Path) -> None:
    place = copied(crashed(path), tmp_path, "copy")
    file = place if place.is_file() else place / f"{1:020d}.segment"
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(CorruptRecordError, match="segment 1"):
        kafkalite.connect(place)


def rolled(path: Path) -> tuple[Path, list[bytes | None]]:
    """A crashed store of at least four segments."""
    store = kafkalite.connect(path, segment_bytes=512 * 1024)
    for number in range(8):
        store.topic("t").append(b"%d" % number * 200_000)
    expected = values(store)
    abandon(store)
    return path, expected


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_segment_that_is_missing_from_the_middle_is_an_error(path: Path, tmp_path: Path, number: int) -> None:
    place = copied(rolled(path)[0], tmp_path, "copy")
    patch(place, segment.position_of(number, 0), bytes(segment.HEADER_SIZE))
    with pytest.raises(CorruptRecordError):
        kafkalite.connect(place)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_damaged_end_of_a_segment_in_the_middle_is_an_error(path: Path, tmp_path: Path, number: int) -> None:
    place = copied(rolled(path)[0], tmp_path, "copy")
    ends = [found for found in frames_of(place) if found.kind == frame.END]
    flip(place, ends[number - 1].position + 20)
    with pytest.raises(CorruptRecordError):
        kafkalite.connect(place)


def test_a_segment_of_another_store_is_neither_taken_in_nor_removed(tmp_path: Path) -> None:
    place = copied(crashed(tmp_path / "one"), tmp_path, "copy")
    other, _ = rolled(tmp_path / "other")
    stranger = place / f"{2:020d}.segment"
    shutil.copy(other / stranger.name, stranger)
    with pytest.raises(CorruptRecordError):
        kafkalite.connect(place)
    stranger.unlink()
    assert recovered(place) == NAMES


def test_an_error_leaves_the_store_as_it_was(path: Path, tmp_path: Path) -> None:
    place = copied(crashed(path), tmp_path, "copy")
    flip(place, user_frames(path)[2].position + 60)
    before = size_of(place), state_of(place), [found.position for found in frames_of(place)]
    for _ in range(2):
        with pytest.raises(CorruptRecordError):
            kafkalite.connect(place)
    assert (size_of(place), state_of(place), [found.position for found in frames_of(place)]) == before
    flip(place, user_frames(path)[2].position + 60)
    assert recovered(place) == NAMES
