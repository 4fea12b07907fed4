"""Time, and nothing else: the one module that asks the system what time it is or sleeps.

Three clocks: `now_ms` is wall time since 1970 in UTC (record timestamps), `boot_ns` and `boot_ms` run since boot, the
same in every process of the machine (deadlines that processes share), `monotonic` is for time-outs inside a process.
Tests replace them here.
"""

import time
from typing import Final

monotonic = time.monotonic
sleep = time.sleep
wall_ns = time.time_ns
_clock_ns = time.clock_gettime_ns
_BOOT_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now_ms() -> int:
    """Milliseconds since 1970-01-01 UTC: Kafka's record timestamp."""
    return wall_ns() // 1_000_000


def boot_ns() -> int:
    """Nanoseconds since boot, suspended time included where the system counts it; comparable across processes."""
    return _clock_ns(_BOOT_CLOCK)


def boot_ms() -> int:
    """Milliseconds since boot: the clock of slots, hands, groups and locks."""
    return boot_ns() // 1_000_000


class Deadline:
    """A point in time, `seconds` from now; `None` never comes."""

    __slots__ = ("_end",)

    def __init__(self, seconds: float | None) -> None:
        self._end = None if seconds is None else monotonic() + seconds

    def left(self) -> float:
        """Seconds until it comes, never below 0."""
        return float("inf") if self._end is None else max(0.0, self._end - monotonic())

    def timeout(self) -> float | None:
        """What is left, for a call that takes seconds or None."""
        return None if self._end is None else self.left()

    def passed(self) -> bool:
        return self._end is not None and monotonic() >= self._end
