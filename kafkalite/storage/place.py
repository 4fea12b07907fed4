"""A store's place: its layout and the names of its files, from the path that a user gave.

data/superblock                    shop.klite              superblock, then segments one after another
data/000…01.segment …
data/index, data/index-lock        shop.klite-index, shop.klite-index-lock
data/run/                          shop.klite-run/
"""

import os.path
from pathlib import Path
from typing import Final, NamedTuple

from kafkalite.storage.segment import DirectorySegments, Segments, SingleFileSegments

SUPERBLOCK_NAME: Final = "superblock"


class Place(NamedTuple):
    """Where the files of a store are. `file` is the one that locks and identity rest on."""

    path: Path
    file: Path
    index: Path  # type: ignore[assignment]  # a place is no tuple to search
    run: Path
    is_directory: bool

    @property
    def directory(self) -> Path:
        """The directory that the store's files are entries of."""
        return self.file.parent

    @property
    def index_lock(self) -> Path:
        return self.index.with_name(self.index.name + "-lock")

    @property
    def new_index(self) -> Path:
        """Under this name an index is built before it takes its own."""
        return self.index.with_name(self.index.name + "-new")

    def segments(self, store_id: bytes | None) -> Segments:
        """Where the segments of that store are; of any store, when none is named."""
        return DirectorySegments(self.path, store_id) if self.is_directory else SingleFileSegments(self.file, store_id)


def resolve(target: str | os.PathLike[str]) -> Place:
    """The place that a path means: an existing directory, or a path that ends in a separator or has no suffix, is a
    directory store; any other a single file. Links are followed, so two names of a store are one place.
    """
    text = os.fspath(target)
    path = Path(os.path.realpath(text))
    # Asked in this order, so that another process which creates the store meanwhile does not change the answer.
    if path.is_dir() if path.exists() else text.endswith(os.sep) or not path.suffix:
        return Place(path, path / SUPERBLOCK_NAME, path / "index", path / "run", is_directory=True)
    return Place(
        path, path, path.with_name(path.name + "-index"), path.with_name(path.name + "-run"), is_directory=False
    )
