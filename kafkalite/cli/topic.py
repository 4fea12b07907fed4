"""`kafkalite topic`: create, list, describe, alter, delete."""

import sys
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import rich_click as click

import kafkalite
from kafkalite.cli import output
from kafkalite.cli.app import CommandFailedError, LazyGroup, examples, fail, show_error
from kafkalite.cli.options import (
    complete_topic,
    get_topic,
    json_option,
    open_store,
    settings_option,
    store_argument,
    store_option,
)
from kafkalite.cli.position import bounds_of

topics_argument = click.argument(
    "names", nargs=-1, required=True, metavar="TOPIC...", shell_complete=complete_topic
)  # fmt: skip


@click.group(cls=LazyGroup, epilog=examples("kafkalite topic create -s shop.klite orders -p 3"))
def topic() -> None:
    """Create, list, describe, alter and delete topics."""


@topic.command(
    epilog=examples(
        "kafkalite topic create -s shop.klite orders refunds -p 3",
        "kafkalite topic create -s audit/ log --durability interval",
        "kafkalite topic create -s shop.klite prices -c max.message.bytes=65536 -c compression.type=zstd",
    )
)
@store_option
@topics_argument
@click.option(
    "-p", "--partitions", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="Partitions of each."
)
@settings_option
@click.option("--if-not-exists", is_flag=True, help="Leave a topic that exists as it is; otherwise that fails.")
@click.option(
    "--durability", type=click.Choice(["commit", "interval", "none"]),
    help="Of the store, where this command creates it. A new store has commit.",
)  # fmt: skip
@json_option
def create(
    store: str,
    names: Sequence[str],
    *,
    partitions: int,
    settings: dict[str, str],
    if_not_exists: bool,
    durability: Any,
    as_json: bool,
) -> None:
    """Create topics; the store as well if there is none.

    Records are kept for ever unless retention.ms or retention.bytes say otherwise.
    """
    with kafkalite.connect(store, durability=durability) as opened:
        there = set(opened.topics())

        def one(name: str) -> str:
            if name in there and not if_not_exists:
                raise CommandFailedError(f"topic {name!r} exists: choose another name, or add --if-not-exists")
            if name in there:
                return "exists"
            opened.topic(name, partitions=partitions, config=settings)
            return "created"

        _each(names, one, as_json=as_json)


@topic.command("list", epilog=examples("kafkalite topic list shop.klite", "kafkalite topic list shop.klite --json"))
@store_argument
@click.option("--match", metavar="PATTERN", default="*", help="Only names that match, such as 'order*'.")
@json_option
def list_(store: str, *, match: str, as_json: bool) -> None:
    """List the topics of a store, with partitions and records."""
    with open_store(store) as opened:
        found = [get_topic(opened, name) for name in opened.topics() if fnmatchcase(name, match)]
        rows = [(each.name, each.partition_count, records_of(each)) for each in found]
    if as_json:
        for name, partitions, records in rows:
            output.print_json({"topic": name, "partitions": partitions, "records": records})
    elif rows or not output.is_terminal():
        output.print_table(["TOPIC", "PARTITIONS", "RECORDS"], rows, right=["PARTITIONS", "RECORDS"])
    else:
        output.note("there are no topics")


def records_of(found: kafkalite.Topic[Any, Any]) -> int:
    """How many offsets a topic's partitions hold."""
    return sum(end - first for first, end in bounds_of(found).values())


@topic.command(
    epilog=examples(
        "kafkalite topic describe -s shop.klite orders", "kafkalite topic describe -s shop.klite orders --json"
    )
)
@store_option
@topics_argument
@json_option
def describe(store: str, names: Sequence[str], *, as_json: bool) -> None:
    """Show topics with their settings, and each partition's offsets."""
    failed = 0
    with open_store(store) as opened:
        for name in dict.fromkeys(names):
            try:
                found = get_topic(opened, name)
            except CommandFailedError as error:
                show_error(error)
                failed += 1
                continue
            bounds = bounds_of(found)
            if as_json:
                output.print_json(_described(found, bounds))
            else:
                _print_topic(found, bounds)
    if failed:
        fail()


def _described(found: kafkalite.Topic[Any, Any], bounds: Mapping[int, tuple[int, int]]) -> dict[str, Any]:
    return {
        "topic": found.name,
        "settings": found.settings,
        "partitions": [
            {"partition": partition, "beginning_offset": first, "end_offset": end, "records": end - first}
            for partition, (first, end) in bounds.items()
        ],
    }


def _print_topic(found: kafkalite.Topic[Any, Any], bounds: Mapping[int, tuple[int, int]]) -> None:
    records = sum(end - first for first, end in bounds.values())
    output.print_facts({"topic": found.name, "partitions": len(bounds), "records": records})
    output.print_heading("settings")
    output.print_facts({name.replace("_", "."): str(value) for name, value in sorted(found.settings.items())})
    output.print_heading("partitions")
    columns = ["PARTITION", "BEGINNING OFFSET", "END OFFSET", "RECORDS"]
    rows = [(str(number), str(first), str(end), end - first) for number, (first, end) in bounds.items()]
    output.print_table(columns, rows, right=columns)


@topic.command(
    epilog=examples(
        "kafkalite topic alter -s shop.klite orders -c retention.ms=604800000 -c compression.type=zstd",
        "kafkalite topic alter -s shop.klite orders --partitions 6",
    )
)
@store_option
@topics_argument
@click.option(
    "-p", "--partitions", type=click.IntRange(1), metavar="N", help="Have so many in all: more than there are."
)  # fmt: skip
@settings_option
@json_option
def alter(store: str, names: Sequence[str], *, partitions: int | None, settings: dict[str, str], as_json: bool) -> None:
    """Change settings of topics, or add partitions, for everybody who has the store open.

    Partitions are only ever added. Keys are then spread over all of them: later records of a key may go to another
    partition than its earlier ones.
    """
    if not settings and partitions is None:
        raise click.UsageError(
            "nothing to change is given: add -c NAME=VALUE, such as -c retention.ms=604800000, or --partitions N"
        )
    with open_store(store, write=True) as opened:

        def one(name: str) -> str:
            get_topic(opened, name).alter(partitions=partitions, config=settings)
            return "altered"

        _each(names, one, as_json=as_json)


@topic.command(
    epilog=examples("kafkalite topic delete -s shop.klite refunds", "kafkalite topic delete -s shop.klite old-1 --yes")
)
@store_option
@topics_argument
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@json_option
def delete(store: str, names: Sequence[str], *, yes: bool, as_json: bool) -> None:
    """Delete topics and all their records. It asks first, where there is somebody to ask."""
    with open_store(store, write=True) as opened:

        def one(name: str) -> str:
            records = records_of(get_topic(opened, name))
            question = f"Delete topic {name!r} and its {output.plural(records, 'record')}?"
            if not yes and is_asked() and not click.confirm(question, err=True):
                return "kept"
            opened.delete_topic(name)
            return "deleted"

        _each(names, one, as_json=as_json)


def is_asked() -> bool:
    """Whether a person can answer a question."""
    return sys.stdin.isatty()


def _each(names: Sequence[str], do: Any, *, as_json: bool) -> None:
    """Do it for each topic and say what was done; those that fail are told, and make the verb fail at the end."""
    failed = 0
    for name in dict.fromkeys(names):
        try:
            done = do(name)
        except (kafkalite.KafkaliteError, CommandFailedError) as error:
            show_error(error)
            failed += 1
            continue
        if as_json:
            output.print_json({"topic": name, "result": done})
        else:
            output.console().print(f"{name}: {done}", markup=False)
    if failed:
        fail()
