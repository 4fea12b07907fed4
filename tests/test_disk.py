"""What the system is asked, where its answer is not what one would think."""

import pytest

from kafkalite import disk
from kafkalite.testing import procs

BEFORE_PAGES_THAT_NOBODY_MAY_READ = """
import mmap, sys
from kafkalite import disk
maps = []
for _ in range(50):  # one below the other: behind each of the first kind lies one of the second
    maps.append((mmap.mmap(-1, 4 * mmap.PAGESIZE), mmap.mmap(-1, mmap.PAGESIZE, prot=0)))
assert [disk.find(data, b"klfr", 0) for data, _ in maps] == [-1] * 50
"""


def test_a_search_does_not_look_behind_a_map() -> None:
    """Python 3.11.2, which is Debian 12's, ends with SIGSEGV when `mmap.find` comes to the end of a map."""
    with procs.python(BEFORE_PAGES_THAT_NOBODY_MAY_READ) as child:
        child.succeed()


@pytest.mark.parametrize(("start", "found"), [(0, 2), (2, 2), (3, 10), (11, -1), (99, -1)])
def test_a_search_finds_the_next_one(start: int, found: int) -> None:
    assert disk.find(b"..klfr....klfr.", b"klfr", start) == found


def test_what_ends_with_the_last_byte_is_left_out() -> None:
    assert disk.find(b"....klfr", b"klfr", 0) == -1
    assert disk.find(b"", b"klfr", 0) == -1
