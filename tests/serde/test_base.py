"""Values in error messages."""

import pytest

from kafkalite.serde.base import brief, type_name


class Rude:
    def __repr__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    "value",
    [
        Rude(),
        "x" * 10**6,
        b"x" * 10**6,
        [list(range(10**5))] * 100,
        pytest.param(10**5000, id="huge int"),
        {"k": "v" * 999},
    ],
)
def test_brief_stays_short_for_any_value(value):
    assert 0 < len(brief(value)) < 120


def test_brief_shows_small_values_whole():
    assert [brief(value) for value in (b"ab", "ab", 5, None)] == ["b'ab'", "'ab'", "5", "None"]
    assert brief(b"x" * 30) == repr(b"x" * 24) + "... (30 bytes)"


def test_type_name():
    assert [type_name(tp) for tp in (int, list[int], int | str)] == ["int", "list[int]", "int | str"]
