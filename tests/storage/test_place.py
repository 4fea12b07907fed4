"""Where a store's files are, from what a user typed."""

import os
from pathlib import Path

import pytest

from kafkalite.storage.place import resolve
from kafkalite.storage.segment import DirectorySegments, SingleFileSegments


@pytest.mark.parametrize(
    ("target", "is_directory"),
    [
        ("shop.klite", False),
        ("shop", True),
        ("shop/", True),
        ("shop.klite/", True),
        (".hidden", True),
        ("a.b.c", False),
    ],
)
def test_a_suffix_makes_a_file_and_a_separator_a_directory(tmp_path: Path, target: str, is_directory: bool) -> None:
    place = resolve(f"{tmp_path}{os.sep}{target}")
    assert place.is_directory is is_directory
    assert isinstance(place.segments(bytes(16)), DirectorySegments if is_directory else SingleFileSegments)


def test_what_exists_decides(tmp_path: Path) -> None:
    (tmp_path / "v1.2").mkdir()
    (tmp_path / "store").touch()
    assert resolve(tmp_path / "v1.2").is_directory
    assert not resolve(tmp_path / "store").is_directory


def test_the_names_of_a_single_file_store(tmp_path: Path) -> None:
    place = resolve(tmp_path / "shop.klite")
    assert (place.file, place.directory) == (tmp_path / "shop.klite", tmp_path)
    assert place.index.name == "shop.klite-index"
    assert place.index_lock.name == "shop.klite-index-lock"
    assert place.new_index.name == "shop.klite-index-new"
    assert place.run.name == "shop.klite-run"


def test_the_names_of_a_directory_store(tmp_path: Path) -> None:
    place = resolve(tmp_path / "data")
    assert (place.file, place.directory) == (tmp_path / "data" / "superblock", tmp_path / "data")
    assert {one.parent for one in (place.index, place.index_lock, place.new_index, place.run)} == {tmp_path / "data"}


def test_two_names_of_a_store_are_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "shop.klite").touch()
    (tmp_path / "current.db").symlink_to("shop.klite")
    assert resolve(tmp_path / "link") == resolve(tmp_path / "real")
    assert resolve(tmp_path / "current.db") == resolve(tmp_path / "shop.klite")
    monkeypatch.chdir(tmp_path)
    assert resolve("shop.klite") == resolve(tmp_path / "real" / ".." / "shop.klite")
