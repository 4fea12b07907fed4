"""Back up a store while it is written to, and restore it; copy one topic of it.

    python examples/backup.py

A backup is a store of one moment: all that was there when it was asked for, nothing half. Nobody waits for it.
"""

import tempfile
import threading
from pathlib import Path

import kafkalite


def main() -> None:
    """Write without pause, back up meanwhile, lose the store, go on with the backup."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with kafkalite.connect(directory / "meter.klite", durability="interval") as store:
            readings = store.topic("readings")
            readings.append_many([b"%d" % number for number in range(1000)])
            stop = threading.Event()

            def write() -> None:
                while not stop.is_set():
                    readings.append(b"another")

            writer = threading.Thread(target=write)
            writer.start()
            made = store.backup(directory / "monday.klite")  # into one file; without a suffix into a directory
            stop.set()
            writer.join()
            print("a backup:", made.path.name, "of", made.segments, "segment(s)")

            try:
                store.backup(directory / "monday.klite")
            except kafkalite.StoreExistsError:
                print("a second one to the same place: refused")

        (directory / "meter.klite").unlink()  # an accident
        (directory / "monday.klite").rename(directory / "meter.klite")  # the old index is still there: it is noticed
        with kafkalite.connect(directory / "meter.klite", create=False) as store:
            readings = store.topic("readings")
            print("restored, with all that was there:", readings.end_offsets()[0] >= 1000)
            print("check:", "clean" if store.check().ok else "damaged")
            store.topic("notes").append(b"restored on Monday")

            copied = kafkalite.copy_topics(store, directory / "notes.klite", ["note*"])
            print("copied:", [(topic.name, topic.records) for topic in copied])


if __name__ == "__main__":
    main()
