"""Options that several verbs share, as decorators, and the store that a verb works on.

    @click.command(epilog=examples("kafkalite info shop.klite"))
    @store_argument                # a verb that takes only a store: STORE, or --store, or KAFKALITE_STORE
    @json_option
    def info(store: str, *, as_json: bool) -> None: ...

    @click.command(…)
    @store_option                  # a verb with other arguments: --store, or KAFKALITE_STORE
    @click.argument("topic", shell_complete=complete_topic)
    @start_option
    def consume(store: str, topic: str, *, start: Place) -> None: ...

    with open_store(store, write=True) as opened: ...

The store stays the text that was given: a separator at its end means a directory. Verbs never create a store by
accident, only where their help says so.
"""

import functools
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, Final, TypeVar

import rich_click as click
from click import get_current_context
from click.core import ParameterSource
from click.shell_completion import CompletionItem

import kafkalite
from kafkalite.cli.app import CommandFailedError
from kafkalite.cli.position import PlaceType

ENVIRONMENT: Final = "KAFKALITE_STORE"
SHOWN_TOPICS: Final = 10
F = TypeVar("F", bound=Callable[..., Any])


def store_argument(command: F) -> F:
    """Give a verb `store: str`: its first positional, or `--store`, or what the environment says.

    For verbs that take only a store. Further positionals (a target) are declared below this decorator.
    """

    @functools.wraps(command)
    def with_store(*args: Any, store: str | None, store_named: str | None, **kwargs: Any) -> Any:
        source = get_current_context().get_parameter_source("store_named")
        if store and store_named and store != store_named and source is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"two stores are given, {store!r} and --store {store_named!r}: leave one out")
        return command(*args, store=_given(store or store_named), **kwargs)

    argument = click.argument("store", required=False, type=click.Path())
    option = click.option(
        "-s", "--store", "store_named", type=click.Path(), metavar="PATH", envvar=ENVIRONMENT, show_envvar=True,
        help="The store, where it is not the first argument.",
    )  # fmt: skip
    return argument(option(with_store))  # type: ignore[return-value]


def store_option(command: F) -> F:
    """Give a verb `store: str` from `--store` or the environment. For verbs that have other arguments."""

    @functools.wraps(command)
    def with_store(*args: Any, store: str | None, **kwargs: Any) -> Any:
        return command(*args, store=_given(store), **kwargs)

    option = click.option(
        "-s", "--store", type=click.Path(), metavar="PATH", envvar=ENVIRONMENT, show_envvar=True,
        help="The store: a file or a directory.",
    )  # fmt: skip
    return option(with_store)  # type: ignore[return-value]


def _given(store: str | None) -> str:
    if not store:
        raise click.UsageError(f"no store is named: give its path, or set {ENVIRONMENT}")
    if store == ":memory:":
        raise click.UsageError("':memory:' is a store inside one process: name a file or a directory")
    if store.startswith("kafka://"):
        raise click.UsageError(f"{store!r} is a Kafka cluster, which is not part of this version: name a path")
    return store


def json_option(command: F) -> F:
    """Give a verb `as_json: bool` from `--json`: one JSON object a line instead of tables."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")(command)


def start_option(command: F) -> F:
    """Give a verb `start: Place` from `-o/--offset`; "earliest" when it is left out."""
    return click.option(
        "-o", "--offset", "start", type=PlaceType(), default="earliest", show_default=True, metavar="WHERE",
        help="Where to start: earliest, latest, an offset (42), the last ten (-10), after the first ten (+10), "
        "a time (@2013-01-01T05:00, UTC), or a time before now (@-1h).",
    )(command)  # fmt: skip


def until_option(command: F) -> F:
    """Give a verb `until: Place | None` from `--until`, exclusive; None when it is left out."""
    return click.option(
        "--until", type=PlaceType(), metavar="WHERE", help="Where to end, exclusive; written as --offset is."
    )(command)


def settings_option(command: F) -> F:
    """Give a verb `settings: dict[str, str]` from repeated `-c/--config NAME=VALUE`, dotted names as in Kafka."""
    return click.option(
        "-c", "--config", "settings", multiple=True, callback=_pairs, metavar="NAME=VALUE",
        help="A setting under Kafka's name, such as retention.ms=86400000. May be repeated.",
    )(command)  # fmt: skip


def _pairs(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for value in values:
        name, separator, text = value.partition("=")
        if not separator or not name:
            raise click.BadParameter(f"{value!r} is not NAME=VALUE")
        found[name.strip().replace("_", ".")] = text.strip()
    return found


def open_store(store: str, *, write: bool = False) -> kafkalite.Store:
    """Open an existing store to read it, or also to write; raises what `kafkalite.connect` does, in a shell's words."""
    try:
        return kafkalite.connect(store, create=False, read_only=not write)
    except kafkalite.StoreNotFoundError as error:
        raise CommandFailedError(
            f"there is no store at {store}: check the path; `kafkalite topic create` makes one"
        ) from error


def get_topic(opened: kafkalite.Store, name: str) -> kafkalite.Topic[bytes, bytes | None]:
    """A topic that exists; raises `CommandFailedError` with a did-you-mean."""
    try:
        return opened.topic(name, create=False)
    except kafkalite.UnknownTopicError as error:
        names = opened.topics()
        near = get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names[:SHOWN_TOPICS])}"
        hint = hint if names else "it has none; `kafkalite topic create` makes one"
        hint += " …" if not near and len(names) > SHOWN_TOPICS else ""
        raise CommandFailedError(f"there is no topic {name!r} in {opened.path}: {hint}") from error


def complete_topic(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of the store's topics, for the shell; none where there is no store that can be read."""
    store = ctx.params.get("store") or ctx.params.get("store_named")
    if not store:
        return []
    try:
        with open_store(str(store)) as opened:
            return [CompletionItem(name) for name in opened.topics() if name.startswith(incomplete)]
    except (kafkalite.KafkaliteError, CommandFailedError):
        return []
