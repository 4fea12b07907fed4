"""A pool of worker processes resizes pictures: one record fails, one kills its worker, the rest is done.

    python examples/worker_pool.py

The record that fails is tried again, the one that kills is handed to others; both end in the dead letter topic, in the
commit that passes their offsets. The order of each partition is kept.
"""

import os
import signal
import tempfile
from pathlib import Path

import kafkalite

PICTURES = 40
BROKEN = 7
FATAL = 13
STORE = "PICTURES_STORE"


def resize(record: "kafkalite.Record[bytes, int]") -> None:
    """The handler, which each worker imports."""
    if record.value == BROKEN:
        raise ValueError("not a picture")
    if record.value == FATAL:
        os.kill(os.getpid(), signal.SIGKILL)  # a library that crashes
    with kafkalite.connect(os.environ[STORE]) as store:
        store.topic("resized", value=int).append(record.value)


def main() -> None:
    """Fill the topic, let the pool work it off, look at what it did."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "pictures.klite"
        os.environ[STORE] = str(path)  # workers inherit it
        with kafkalite.connect(path) as store:
            store.topic("resized", value=int)
            failed = store.topic("failed", value=int)
            pictures = store.topic("pictures", partitions=4, value=int)
            pictures.append_many(range(PICTURES))

            group = store.consumer_group("resizers", pictures)
            group.run(resize, workers=3, retries=1, dead_letter=failed, until="end")

            done = {record.value for record in store.topic("resized", value=int).read()}
            print("resized:", len(done), "without the two:", done.isdisjoint({BROKEN, FATAL}))
            for letter in sorted(failed.read(), key=lambda letter: letter.value):
                why = dict(letter.headers)["_dlq.errors.message"] or b""
                print(f"given up: picture {letter.value}, which {why.decode()}")
            print("check:", "clean" if store.check().ok else "damaged")


if __name__ == "__main__":
    main()
