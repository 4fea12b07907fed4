"""A process that checks a crash: `python -m kafkalite.demo.checker STORE TOPIC ACKNOWLEDGEMENTS`.

Opens the store as any next process would, reads the topic and compares it with the acknowledgements kept outside.
Prints one line of JSON: `acknowledged` and `found` (how many of each), `missing` (acknowledged and not found where
they were said to be, or with another value; the first few), `gaps` (partitions whose offsets are not 0, 1, 2 …),
`is_clean` and `report`, what `store.check()` says.
"""

import json
import sys
import zlib
from pathlib import Path
from typing import Final

import kafkalite
from kafkalite.demo.writer import acknowledgements

SHOWN: Final = 5


def compare(store: kafkalite.Store, name: str, acknowledgement_data: bytes) -> dict[str, object]:
    """Compare the topic with the acknowledgements and return the answer described above."""
    topic = store.topic(name, create=False)
    checksums: list[dict[int, int]] = [{} for _ in range(topic.partition_count)]
    for record in topic.read():
        checksums[record.partition][record.offset] = zlib.crc32(record.value or b"")
    kept = list(acknowledgements(acknowledgement_data))
    missing = [entry for entry in kept if checksums[entry.partition].get(entry.offset) != entry.checksum]
    report = store.check()
    return {
        "acknowledged": len(kept),
        "found": sum(map(len, checksums)),
        "missing_count": len(missing),
        "missing": missing[:SHOWN],
        "gaps": [partition for partition, found in enumerate(checksums) if list(found) != list(range(len(found)))],
        "is_clean": report.ok,
        "report": str(report),
    }


def main(path: str, name: str, acknowledgement_path: str) -> None:
    """Open, compare, answer."""
    with kafkalite.connect(path, create=False) as store:
        print(json.dumps(compare(store, name, Path(acknowledgement_path).read_bytes())))


if __name__ == "__main__":
    main(*sys.argv[1:])
