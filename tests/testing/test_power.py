"""The disk that can lose its power: what a cut keeps of writes, sizes and names, change by change."""

import os
import random
from pathlib import Path

import pytest

import kafkalite
from kafkalite import disk
from kafkalite.testing.power import (
    KEPT,
    LOST,
    PAGE,
    SECTOR,
    WITHOUT_BYTES,
    WITHOUT_NAMES,
    WITHOUT_SIZES,
    Change,
    Disk,
    Fate,
    Image,
    Machine,
    mixed,
    scratch,
    torn,
)

FILE = 7


def a_disk(*changes: Change, data: bytes = b"") -> Disk:
    """A disk with a file of these bytes, safe, and then these changes."""
    found = Disk(Image([], {"file": (FILE, data)}))
    for change in changes:
        found.apply(change)
    return found


def write(position: int, data: bytes) -> Change:
    return Change("write", FILE, position, len(data), data)


def content(found: Disk, fate: Fate) -> bytes:
    return found.cut(fate).files["file"][1]


def outcomes(found: Disk, count: int = 300) -> set[bytes]:
    return {content(found, torn(seed)) for seed in range(count)}


def test_what_was_flushed_survives_every_fate() -> None:
    found = a_disk(write(0, b"a" * 5000), Change("flush", FILE))
    assert outcomes(found) == {b"a" * 5000}
    assert {content(found, fate) for fate in (LOST, KEPT, WITHOUT_NAMES, WITHOUT_BYTES, WITHOUT_SIZES)} == {b"a" * 5000}


def test_a_flush_covers_what_was_written_before_it_began() -> None:
    """Not what others wrote while it lasted."""
    found = a_disk(write(0, b"1"), write(1, b"2"), Change("flush", FILE, size=1), data=b"..")
    assert content(found, LOST) == b"1."
    assert content(found, KEPT) == b"12"
    found.apply(Change("flush", FILE))
    assert content(found, LOST) == b"12"


def test_what_was_not_flushed_is_lost_or_kept() -> None:
    found = a_disk(write(0, b"new"), data=b"old")
    assert content(found, LOST) == b"old"
    assert content(found, KEPT) == b"new"


def test_a_write_is_torn_between_sectors_never_within() -> None:
    found = a_disk(write(0, b"n" * 3 * SECTOR), data=b"o" * 3 * SECTOR)
    left = {content(found, Fate("torn", 0.5, seed=seed)) for seed in range(100)}
    old, new = b"o" * SECTOR, b"n" * SECTOR
    assert left == {a + b + c for a in (old, new) for b in (old, new) for c in (old, new)}


def test_sectors_of_four_kilobytes_are_whole() -> None:
    found = a_disk(write(100, b"n" * PAGE), data=b"o" * 2 * PAGE)
    left = {content(found, Fate("torn", 0.5, unit=PAGE, seed=seed)) for seed in range(50)}
    both = b"o" * 100 + b"n" * PAGE + b"o" * (PAGE - 100)
    assert left == {b"o" * 2 * PAGE, both[:PAGE] + b"o" * PAGE, b"o" * PAGE + both[PAGE:], both}


def test_writes_are_reordered() -> None:
    """The later one alone may be there."""
    found = a_disk(write(0, b"1" * SECTOR), write(SECTOR, b"2" * SECTOR), data=bytes(2 * SECTOR))
    assert bytes(SECTOR) + b"2" * SECTOR in outcomes(found)
    assert b"1" * SECTOR + bytes(SECTOR) in outcomes(found)


def test_two_writes_to_one_sector_are_one_or_the_first() -> None:
    """The disk gets the sector as the page cache has it: the second never without the first."""
    found = a_disk(write(0, b"1"), write(1, b"2"), data=b"..")
    assert outcomes(found) == {b"..", b"1.", b"12"}


def test_a_file_that_grew_may_have_any_size_between() -> None:
    found = a_disk(write(0, b"x" * 5 * SECTOR), data=b"x" * 10)
    sizes = {len(one) for one in outcomes(found)}
    assert sizes >= {10, 5 * SECTOR}
    assert len(sizes) > 3
    assert content(found, WITHOUT_SIZES) == b"x" * 10
    assert content(found, WITHOUT_BYTES) == b"x" * 10 + bytes(5 * SECTOR - 10)


def test_zeros_over_what_was_flushed_may_be_lost_like_any_write() -> None:
    found = a_disk(Change("zeros", FILE, 0, 2 * SECTOR), data=b"o" * 2 * SECTOR)
    assert content(found, LOST) == b"o" * 2 * SECTOR
    assert content(found, KEPT) == bytes(2 * SECTOR)
    assert b"o" * SECTOR + bytes(SECTOR) in outcomes(found)


def test_reserved_space_reads_as_zeros_and_leaves_what_is_there() -> None:
    found = a_disk(Change("reserve", FILE, 0, 20), data=b"o" * 10)
    assert content(found, KEPT) == b"o" * 10 + bytes(10)


def test_what_was_cut_off_may_come_back() -> None:
    found = a_disk(Change("truncate", FILE, size=0), write(0, b"n"), data=b"old")
    assert outcomes(found) >= {b"old", b"n", b""}
    assert content(found, KEPT) == b"n"


def test_a_name_needs_a_flush_of_its_directory() -> None:
    """A flush of the file is not enough."""
    found = Disk()
    for change in (Change("create", FILE, name="file"), write(0, b"data"), Change("flush", FILE)):
        found.apply(change)
    assert found.cut(LOST).files == {}
    assert found.cut(WITHOUT_NAMES).files == {}
    found.apply(Change("flush directory", name=""))
    assert found.cut(LOST).files == {"file": (FILE, b"data")}


def test_a_name_may_be_there_without_its_data() -> None:
    found = Disk()
    for change in (Change("create", FILE, name="file"), write(0, b"data"), Change("flush directory", name="")):
        found.apply(change)
    assert found.cut(LOST).files == {"file": (FILE, b"")}


def test_a_renaming_is_whole_or_not_at_all() -> None:
    found = a_disk(Change("rename", FILE, name="file", target="other"))
    assert list(found.cut(LOST).files) == ["file"]
    assert list(found.cut(KEPT).files) == ["other"]
    assert {tuple(found.cut(torn(seed)).files) for seed in range(50)} == {("file",), ("other",)}


def test_a_removed_file_comes_back_with_its_bytes_until_the_directory_is_flushed() -> None:
    found = a_disk(Change("unlink", name="file"), data=b"data")
    assert found.cut(LOST).files == {"file": (FILE, b"data")}
    assert found.cut(KEPT).files == {}
    found.apply(Change("flush directory", name=""))
    assert found.cut(LOST).files == {}


def test_what_lies_in_a_lost_directory_is_lost() -> None:
    """Flushed or not: each directory above has to hold its name."""
    found = Disk()
    for change in (
        Change("mkdir", name="a"),
        Change("mkdir", name="a/b"),
        Change("create", FILE, name="a/b/file"),
        Change("flush directory", name="a/b"),
        Change("flush directory", name="a"),
    ):
        found.apply(change)
    assert found.cut(LOST) == Image([], {})
    found.apply(Change("flush directory", name=""))
    assert found.cut(LOST) == Image(["a", "a/b"], {"a/b/file": (FILE, b"")})


def test_a_lying_disk_keeps_nothing_of_what_it_says_it_has() -> None:
    found = Disk(Image([], {"file": (FILE, b"old")}), lies=lambda change: change.kind == "flush")
    found.apply(write(0, b"new"))
    found.apply(Change("flush", FILE))
    assert content(found, LOST) == b"old"


def test_a_fate_is_told_by_its_seed() -> None:
    found = a_disk(write(0, os.urandom(50_000)), data=bytes(50_000))
    assert len({content(found, torn(seed)) for seed in range(20)}) > 10
    assert [content(found, torn(seed)) for seed in range(5)] == [content(found, torn(seed)) for seed in range(5)]


def test_equal_images_and_only_those_have_one_digest() -> None:
    images = [
        Image([], {}), Image(["a"], {}), Image([], {"a": (1, b"")}), Image([], {"a": (1, b"x")}),
        Image([], {"a": (2, b"x")}), Image([], {"b": (1, b"x")}), Image([], {"a": (1, b""), "b": (1, b"x")}),
    ]  # fmt: skip
    assert len({image.digest() for image in images}) == len(images)
    assert Image([], {"a": (1, b"x")}).digest() == images[3].digest()


def test_a_mixed_index_has_whole_pages_of_several_moments() -> None:
    moments = [bytes([n]) * PAGE * 8 for n in range(3)]
    found = mixed(moments, random.Random(1))
    pages = [found[at : at + PAGE] for at in range(0, len(found), PAGE)]
    assert {page[0] for page in pages} == {0, 1, 2}
    assert all(len(set(page)) == 1 for page in pages)
    assert len(mixed([b"", b"short", moments[0]], random.Random(2))) == len(moments[0])


# The machine


def test_every_change_is_recorded_in_order(tmp_path: Path) -> None:
    with Machine(tmp_path) as machine:
        disk.make_directory(tmp_path / "a" / "b")
        fd = disk.open_file(tmp_path / "a" / "file", write=True, create=True)
        disk.write(fd, [b"ab", b"c"], 5, 3)
        disk.fill_with_zeros(fd, 8, 10)
        disk.reserve(fd, 10, 20)
        disk.truncate(fd, 9)
        disk.flush(fd)
        disk.close(fd)
        disk.rename(tmp_path / "a" / "file", tmp_path / "a" / "other")
        disk.flush_directory(tmp_path / "a")
        disk.unlink(tmp_path / "a" / "other")
        disk.unlink(tmp_path / "a" / "never")
    inode = machine.changes[2].inode
    assert machine.changes == [
        Change("mkdir", name="a"),
        Change("mkdir", name="a/b"),
        Change("create", inode, name="a/file"),
        Change("write", inode, 5, 3, b"abc"),
        Change("zeros", inode, 8, 2),
        Change("reserve", inode, 10, 10),
        Change("truncate", inode, size=9),
        Change("flush", inode),
        Change("rename", inode, name="a/file", target="a/other"),
        Change("flush directory", name="a"),
        Change("unlink", name="a/other"),
    ]


def test_what_is_written_during_a_flush_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    monkeypatch.setattr(disk, "flush", lambda fd: disk.write(fd, [b"late"], 0, 4))
    with Machine(tmp_path, Image([], {"file": (FILE, b"")})) as machine:
        os.close(fd)
        fd = os.open(tmp_path / "file", os.O_RDWR)
        disk.flush(fd)
        os.close(fd)
    assert machine.changes == [Change("write", FILE, 0, 4, b"late"), Change("flush", FILE, size=1)]


def test_what_fails_is_not_recorded(tmp_path: Path) -> None:
    with Machine(tmp_path) as machine:
        with pytest.raises(OSError):
            disk.rename(tmp_path / "absent", tmp_path / "there")
        fd = disk.open_file(tmp_path / "file", write=True, create=True)
        disk.close(fd)
        with pytest.raises(OSError):
            disk.flush(fd)
    assert [change.kind for change in machine.changes] == ["create"]


def test_what_lies_elsewhere_or_is_derived_is_not_recorded(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with Machine(root) as machine:
        for path in (tmp_path / "elsewhere", root / "s.klite-index-new", root / "index", root / "index-lock"):
            disk.close(disk.open_file(path, write=True, create=True))
        disk.make_directory(root / "run")
        disk.make_directory(root / "s.klite-run")
        disk.close(disk.open_file(root / "run" / "page", write=True, create=True))
    assert machine.changes == []


def test_the_functions_of_the_disk_come_back(tmp_path: Path) -> None:
    before = dict(vars(disk))
    with pytest.raises(OSError), Machine(tmp_path):
        disk.flush_directory(tmp_path / "absent")
    with Machine(tmp_path):
        assert disk.flush != before["flush"]
    assert dict(vars(disk)) == before


@pytest.mark.parametrize("name", ["s", "s.klite"])
def test_the_changes_of_a_store_are_all_there_is_on_its_disk(tmp_path: Path, name: str) -> None:
    with Machine(tmp_path, index=tmp_path / ("s/index" if name == "s" else "s.klite-index")) as machine:
        with kafkalite.connect(tmp_path / name) as store:
            store.topic("t").append(b"value")
            assert store.check().ok
        found = Disk()
        for change in machine.changes:
            found.apply(change)
        assert found.cut(KEPT) == machine.image()
        assert found.cut(LOST) == machine.image()
    assert len(machine.indexes) == len(machine.changes)
    assert machine.indexes[0] is None
    assert machine.indexes[-1]


def test_an_image_comes_back_as_it_was_under_another_boot(tmp_path: Path) -> None:
    root, place = tmp_path / "root", tmp_path / "place"
    root.mkdir()
    place.mkdir()
    (place / "left over").write_bytes(b"x")
    with Machine(root) as machine:
        store = kafkalite.connect(root / "s")
        store.topic("t").append(b"value")
        image, boot = machine.image(), disk.boot_id()
        identity = disk.path_identity(root / "s" / "superblock")
        store.close()
    with Machine(place, image, boot=1) as again:
        assert again.image() == image
        assert disk.path_identity(place / "s" / "superblock") == identity
        assert disk.boot_id() != boot
        with kafkalite.connect(place / "s", create=False) as store:
            assert [record.value for record in store.topic("t").read()] == [b"value"]
            assert store.check().ok
    assert not (place / "left over").exists()


def test_a_new_file_has_another_identity_than_one_that_was_removed(tmp_path: Path) -> None:
    """The disk still knows the removed one: its removal may be lost."""
    with Machine(tmp_path) as machine:
        for _ in range(2):
            fd = disk.open_file(tmp_path / "file", write=True, create=True)
            disk.write(fd, [b"x"], 0, 1)
            disk.close(fd)
            disk.unlink(tmp_path / "file")
    first, second = (change.inode for change in machine.changes if change.kind == "create")
    assert first != second


def test_an_index_always_has_the_same_identity(tmp_path: Path) -> None:
    """The worst case: a freed inode that is given out again at once."""
    with Machine(tmp_path):
        assert disk.path_identity(tmp_path / "index") is None
        (tmp_path / "index").write_bytes(b"x")
        (tmp_path / "s.klite-index").write_bytes(b"x")
        assert disk.path_identity(tmp_path / "index") == disk.path_identity(tmp_path / "s.klite-index")
        assert disk.path_identity(tmp_path / "index") is not None


def test_scratch_is_removed() -> None:
    with scratch() as path:
        (path / "file").write_bytes(b"x")
    assert not path.exists()
