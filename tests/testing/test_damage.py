"""The verbs of damage: what each changes, that nothing else does, and that it can be undone."""

from collections.abc import Callable
from pathlib import Path

import pytest

from kafkalite.testing import damage
from kafkalite.testing.damage import Damage

BYTES = bytes(range(64)) * 4


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(BYTES)
    return path


VERBS: dict[str, tuple[Callable[[Path], Damage], bytes]] = {
    "flip": (lambda file: damage.flip(file, 3, 7), BYTES[:3] + b"\x83" + BYTES[4:]),
    "cut": (lambda file: damage.cut(file, 10), BYTES[:10]),
    "cut to nothing": (lambda file: damage.cut(file, 0), b""),
    "tear": (lambda file: damage.tear(file, 8, 20, 8), BYTES[:16] + bytes(8) + BYTES[24:]),
    "zero": (lambda file: damage.zero_block(file, 16, 8), BYTES[:16] + bytes(8) + BYTES[24:]),
    "duplicate": (lambda file: damage.duplicate_block(file, 16, 40, 8), BYTES[:40] + BYTES[16:24] + BYTES[48:]),
    "misdirect": (
        lambda file: damage.misdirect_block(file, 16, 40, 8),
        BYTES[:16] + bytes(8) + BYTES[24:40] + BYTES[16:24] + BYTES[48:],
    ),
    "overwrite": (lambda file: damage.overwrite(file, 250, b"end"), BYTES[:250] + b"end" + BYTES[253:]),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_changes_what_it_says_and_is_undone(file: Path, verb: str) -> None:
    harm, expected = VERBS[verb]
    inode = file.stat().st_ino
    with harm(file):
        assert file.read_bytes() == expected
    assert file.read_bytes() == BYTES
    assert file.stat().st_ino == inode


def test_damages_on_top_of_each_other_are_undone_in_turn(file: Path) -> None:
    with damage.zero_block(file, 0, 64), damage.cut(file, 100), damage.flip(file, 2):
        assert file.read_bytes()[:3] == b"\0\0\1"
    assert file.read_bytes() == BYTES


@pytest.mark.parametrize(
    "harm",
    [
        lambda file: damage.flip(file, 256),
        lambda file: damage.cut(file, 256),
        lambda file: damage.zero_block(file, 250, 8),
        lambda file: damage.duplicate_block(file, 0, 250, 8),
    ],
)
def test_a_place_outside_the_file_is_the_tests_own_mistake(file: Path, harm: Callable[[Path], Damage]) -> None:
    with pytest.raises(AssertionError, match=r"bytes|no byte"):
        harm(file)
    assert file.read_bytes() == BYTES
