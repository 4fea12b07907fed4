"""`kafkalite group`: list, describe, seek, delete."""

from collections.abc import Mapping, Sequence
from typing import Any

import rich_click as click
from click.shell_completion import CompletionItem

import kafkalite
from kafkalite.cli import output
from kafkalite.cli.app import CommandFailedError, LazyGroup, examples, fail, show_error
from kafkalite.cli.options import complete_topic, get_topic, json_option, open_store, store_argument, store_option
from kafkalite.cli.position import Place, PlaceType, bounds_of
from kafkalite.cli.topic import is_asked
from kafkalite.group_admin import (
    GroupInfo,
    alter_offsets,
    delete_group,
    describe_group,
    list_groups,
)


def complete_group(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of the store's groups, for the shell; none where there is no store that can be read."""
    store = ctx.params.get("store")
    if not store:
        return []
    try:
        with open_store(str(store)) as opened:
            names = [one.group_id for one in list_groups(opened)]
    except (kafkalite.KafkaliteError, CommandFailedError):
        return []
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


groups_argument = click.argument("names", nargs=-1, required=True, metavar="GROUP...", shell_complete=complete_group)


@click.group(cls=LazyGroup, epilog=examples("kafkalite group list shop.klite"))
def group() -> None:
    """List, describe, seek and delete consumer groups."""


@group.command("list", epilog=examples("kafkalite group list shop.klite", "kafkalite group list shop.klite --json"))
@store_argument
@json_option
def list_(store: str, *, as_json: bool) -> None:
    """List the groups of a store: state, members, and how many offsets they have not confirmed."""
    with open_store(store) as opened:
        found = list_groups(opened)
    if as_json:
        for one in found:
            output.print_json({"group": one.group_id, "state": one.state, "members": len(one.members), "lag": one.lag})
    elif found or not output.is_terminal():
        rows = [(one.group_id, one.state, len(one.members), one.lag) for one in found]
        output.print_table(["GROUP", "STATE", "MEMBERS", "LAG"], rows, right=["MEMBERS", "LAG"])
    else:
        output.note("there are no groups")


@group.command(
    epilog=examples(
        "kafkalite group describe -s shop.klite billing", "kafkalite group describe -s shop.klite billing --json"
    )
)
@store_option
@groups_argument
@json_option
def describe(store: str, names: Sequence[str], *, as_json: bool) -> None:
    """Show groups: their members, and for each partition who has it, what is committed, the end and the lag."""
    failed = 0
    with open_store(store) as opened:
        for name in dict.fromkeys(names):
            try:
                found = describe_group(opened, name)
            except kafkalite.KafkaliteError as error:
                show_error(error)
                failed += 1
                continue
            if as_json:
                output.print_json(_as_json(found))
            else:
                _print(found)
    if failed:
        fail()


def _as_json(found: GroupInfo) -> dict[str, Any]:
    return {
        "group": found.group_id,
        "state": found.state,
        "epoch": found.epoch,
        "assignor": found.assignor,
        "lag": found.lag,
        "members": [
            {
                "member": one.member_id,
                "client": one.client_id,
                "instance": one.instance_id,
                "epoch": one.epoch,
                "partitions": [f"{each.topic}-{each.partition}" for each in one.partitions],
            }
            for one in found.members
        ],
        "partitions": [one._asdict() for one in found.partitions],
    }


def _print(found: GroupInfo) -> None:
    facts = {"group": found.group_id, "state": found.state, "epoch": found.epoch, "lag": found.lag}
    output.print_facts(facts | ({"assignor": found.assignor} if found.assignor else {}))
    if found.members:
        output.print_heading("members")
        rows = [
            (one.member_id, one.client_id, one.instance_id, one.epoch, len(one.partitions)) for one in found.members
        ]
        output.print_table(["MEMBER", "CLIENT", "INSTANCE", "EPOCH", "PARTITIONS"], rows, right=["EPOCH", "PARTITIONS"])
    output.print_heading("partitions")
    partitions = [
        (one.topic, str(one.partition), one.committed, one.end, one.lag, one.owner) for one in found.partitions
    ]
    columns = ["TOPIC", "PARTITION", "COMMITTED", "END", "LAG", "MEMBER"]
    output.print_table(columns, partitions, right=columns[1:5])


@group.command(
    epilog=examples(
        "kafkalite group seek -s shop.klite billing -o earliest",
        "kafkalite group seek -s shop.klite billing -t orders -o @-1h",
        "kafkalite group seek -s shop.klite billing -t orders -p 2 -o 1500 --dry-run",
    )
)
@store_option
@click.argument("name", metavar="GROUP", shell_complete=complete_group)
@click.option(
    "-o", "--offset", "place", type=PlaceType(), required=True, metavar="WHERE",
    help="Where the group goes on: earliest, latest, an offset (42), the last ten (-10), a time (@2013-01-01T05:00, "
    "UTC), or a time before now (@-1h).",
)  # fmt: skip
@click.option(
    "-t", "--topic", "topics", multiple=True, metavar="TOPIC", shell_complete=complete_topic,
    help="Only of this topic; otherwise of all that the group has offsets of. May be repeated.",
)  # fmt: skip
@click.option(
    "-p", "--partition", "partitions", type=click.IntRange(min=0), multiple=True, metavar="N",
    help="Only of this partition. May be repeated.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@json_option
def seek(
    store: str,
    name: str,
    *,
    place: Place,
    topics: Sequence[str],
    partitions: Sequence[int],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Set the offsets of a group that has no members. A group that is not there yet comes to be, given --topic."""
    with open_store(store, write=not dry_run) as opened:
        known = _known_offsets(opened, name, must_exist=not topics)
        found: dict[kafkalite.TopicPartition, int] = {}
        for topic in topics or sorted({one.topic for one in known}):
            found |= _places(get_topic(opened, topic), place, partitions)
        if not dry_run:
            alter_offsets(opened, name, found)
    rows = [(one.topic, str(one.partition), known.get(one), offset) for one, offset in sorted(found.items())]
    if as_json:
        for topic, partition, before, offset in rows:
            output.print_json({"topic": topic, "partition": int(partition), "before": before, "offset": offset})
    else:
        columns = ["TOPIC", "PARTITION", "BEFORE", "OFFSET"]
        output.print_table(columns, rows, right=columns[1:])


def _known_offsets(
    opened: kafkalite.Store, name: str, *, must_exist: bool
) -> Mapping[kafkalite.TopicPartition, int | None]:
    try:
        info = describe_group(opened, name)
    except LookupError:
        if must_exist:
            raise
        return {}
    return {kafkalite.TopicPartition(one.topic, one.partition): one.committed for one in info.partitions}


def _places(
    topic: kafkalite.Topic[Any, Any], place: Place, partitions: Sequence[int]
) -> dict[kafkalite.TopicPartition, int]:
    """The offset that a place is in each partition."""
    known = bounds_of(topic)
    for number in partitions:
        if number not in known:
            raise CommandFailedError(f"topic {topic.name!r} has no partition {number}: it has {len(known)}")
    bounds = {number: known[number] for number in partitions or sorted(known)}
    position = place.position(bounds)
    if not isinstance(position, Mapping):
        position = {number: _at(topic, number, position, end) for number, (_, end) in bounds.items()}
    return {kafkalite.TopicPartition(topic.name, number): offset for number, offset in position.items()}


def _at(topic: kafkalite.Topic[Any, Any], partition: int, moment: Any, end: int) -> int:
    """The first record at or after a moment; the end where there is none."""
    record = next(topic.read(partition, start=moment), None)
    return end if record is None else record.offset


@group.command(
    epilog=examples(
        "kafkalite group delete -s shop.klite billing", "kafkalite group delete -s shop.klite old-1 old-2 --yes"
    )
)
@store_option
@groups_argument
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@json_option
def delete(store: str, names: Sequence[str], *, yes: bool, as_json: bool) -> None:
    """Delete groups that have no members, and their offsets. It asks first, where there is somebody to ask."""
    failed = 0
    with open_store(store, write=True) as opened:
        for name in dict.fromkeys(names):
            question = f"Delete group {name!r} and its offsets?"
            done = "deleted"
            try:
                if yes or not is_asked() or click.confirm(question, err=True):
                    delete_group(opened, name)
                else:
                    done = "kept"
            except kafkalite.KafkaliteError as error:
                show_error(error)
                failed += 1
                continue
            if as_json:
                output.print_json({"group": name, "result": done})
            else:
                output.console().print(f"{name}: {done}", markup=False)
    if failed:
        fail()
