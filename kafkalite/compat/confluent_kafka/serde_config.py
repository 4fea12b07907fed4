"""What SerializingProducer and DeserializingConsumer take out of their configuration: serdes, or builders of them."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from kafkalite.log import log


class Serdes:
    """The key's and the value's serde of a client, and which of them it made itself."""

    def __init__(self, conf: dict[str, Any], kind: str) -> None:
        """Take `key.<kind>`, `value.<kind>` or their `.builder`s out of a configuration; `rest` is what is left.

        Raises `ValueError` where both are given, or a builder gives back something else than it should.
        """
        rest = dict(conf)
        names = [f"key.{kind}", f"value.{kind}"]
        given = [(name, rest.pop(name, None), rest.pop(f"{name}.builder", None)) for name in names]
        for name, serde, builder in given:
            if serde is not None and builder is not None:
                raise ValueError(f"Cannot configure both {name} and {name}.builder; use one or the other")
        self.owned: list[Any] = []
        serdes, left = [], []
        for name, serde, builder in given:
            if builder is None:
                serdes.append(serde)
                continue
            built, remaining = self._built(name, builder, rest)
            serdes.append(built)
            self.owned.append(built)
            left.append(remaining)
        self.key, self.value = serdes
        self.rest = {
            name: value for name, value in (left[-1] if left else rest).items() if all(name in x for x in left)
        }

    def _built(self, name: str, builder: Any, conf: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        try:
            result = builder.build(dict(conf), name.startswith("key."))
            if not isinstance(result, tuple) or len(result) != 2:
                raise ValueError(
                    f"{name}.builder must return a (serde, configuration) tuple from build(), got "
                    f"{type(result).__name__}"
                )
            if not isinstance(result[1], dict):
                raise ValueError(  # noqa: TRY004  (confluent-kafka's)
                    f"{name}.builder returned {type(result[1]).__name__} as the leftover configuration from build(), "
                    "expected a dict"
                )
        except BaseException:
            with suppress(Exception):
                close(self.owned)
            raise
        return result


def close(serdes: Sequence[Any]) -> None:
    """Close what can be closed, all of it; raises the first error, logs the others."""
    first: Exception | None = None
    for serde in serdes:
        try:
            getattr(serde, "close", lambda: None)()
        except Exception as error:  # noqa: BLE001  (a user's serde may raise anything)
            if first is None:
                first = error
            else:
                log().warning("Failed to close serde %r", serde, exc_info=True)
    if first is not None:
        raise first


def introduce(serdes: Sequence[Any], cluster_id: Any) -> None:
    """Tell serdes that want to know how to ask for the cluster's id."""
    for serde in serdes:
        take = getattr(serde, "set_cluster_id_resolver", None)
        if callable(take):
            take(cluster_id)
