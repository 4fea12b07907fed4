"""A whole record batch to its columns, whichever payload it has: the envelope's magic decides.

No checksum is taken here: the frame around a batch in the journal covers every byte of it, and was checked.
A batch that came from elsewhere goes through `envelope.verify` first.
"""

from kafkalite.records import kafka_v2, native
from kafkalite.records.envelope import HEADER_SIZE, MAGIC_NATIVE, Envelope, parse
from kafkalite.records.native import Columns


def decode(batch: bytes | memoryview) -> tuple[Envelope, Columns]:
    """Header and columns of a batch; raises `CorruptRecordError` for what is none."""
    envelope = parse(batch)
    return envelope, columns(envelope, memoryview(batch)[HEADER_SIZE:])


def columns(envelope: Envelope, payload: bytes | memoryview) -> Columns:
    """The columns of a payload whose header was read already; raises `CorruptRecordError`."""
    if envelope.magic == MAGIC_NATIVE:
        return native.decode(envelope, payload)
    return kafka_v2.decode(envelope, payload)
