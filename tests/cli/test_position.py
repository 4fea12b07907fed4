"""Places as people write them."""

from datetime import UTC, datetime, timedelta

import pytest

from kafkalite.cli.position import parse, span_ms

BOUNDS = {0: (5, 20), 1: (0, 3)}


@pytest.mark.parametrize(
    ("text", "offsets"),
    [
        ("earliest", {0: 5, 1: 0}),
        ("start", {0: 5, 1: 0}),
        ("beginning", {0: 5, 1: 0}),
        ("latest", {0: 20, 1: 3}),
        ("end", {0: 20, 1: 3}),
        ("-4", {0: 16, 1: 0}),
        ("+4", {0: 9, 1: 3}),
        ("0", {0: 5, 1: 0}),
        ("7", {0: 7, 1: 3}),
        ("-0", {0: 20, 1: 3}),
    ],
)
def test_numbers_count_within_each_partition(text: str, offsets: dict[int, int]) -> None:
    assert parse(text).position(BOUNDS) == offsets


def test_offset_of_a_single_partition_is_not_mended() -> None:
    assert parse("99").position({0: (5, 20)}) == {0: 99}


FIVE = datetime(2013, 1, 1, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("@2013-01-01T05:00", FIVE),
        ("@2013-01-01 05:00:00", FIVE),
        ("@2013-01-01T05:00Z", FIVE),
        ("@2013-01-01T06:00+01:00", FIVE),
        ("@1357016400", FIVE),
        ("@1357016400000", FIVE),
        ("@2013-01-01", datetime(2013, 1, 1, tzinfo=UTC)),
        ("@20130101", datetime(2013, 1, 1, tzinfo=UTC)),
        ("@0", datetime(1970, 1, 1, tzinfo=UTC)),
        ("@-1h", timedelta(hours=1)),
        ("@-1d12h", timedelta(days=1.5)),
        ("@-250ms", timedelta(milliseconds=250)),
    ],
)
def test_times_are_utc_and_spans_are_before_now(text: str, moment: datetime | timedelta) -> None:
    assert parse(text).position(BOUNDS) == moment


@pytest.mark.parametrize(
    "text", ["", "soon", "--5", "+-5", "1.5", "٣", "99999999999999999999", "@", "@soon", "@-", "@-1y", "@-1h!", "@+1h",
             "@99999999999999999999"]
)  # fmt: skip
def test_what_is_no_place_is_told_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match="give "):
        parse(text)


def test_span_units() -> None:
    assert [span_ms(text) for text in ("1ms", "1s", "1m", "1.5h", "1d", "1w", "1m30s")] == [
        1, 1000, 60_000, 5_400_000, 86_400_000, 604_800_000, 90_000,
    ]  # fmt: skip
