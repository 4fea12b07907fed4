"""`kafkalite info`: what a store is, how large, what is in it, and who has it open."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import rich_click as click

import kafkalite
from kafkalite.cli import output
from kafkalite.cli.app import examples
from kafkalite.cli.journal_walk import OpenJournal, open_journal
from kafkalite.cli.options import json_option, open_store, store_argument
from kafkalite.cli.topic import records_of
from kafkalite.storage import segment, superblock
from kafkalite.storage.engine import open_engine
from kafkalite.storage.index import Positions
from kafkalite.storage.place import Place

PROCESSES: Final = Path("/proc")
STATES: Final = {
    "sealed": "closed cleanly",
    "open": "in use, or left by a process that was killed",
    "failed": "a flush failed beyond mending: whoever opens it alone rebuilds its index",
}


@click.command(epilog=examples("kafkalite info shop.klite", "kafkalite info data/ --json"))
@store_argument
@json_option
def info(store: str, *, as_json: bool) -> None:
    """Show a store: its files, settings, topics, journal, and the processes that have it open.

    `disk` is what its files take, `unflushed` what a power cut now could take (readers do not see it with durability
    "commit"). Processes of other users are seen by root only.
    """
    with open_journal(store) as journal:
        state = journal.superblock.state.name.lower()
        opened_by = list(processes_with(journal.place.file))
    with open_store(store) as opened, open_journal(store) as journal:
        found = _facts(opened, journal, _positions(opened))
        found |= {"state": state, "open_by": opened_by}
        if as_json:
            output.print_json(found)
        else:
            _print(found)


def _positions(opened: kafkalite.Store) -> Positions:
    engine = open_engine(opened.path, create=False, read_only=True, durability=None, settings={})
    try:
        with engine.snapshot() as (_, positions):
            return positions
    finally:
        engine.close()


def _facts(opened: kafkalite.Store, journal: OpenJournal, positions: Positions) -> dict[str, Any]:
    place = journal.place
    topics = [opened.topic(name, create=False) for name in opened.topics()]
    return {
        "store": str(place.path),
        "layout": "directory" if place.is_directory else "single file",
        "format": superblock.FORMAT_VERSION,
        "store_id": journal.superblock.store_id.hex(),
        "era": positions.era,
        "created_ms": journal.headers[0].created_ms if journal.headers else None,
        "settings": dict(opened.settings),
        "disk_bytes": {name: sum(map(disk_bytes, paths)) for name, paths in _files(place).items()},
        "topics": [
            {"topic": each.name, "partitions": each.partition_count, "records": records_of(each)} for each in topics
        ],
        "segments": [
            {"segment": header.number, "bytes": header.size, "era": header.era, "created_ms": header.created_ms}
            for header in journal.headers
        ],
        "positions": {
            "tail": position(positions.tail),
            "durable": position(positions.durable),
            "published": position(positions.published),
            "unflushed": positions.durable < positions.tail,
            "flush_failed": bool(positions.flush_failed),
        },
    }


def _files(place: Place) -> dict[str, list[Path]]:
    """The files of a store by what they are for."""
    segments = sorted(place.path.glob("*.segment")) if place.is_directory else []
    return {
        "journal": [place.file, *segments],
        "index": [place.index, place.index_lock],
        "run": sorted(place.run.glob("*")),
    }


def disk_bytes(path: Path) -> int:
    """What a file takes of its disk; 0 when it is not there."""
    try:
        return path.stat().st_blocks * 512
    except OSError:
        return 0


def position(value: int) -> str:
    """A position as SEGMENT:BYTE."""
    return f"{segment.number_of(value)}:{segment.byte_of(value)}"


def processes_with(file: Path) -> Iterator[dict[str, Any]]:
    """The processes that have a file open, as far as this user may see them: pid and command line."""
    try:
        wanted = file.stat()
    except OSError:
        return
    for process in sorted((each for each in PROCESSES.glob("[0-9]*")), key=lambda each: int(each.name)):
        if _has_open(process, (wanted.st_dev, wanted.st_ino)):
            yield {"pid": int(process.name), "command": _command(process)}


def _has_open(process: Path, wanted: tuple[int, int]) -> bool:
    try:
        for descriptor in (process / "fd").iterdir():
            with contextlib.suppress(OSError):  # closed while we looked
                found = descriptor.stat()
                if (found.st_dev, found.st_ino) == wanted:
                    return True
    except OSError:  # another user's, or gone
        pass
    return False


def _command(process: Path) -> str:
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    return " ".join(word.decode("utf-8", "backslashreplace") for word in words if word)


def _print(found: dict[str, Any]) -> None:
    settings, where = found["settings"], found["positions"]
    sizes = found["disk_bytes"]
    records = sum(each["records"] for each in found["topics"])
    partitions = sum(each["partitions"] for each in found["topics"])
    created = found["created_ms"]
    facts = {
        "store": found["store"],
        "layout": f"{found['layout']}, format {found['format']}",
        "id": found["store_id"],
        "created": output.moment(created) if created is not None else None,
        "state": "in use" if found["open_by"] else STATES.get(found["state"], found["state"]),
        "durability": settings["durability"],
        "settings": ", ".join(f"{name.replace('_', '.')}={settings[name]}" for name in sorted(settings)[1:]),
        "disk": f"{output.size(sum(sizes.values()))} ({', '.join(f'{k} {output.size(v)}' for k, v in sizes.items())})",
        "holds": f"{output.plural(len(found['topics']), 'topic')}, {output.plural(partitions, 'partition')}, "
        f"{output.plural(records, 'record')}",
        "journal": f"{output.plural(len(found['segments']), 'segment')}, era {found['era']}, ends at {where['tail']}",
        "unflushed": _unflushed(where),
        "open by": _names(found["open_by"]),
    }
    output.print_facts(facts)
    if found["topics"]:
        output.print_heading("topics")
        output.print_table(
            ["TOPIC", "PARTITIONS", "RECORDS"],
            [tuple(each.values()) for each in found["topics"]],
            right=["PARTITIONS", "RECORDS"],
        )


def _names(processes: Sequence[dict[str, Any]]) -> str:
    if not PROCESSES.is_dir():
        return "unknown: this system does not say"
    return "\n".join(f"{each['pid']} {each['command']}" for each in processes) or "nobody else"


def _unflushed(where: dict[str, Any]) -> str:
    if where["flush_failed"]:
        return "the last flush failed: what follows is written again by the next commit"
    return f"from {where['durable']} on" if where["unflushed"] else "nothing"
