"""Types to bytes and back: what `key=` and `value=` of a topic may be.

base.py    `Serde` (a user may write one), `BatchSerde` (what the engine calls), the errors' words
plain.py   bytes, str, int
typed.py   JSON and MessagePack by msgspec, imported when first used
spec.py    `resolve`: from what the user gives to a serde; null around a serde; a user's serde in ours

Importing this imports no msgspec.
"""

from kafkalite.serde.base import BatchSerde, Serde
from kafkalite.serde.spec import optional, resolve, resolve_key
from kafkalite.serde.typed import JSON, MSGPACK, json

__all__ = ["JSON", "MSGPACK", "BatchSerde", "Serde", "json", "optional", "resolve", "resolve_key"]
