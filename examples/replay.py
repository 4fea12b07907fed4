"""Replay: read the past again, from an offset, from a time, or from a while ago.

    python examples/replay.py

Reading removes nothing. Any reader may start anywhere, as often as it likes; nobody else notices.
"""

import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import kafkalite


@dataclass
class Temperature:
    """One measurement."""

    celsius: float


def main() -> None:
    """Write two days of measurements, one an hour, and read parts of them again."""
    noon = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    hours = [noon - timedelta(hours=ago) for ago in range(47, -1, -1)]
    with (
        tempfile.TemporaryDirectory() as directory,
        kafkalite.connect(Path(directory) / "measurements.klite") as store,
    ):
        measurements = store.topic("temperature", value=Temperature)
        measurements.append_many(
            [Temperature(20.0 + hour.hour / 10) for hour in hours],
            timestamps_ms=[round(hour.timestamp() * 1000) for hour in hours],
        )

        everything = list(measurements.read())
        print("everything:", len(everything))

        from_offset = list(measurements.read(0, start=40))  # an offset is one partition's
        print("from offset 40:", len(from_offset))

        from_time = list(measurements.read(start=hours[24]))  # a datetime with its time zone
        print("from a time:", len(from_time), "starting at offset", from_time[0].offset)

        between = list(measurements.read(start=hours[10], until=hours[20]))  # until is exclusive
        print("between two times:", len(between))

        lately = list(measurements.read(start=timedelta(hours=6)))  # before now
        print("the last six hours:", len(lately))

        print("the last three:", [record.value.celsius for record in measurements.tail(3)])


if __name__ == "__main__":
    main()
