"""Which confluent-kafka, and which librdkafka, this package is the like of."""

from typing import Final

VERSION: Final = "2.16.1"
LIBRDKAFKA: Final = ("2.16.0", 0x021000FF)


def version() -> str:
    """The version of confluent-kafka whose face this is."""
    return VERSION


def libversion() -> tuple[str, int]:
    """The version of librdkafka whose behaviour this is, as text and as a number."""
    return LIBRDKAFKA
