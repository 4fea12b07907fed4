"""The reference pages, made from the code: errors, settings, limits, commands, and the public names with docstrings.

`PAGES` maps a page of `docs/reference` to the function that writes it; `test_docs.py` compares them, and writes them
anew with REWRITE=1. Nothing on these pages is typed twice: a table comes from the table in the code, a signature from
the source, a number from the constant that the engine uses.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pkgutil import resolve_name
from typing import Any, NamedTuple

import rich_click as click

import kafkalite
from kafkalite import config, errors
from kafkalite.cli import cli

MADE = "<!-- Made by tests/house/reference.py: change the code, then REWRITE=1 python -m pytest tests/house -->\n"
WIDTH = 100
INT64_MAX = 2**63 - 1
DEFAULT = re.compile(r"(?<!=)(: [^:=]+?)=")
"""The `=` of a parameter with a type, which `ast` writes without spaces."""

KAFKA_NAMES = {
    1: "OFFSET_OUT_OF_RANGE",
    2: "CORRUPT_MESSAGE",
    3: "UNKNOWN_TOPIC_OR_PARTITION",
    7: "REQUEST_TIMED_OUT",
    10: "MESSAGE_TOO_LARGE",
    17: "INVALID_TOPIC_EXCEPTION",
    24: "INVALID_GROUP_ID",
    35: "UNSUPPORTED_VERSION",
    36: "TOPIC_ALREADY_EXISTS",
    40: "INVALID_CONFIG",
    45: "OUT_OF_ORDER_SEQUENCE_NUMBER",
    48: "INVALID_TXN_STATE",
    56: "KAFKA_STORAGE_ERROR",
    68: "NON_EMPTY_GROUP",
    69: "GROUP_ID_NOT_FOUND",
    90: "PRODUCER_FENCED",
    110: "FENCED_MEMBER_EPOCH",
    113: "STALE_MEMBER_EPOCH",
}
"""Kafka's names of the codes in the table of errors."""

SECTIONS = (
    ("Opening a store", ("connect", "Store")),
    ("Topics", ("Topic",)),
    ("Producing", ("Producer", "Delivery", "RecordMetadata")),
    ("Records", ("Record", "RecordBatch", "TopicPartition")),
    ("Types of keys and values", ("JSON", "MSGPACK", "json", "optional", "Serde")),
    ("Checking and repairing", ("check", "Report", "repair", "RepairReport")),
    ("Backing up and copying", ("BackupReport", "copy_topics", "CopiedTopic")),
)
"""The order of the public names; those that are in no section come last."""

PLAIN_VALUES = {
    "JSON": "Serde of anything that JSON can say, unchecked: `store.topic(name, value=kafkalite.JSON)`.",
    "MSGPACK": "Serde of anything that MessagePack can say, `bytes` included, unchecked.",
}
"""Public names that are values, which have no docstring."""


class Limit(NamedTuple):
    """A row of the page of limits: what, the constant that says so, its unit, and what happens beyond."""

    what: str
    constant: str
    unit: str
    beyond: str


LIMITS = (
    Limit(
        "partitions of a topic", "kafkalite.storage.catalogue:MAX_PARTITIONS", "",
        "`ConfigError`",
    ),
    Limit(
        "log ids of a store: partitions ever created, those of deleted topics included",
        "kafkalite.storage.catalogue:LOG_ID_LIMIT", "", "no further partitions: ids are never used again",
    ),
    Limit("offset", "kafkalite.storage.index:OFFSET_MAX", "", "not reached in this life"),
    Limit("records of a batch", "kafkalite.records.envelope:MAX_BATCH_RECORDS", "", "the next batch begins"),
    Limit("bytes of a batch's payload, unpacked", "kafkalite.records.compression:MAX_PAYLOAD_BYTES", "bytes",
          "`CorruptRecordError`; a commit is limited before that by `max_commit_bytes`"),
    Limit("size of the index", "kafkalite.storage.index:MAP_SIZE", "bytes",
          "address space that is reserved, not disk that is taken; `StoreFullError`"),
    Limit("read snapshots at one time, of all processes", "kafkalite.storage.index:MAX_READERS", "",
          "`StoreFailedError`; the place of a process that was killed is free again at the next opening"),
    Limit("first segment", "kafkalite.storage.segment:FIRST_SIZE", "bytes",
          "each next one is twice as large, up to `segment_bytes`"),
    Limit("batches remembered of each idempotent producer and partition",
          "kafkalite.storage.commit:REMEMBERED_BATCHES", "", "an older repeat raises `SequenceError`"),
    Limit("bytes that a producer puts into one commit", "kafkalite.commit_queue:COMMIT_BYTES", "bytes",
          "the next commit takes the rest"),
    Limit("bytes of a batch of `append_many`", "kafkalite.columns:BATCH_BYTES", "bytes",
          "it becomes several batches, of one commit"),
    Limit("wait of an opening for a process that opens or closes", "kafkalite.storage.opening:OPEN_TIMEOUT", "s",
          "`StoreBusyError` names the process"),
    Limit("wait of an append for the lock of another process", "kafkalite.storage.engine:DEFAULT_TIMEOUT", "s",
          "`StoreBusyError` names the process"),
    Limit("segments mapped at one time by a process", "kafkalite.storage.journal:MAX_MAPS", "",
          "the one that was used longest ago is closed"),
    Limit("problems that a check lists", "kafkalite.storage.check:MAX_PROBLEMS", "", "the rest is left out"),
    Limit("idle time after which the background thread ends", "kafkalite.storage.keeper:IDLE_SECONDS", "s",
          "it begins again when there is something to do"),
)  # fmt: skip


def table(*rows: Sequence[str], align: str = "") -> str:
    """A table in Markdown; the first row is its head, `align` has r or l for each column."""
    head, *body = rows
    rule = ["---:" if mark == "r" else "---" for mark in (align or "l" * len(head))]
    return "".join(f"| {' | '.join(map(_cell, row))} |\n" for row in (head, rule, *body))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def amount(number: Any) -> str:
    """A number as people read it."""
    if number == INT64_MAX:
        return "2^63 - 1"
    if isinstance(number, int) and number >= 1024 and number & (number - 1) == 0:
        return f"{number:,} (2^{number.bit_length() - 1})"
    return f"{number:,}"


# Tables


def errors_page() -> str:
    """Every error: its class, what else it is, Kafka's code, whether to try again, what it means, how to mend it."""
    rows = [("class", "is also", "Kafka's code", "retriable", "meaning", "fix")]
    for row in errors.ERRORS:
        parents = [base.__name__ for base in row.__bases__ if base is not errors.KafkaliteError]
        code = "" if row.code is None else f"{row.code} {KAFKA_NAMES.get(row.code, '')}".strip()
        own = row.fix or "Each has its own."
        rows.append(
            (f"`{row.__name__}`", ", ".join(f"`{name}`" for name in parents if name != "Exception"), code,
             "yes" if row.retriable else "no", inspect.cleandoc(row.__doc__ or ""), own)
        )  # fmt: skip
    return f"""# Errors

{MADE}
Every error that kafkalite raises on purpose is one of these, and a `KafkaliteError`. The message of an error names the
thing, the value and the fix. The class says whether trying again can help (`.retriable`) and Kafka's protocol code
where Kafka has the same error (`.code`, else `None`). `except TimeoutError`, `except LookupError` and the like work,
as the second column says.

{table(*rows)}
Some carry more than a message: `OffsetConflictError.expected` and `.actual`, `DeserializationError.record` (the raw
record), `DeliveryError.failures` (pairs of record and error).

An `AssertionError` from inside kafkalite is a defect of kafkalite.
"""


def settings_page() -> str:
    """Every setting, by whose it is."""
    intros = {
        "store": "Of `kafkalite.connect` and `Store.alter`. They belong to the store: everybody who opens it has them.",
        "topic": "Of `Store.topic` and `Topic.alter`. They belong to the topic.",
        "producer": "Of `Store.producer`. They belong to that producer.",
    }
    parts = [
        f"""# Settings

{MADE}
Names are Kafka's with `_` for `.`, in Kafka's units. `config={{"linger.ms": 5}}` takes the dotted names, as text or as
numbers; the same setting in both forms, and an unknown one, raise `ConfigError`.

```python
import kafkalite

with kafkalite.connect("shop.klite", durability="interval", config={{"flush.interval.ms": 500}}) as store:
    orders = store.topic("orders", max_message_bytes=4096)
    assert store.settings["flush_interval_ms"] == 500
    assert orders.settings["max_message_bytes"] == 4096
    with store.producer(config={{"linger.ms": "20", "compression.type": "zstd"}}) as producer:
        assert producer.settings["linger_ms"] == 20.0
```
"""
    ]
    for scope, rows in config.SETTINGS.items():
        cells = [
            (f"`{row.name}`", _type_name(row.type), f"`{row.default!r}`", _valid(row), row.meaning)
            for row in rows.values()
        ]
        parts.append(
            f"## {scope.capitalize()} settings\n\n{intros.get(scope, '')}\n\n"
            + table(("name", "type", "default", "valid", "meaning"), *cells)
        )
    parts.append(
        "Retention and compaction are not part of this version: `retention_ms`, `retention_bytes` and\n"
        "`cleanup_policy` are kept and compared, and nothing is removed.\n"
    )
    return "\n".join(parts)


def _type_name(kind: type) -> str:
    return "str or int" if kind is object else kind.__name__


def _valid(row: config.Setting) -> str:
    if row.type in (int, float):
        least, greatest = row.valid
        return f"{amount(least)} to {amount(greatest)}"
    return ", ".join(f"`{value!r}`" for value in row.valid or (True, False))


def limits_page() -> str:
    """Numbers that end something, from the constants themselves."""
    rows = [("limit", "number", "beyond it", "constant")]
    for limit in LIMITS:
        number = amount(resolve_name(limit.constant))
        rows.append((limit.what, f"{number} {limit.unit}".strip(), limit.beyond, f"`{limit.constant}`"))
    sizes = [("limit", "default", "up to", "setting")]
    for scope, name in (("topic", "max_message_bytes"), ("store", "max_commit_bytes"), ("store", "segment_bytes")):
        row = config.SETTINGS[scope][name]  # type: ignore[index]
        sizes.append((row.meaning, amount(row.default), amount(row.valid[1]), f"`{name}` of a {scope}"))
    return f"""# Limits

{MADE}
What a user may change is a [setting](settings.md):

{table(*sizes)}
What is fixed:

{table(*rows)}
A topic's name has 1 to 249 of the characters a-z A-Z 0-9 `.` `_` `-`, as in Kafka.

Not limited by a number: topics and records of a store, processes and threads that have it open, producers, readers. A
partition that holds nothing takes no row of the index; [sizing](../how-to/sizing.md) says what the rest costs.
"""


# Commands


def commands_page() -> str:
    """Every command from click's tree."""
    found = list(_commands(cli, ("kafkalite",)))
    parts = [
        f"""# Commands

{MADE}
The command line comes with the extra `cli`: `pip install 'kafkalite[cli]'`. `kafkalite` is `python -m kafkalite`. Every
command has `--help`. Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted by Ctrl-C, 141 when the reader of
a pipe has gone. Errors are one line on standard error; colour and progress bars only appear on a terminal.

{table(("command", ""), *((f"[`{name}`](#{slug(name)})", _short(command)) for name, command in found))}"""
    ]
    parts += [_command_section(name, command) for name, command in found]
    return "\n".join(parts)


def _commands(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[str, click.Command]]:
    """The commands that do something, by their full names."""
    if not isinstance(command, click.Group):
        yield " ".join(path), command
        return
    context = click.Context(command, info_name=path[-1])
    for name in command.list_commands(context):
        inner = command.get_command(context, name)
        if inner is not None and not inner.hidden:
            yield from _commands(inner, (*path, name))


def _short(command: click.Command) -> str:
    return inspect.cleandoc(command.help or "").split("\n\n")[0]


def _command_section(name: str, command: click.Command) -> str:
    arguments = [one for one in command.params if isinstance(one, click.Argument)]
    usage = [name, *(["[OPTIONS]"] if len(command.params) > len(arguments) else [])]
    usage += [_argument(one) for one in arguments]
    parts = [f"## {name}\n", f"```text\n{' '.join(usage)}\n```\n", _help_text(command.help or "")]
    options = [one for one in command.params if isinstance(one, click.Option) and not one.hidden]
    if options:
        parts.append(table(("option", "default", "meaning"), *map(_option, options)))
    examples = [line.strip() for line in (command.epilog or "").splitlines() if line.strip().startswith("$ ")]
    if examples:
        lines = "\n".join(line.removeprefix("$ ") for line in examples)
        parts.append(f"Examples:\n\n```text\n{lines}\n```\n")
    return "\n".join(parts)


def _help_text(text: str) -> str:
    """A command's help as Markdown; what stands below click's mark for "as it is" stays as it is."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    shown = [
        f"```text\n{part.removeprefix(chr(8) + chr(10))}\n```" if part.startswith("\b") else part.replace("|", "\\|")
        for part in paragraphs
    ]
    return "\n\n".join(shown) + "\n"


def _argument(argument: click.Argument) -> str:
    name = argument.metavar or (argument.name or "").upper()
    name += "..." if argument.nargs != 1 and not name.endswith("...") else ""
    return name if argument.required or name.startswith("[") else f"[{name}]"


def _option(option: click.Option) -> tuple[str, str, str]:
    names = ", ".join([*option.opts, *option.secondary_opts])
    if not (option.is_flag or option.count):
        choices = "|".join(map(str, option.type.choices)) if isinstance(option.type, click.Choice) else ""
        names += f" {option.metavar or choices or option.type.name.upper()}"
    help_text = f"{option.help or ''} {_range(option.type)}".strip()
    if option.envvar and option.show_envvar:
        help_text += f" Also from {option.envvar}."
    return f"`{names}`", _default(option), help_text


def _default(option: click.Option) -> str:
    """What the help shows as default: nothing for a switch, words where the program has words for it."""
    if isinstance(option.show_default, str):
        return option.show_default
    is_plain = isinstance(option.default, str | int | float) and not isinstance(option.default, bool)
    return f"`{option.default}`" if option.show_default and is_plain else ""


def _range(kind: click.ParamType) -> str:
    """The bounds of a number, where it has any."""
    if not isinstance(kind, click.IntRange | click.FloatRange) or kind.min is None:
        return ""
    return f"From {kind.min}." if kind.max is None else f"{kind.min} to {kind.max}."


# Public names


def api_page() -> str:
    """Every public name but the errors, with its docstring."""
    names = [name for name in kafkalite.__all__ if not name.startswith("_") and not _is_error(name)]
    placed = {name for _, wanted in SECTIONS for name in wanted}
    sections = [*SECTIONS, ("More", tuple(sorted(set(names) - placed)))]
    parts = [
        f"""# Python

{MADE}
Everything public is a name of the package `kafkalite`; what is below it (`kafkalite.storage` and so on) is not, and
changes without notice. Errors have [a page of their own](errors.md), and so have [settings](settings.md). Calls take
`timeout=` in seconds, `None` for ever; timestamps are milliseconds since 1970 UTC."""
    ]
    for title, wanted in sections:
        there = [name for name in wanted if name in names]
        if there:
            parts += [f"## {title}\n", *map(_described, there)]
    parts.append(
        "## In tests\n\nThe pytest plugin, found by pytest itself, gives the fixture `kafkalite_store`: "
        "[test an application](../how-to/testing.md)."
    )
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _is_error(name: str) -> bool:
    value = getattr(kafkalite, name)
    return isinstance(value, type) and issubclass(value, errors.KafkaliteError)


def _described(name: str) -> str:
    value = getattr(kafkalite, name)
    if inspect.isclass(value):
        return _class(name, value)
    if inspect.isfunction(value):
        return _function(f"kafkalite.{name}", _definition(value), value)
    return f"### kafkalite.{name}\n\n{PLAIN_VALUES.get(name, '')}\n"


def _class(name: str, value: type) -> str:
    parts = [f"### kafkalite.{name}\n", f"{_docstring(value)}\n"]
    nodes: dict[str, list[Any]] = {}
    for base in reversed([base for base in value.__mro__ if base.__module__.startswith("kafkalite")]):
        for node in _definition(base).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                nodes.setdefault(node.name, []).append(node)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                nodes.setdefault(node.target.id, []).append(node)
    fields = [(key, found[-1]) for key, found in nodes.items() if isinstance(found[-1], ast.AnnAssign)]
    fields = [(key, node) for key, node in fields if not key.startswith("_")]
    if fields:
        parts.append(table(("field", "type"), *((f"`{key}`", f"`{ast.unparse(n.annotation)}`") for key, n in fields)))
    for key, found in nodes.items():
        if not key.startswith("_") and not isinstance(found[-1], ast.AnnAssign):
            parts.append(_function(f"{name}.{key}", _telling(found), inspect.getattr_static(value, key)))
    return "\n".join(parts)


def _telling(found: Sequence[Any]) -> Any:
    """Of overloads the one with the most parameters, the first of equals; else the function itself."""
    overloads = [node for node in found if any("overload" in ast.unparse(mark) for mark in node.decorator_list)]
    count: Callable[[Any], int] = lambda node: len(node.args.args) + len(node.args.kwonlyargs)  # noqa: E731
    return max(overloads, key=count) if overloads else found[-1]


def _function(name: str, node: Any, value: Any) -> str:
    if isinstance(value, property):
        kind = _unquoted(node.returns) if node.returns else "Any"
        return f"#### {name}\n\n```py\n{node.name}: {kind}\n```\n\n{_docstring(value.fget)}\n"
    level = "###" if name.startswith("kafkalite.") else "####"
    public = name.rpartition(".")[2]
    return f"{level} {name}\n\n```py\n{_signature(public, node)}\n```\n\n{_docstring(value)}\n"


def _signature(name: str, node: Any) -> str:
    """As it stands in the source, without `self`; one parameter a line where it is long."""
    arguments = node.args
    for group in (arguments.posonlyargs, arguments.args):
        group[:] = [one for one in group if one.arg not in ("self", "cls")]
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    for one in filter(None, every):
        if one.annotation is not None:
            one.annotation = ast.Name(_unquoted(one.annotation))
    returns = f" -> {_unquoted(node.returns)}" if node.returns else ""
    inside = DEFAULT.sub(r"\1 = ", ast.unparse(arguments).removeprefix("/, "))
    one_line = f"{name}({inside}){returns}"
    if len(one_line) <= WIDTH:
        return one_line
    return f"{name}(\n{textwrap.indent(_one_a_line(inside), '    ')}\n){returns}"


def _unquoted(annotation: ast.expr) -> str:
    """A type, whether or not the source quotes it because its module is imported later."""
    is_quoted = isinstance(annotation, ast.Constant) and isinstance(annotation.value, str)
    return annotation.value if is_quoted else ast.unparse(annotation)


def _one_a_line(inside: str) -> str:
    depth, lines, begin = 0, [], 0
    for place, letter in enumerate(inside):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            lines.append(inside[begin : place + 1].strip())
            begin = place + 1
    return "\n".join([*lines, inside[begin:].strip() + ","])


def _definition(value: Any) -> Any:
    return ast.parse(textwrap.dedent(inspect.getsource(value))).body[0]


def _docstring(value: Any) -> str:
    found = getattr(value, "__doc__", None)
    return inspect.cleandoc(found) if found else ""


def slug(heading: str) -> str:
    """The anchor of a heading, as Markdown's table of contents makes it."""
    kept = "".join(letter for letter in heading if letter.isalnum() or letter in " _-").strip().lower()
    return "-".join(kept.replace("-", " ").split())


PAGES = {
    "api.md": api_page,
    "commands.md": commands_page,
    "errors.md": errors_page,
    "limits.md": limits_page,
    "settings.md": settings_page,
}
