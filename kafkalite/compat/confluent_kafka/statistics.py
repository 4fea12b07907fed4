"""The statistics that `stats_cb` is given every `statistics.interval.ms`: librdkafka's top-level fields, as JSON.

What counts requests, bytes on wires and brokers is 0 in process and stays so; the fields are there so that code which
looks for them finds them.
"""

import json
import time
from collections.abc import Callable
from typing import Any, Final

from kafkalite.compat.confluent_kafka.properties import Config

FIELDS: Final = (
    *("replyq", "msg_cnt", "msg_size", "msg_max", "msg_size_max", "simple_cnt", "metadata_cache_cnt"),
    *("tx", "tx_bytes", "rx", "rx_bytes", "txmsgs", "txmsg_bytes", "rxmsgs", "rxmsg_bytes"),
)
MICROSECONDS: Final = 1_000_000


class Statistics:
    """A client's statistics: emitted from its `poll`, never earlier than the interval says."""

    def __init__(self, config: Config, kind: str) -> None:
        self._interval = config["statistics.interval.ms"] / 1000
        self._tell = config.callback("stats_cb") if self._interval else None
        self._client_id = config["client.id"]
        self._kind = kind
        self._began = time.monotonic()
        self._due = self._began + self._interval

    def seconds_left(self) -> float:
        """Until the next are due; for ever if nobody wants them."""
        return float("inf") if self._tell is None else max(0.001, self._due - time.monotonic())

    def emit_if_due(self, counters: Callable[[], dict[str, Any]]) -> None:
        """Call `stats_cb` if it is time; `counters` adds what the client knows."""
        if self._tell is None or time.monotonic() < self._due:
            return
        self._due = time.monotonic() + self._interval
        self._tell(json.dumps(self._described() | counters()))

    def _described(self) -> dict[str, Any]:
        now = time.monotonic()
        return {
            "name": f"{self._client_id}#{self._kind}-1",
            "client_id": self._client_id,
            "type": self._kind,
            "ts": int(now * MICROSECONDS),
            "time": int(time.time()),
            "age": int((now - self._began) * MICROSECONDS),
            **dict.fromkeys(FIELDS, 0),
            "brokers": {},
            "topics": {},
        }
