r"""Formats of records, as rpk writes them: what `consume -f` prints, and what `produce -f` reads.

    %t topic   %p partition   %o offset   %d timestamp   %k key   %v value   %h headers
    %T %K %V   length of topic, key, value in bytes      %H number of headers
    %i         how many records were printed before      %%  %{  %}  these characters
    \t \n \r \\ \xNN                                      characters that are hard to type

Modifiers stand in braces behind the letter:

    %v{hex} %v{base64} %v{json}       text of keys and values; {json} is a JSON string
    %o{big8} %K{big4} {big2} {byte}   a number as big-endian bytes; {hex} as hexadecimal digits
    %d{iso}  %d{strftime[%F %T]}      a timestamp as text, in UTC; without, ms since 1970
    %h{%k=%v;}                        a format for each header; without, k=v,k=v

Values are bytes and go out as they are, unless a modifier says otherwise. A null is nothing, or what `nulls` says.

Read, a format is a line of fields and what stands between them: `%k\t%v` splits each line at its first tab. What
stands behind the last field ends a record; a newline, when nothing does.
"""

import base64
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from kafkalite import Record
from kafkalite.cli.output import moment

_TOKEN: Final = re.compile(
    r"(?s)%(?P<escape>[%{}])|%(?P<field>[A-Za-z])(?:\{(?P<modifier>(?:%h|[^{}])*)\})?|\\x(?P<hex>[0-9A-Fa-f]{2})"
    r"|\\(?P<slash>[tnr\\0])|(?P<text>[^%\\]+)|(?P<bad>.)"
)
_SLASHES: Final = {"t": b"\t", "n": b"\n", "r": b"\r", "\\": b"\\", "0": b"\0"}
_NUMBER_SIZES: Final = {"big8": 8, "big4": 4, "big2": 2, "byte": 1}
_STRFTIME: Final = re.compile(r"strftime\[(.*)\]")

RawRecord = Record[Any, Any]
Printer = Callable[[RawRecord, int], bytes]
"""Makes the bytes of a record, the second argument being how many came before."""


class FormatError(ValueError):
    """A format that cannot be used, or a line that does not fit it; the message says why."""


class Field(NamedTuple):
    """A percent escape."""

    letter: str
    modifier: str | None


Part = bytes | Field


def parse(text: str) -> list[Part]:
    """A format as literal bytes and fields; raises `FormatError`."""
    parts: list[Part] = []
    for found in _TOKEN.finditer(text):
        if found["field"]:
            parts.append(Field(found["field"], found["modifier"]))
            continue
        if found["bad"]:
            raise FormatError(
                f"format {text!r}: {text[found.start() :][:4]!r} means nothing; write %% or \\\\ for itself"
            )
        literal = _literal(found)
        if parts and isinstance(parts[-1], bytes):
            literal = parts.pop() + literal  # type: ignore[operator]
        parts.append(literal)
    return parts


def _literal(found: re.Match[str]) -> bytes:
    if found["hex"]:
        return bytes.fromhex(found["hex"])
    if found["slash"]:
        return _SLASHES[found["slash"]]
    return (found["escape"] or found["text"]).encode()


# Printing


def printer(text: str, nulls: bytes = b"") -> Printer:
    """A call that makes the bytes of a record by a format; raises `FormatError`."""
    steps = [_step(part, nulls) for part in parse(text)]
    return lambda record, number: b"".join([step(record, number) for step in steps])


def _step(part: Part, nulls: bytes) -> Printer:
    if isinstance(part, bytes):
        return lambda _, __: part
    numbers: dict[str, Callable[[RawRecord, int], int]] = {
        "p": lambda record, _: record.partition,
        "o": lambda record, _: record.offset,
        "i": lambda _, number: number,
        "T": lambda record, _: len(record.topic.encode()),
        "K": lambda record, _: len(record.key or b""),
        "V": lambda record, _: len(record.value or b""),
        "H": lambda record, _: len(record.headers),
    }
    if part.letter in numbers:
        take, number_text = numbers[part.letter], _number(part)
        return lambda record, number: number_text(take(record, number))
    if part.letter == "d":
        time_text = _time(part)
        return lambda record, _: time_text(record.timestamp_ms)
    if part.letter == "h":
        return _headers(part, nulls)
    texts: dict[str, Callable[[RawRecord], bytes | None]] = {
        "t": lambda record: record.topic.encode(),
        "k": lambda record: record.key,
        "v": lambda record: record.value,
    }
    if part.letter not in texts:
        raise FormatError(f"%{part.letter} is no field: there are %t %p %o %d %k %v %h, %T %K %V %H and %i")
    value, shown = texts[part.letter], _text(part)
    return lambda record, _: nulls if (data := value(record)) is None else shown(data)


def _number(part: Field) -> Callable[[int], bytes]:
    size = _NUMBER_SIZES.get(part.modifier or "")
    if size:
        most = 1 << (8 * size)
        return lambda number: (number % most).to_bytes(size, "big")
    if part.modifier in (None, "ascii"):
        return lambda number: str(number).encode()
    if part.modifier == "hex":
        return lambda number: f"{number:x}".encode()
    raise FormatError(f"%{part.letter}{{{part.modifier}}}: a number can be ascii, hex, {', '.join(_NUMBER_SIZES)}")


def _time(part: Field) -> Callable[[int], bytes]:
    if part.modifier == "iso":
        return lambda stamp: moment(stamp).encode()
    found = _STRFTIME.fullmatch(part.modifier or "")
    if found:
        pattern = found[1]
        return lambda stamp: datetime.fromtimestamp(stamp / 1000, UTC).strftime(pattern).encode()
    if part.modifier in _NUMBER_SIZES or part.modifier in (None, "ascii", "hex"):
        return _number(part)
    raise FormatError(f"%d{{{part.modifier}}}: a timestamp can be iso, strftime[%F %T], big8, or ms without a modifier")


def _text(part: Field) -> Callable[[bytes], bytes]:
    shapes: dict[str | None, Callable[[bytes], bytes]] = {
        None: bytes,
        "hex": lambda data: data.hex().encode(),
        "base64": base64.b64encode,
        "json": lambda data: json.dumps(data.decode("utf-8", "backslashreplace"), ensure_ascii=False).encode(),
    }
    if part.modifier not in shapes:
        raise FormatError(f"%{part.letter}{{{part.modifier}}}: text can be hex, base64, json, or as it is")
    return shapes[part.modifier]


def _headers(part: Field, nulls: bytes) -> Printer:
    """Each header by its own format; without one, k=v with commas between."""
    inner = parse("%k=%v" if part.modifier is None else part.modifier)
    if any(isinstance(each, Field) and each.letter not in "kv" for each in inner):
        raise FormatError(f"%h{{{part.modifier}}}: a header has %k and %v only")
    between = b"," if part.modifier is None else b""
    one = [_step(each, nulls) for each in inner]

    def text(record: RawRecord, number: int) -> bytes:
        as_records = [record._replace(key=name.encode(), value=value) for name, value in record.headers]
        return between.join(b"".join([step(each, number) for step in one]) for each in as_records)

    return text


# Reading


class Line(NamedTuple):
    """What a line says of a record: None where it does not say."""

    value: bytes | None = None
    key: bytes | None = None
    partition: int | None = None
    topic: str | None = None
    timestamp_ms: int | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()


class LineFormat:
    """A format to read lines by. `end` is what ends a record."""

    def __init__(self, text: str) -> None:
        parts = parse(text)
        self.end = b"\n"
        if len(parts) > 1 and isinstance(parts[-1], bytes):
            self.end = parts.pop()  # type: ignore[assignment]
        self._fields: list[tuple[str, Callable[[bytes], Any]]] = []
        self._before: list[bytes] = []
        literal = b""
        for part in parts:
            if isinstance(part, bytes):
                literal = part
                continue
            if self._fields and not literal:
                raise FormatError(f"format {text!r}: two fields with nothing between them cannot be told apart")
            self._before.append(literal)
            self._fields.append((_NAMES.get(part.letter, ""), _decoder(part)))
            literal = b""
        names = [name for name, _ in self._fields]
        if not names or len(set(names)) < len(names):
            raise FormatError(f"format {text!r}: name each of %v %k %p %t %d %h at most once, and one at least")

    def read(self, line: bytes) -> Line:
        """The record that a line, without its end, says; raises `FormatError`."""
        return Line(**{name: decode(text) for (name, decode), text in zip(self._fields, self._cut(line), strict=True)})

    def _cut(self, line: bytes) -> Iterator[bytes]:
        first = self._before[0]
        if not line.startswith(first):
            raise FormatError(f"it does not begin with {first.decode('utf-8', 'backslashreplace')!r}")
        rest = line[len(first) :]
        for separator in self._before[1:]:
            text, found, rest = rest.partition(separator)
            if not found:
                raise FormatError(f"there is no {separator.decode('utf-8', 'backslashreplace')!r} in it")
            yield text
        yield rest


_NAMES: Final = {"v": "value", "k": "key", "p": "partition", "t": "topic", "d": "timestamp_ms", "h": "headers"}


def _decoder(part: Field) -> Callable[[bytes], Any]:
    if part.letter in "kv" and part.modifier in _DECODERS:
        return _DECODERS[part.modifier]
    plain = {"t": _utf8, "p": _whole_number, "d": _whole_number, "h": _header_list}
    if part.letter in plain and part.modifier is None:
        return plain[part.letter]
    shown = f"%{part.letter}" + (f"{{{part.modifier}}}" if part.modifier is not None else "")
    raise FormatError(f"{shown} cannot be read: there are %k %v (and {{hex}}, {{base64}}), %t %p %d %h")


def _unhex(text: bytes) -> bytes:
    try:
        return bytes.fromhex(text.decode("ascii"))
    except ValueError:
        raise FormatError(f"{_shown(text)} is not hexadecimal") from None


def unbase64(text: bytes | str) -> bytes:
    """Bytes from base64; raises `FormatError`."""
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError):  # binascii's is a ValueError
        raise FormatError(f"{str(text)[:40]!r} is not base64") from None


_DECODERS: Final[dict[str | None, Callable[[bytes], bytes]]] = {None: bytes, "hex": _unhex, "base64": unbase64}


def _whole_number(text: bytes) -> int:
    try:
        return int(text)
    except ValueError:
        raise FormatError(f"{_shown(text)} is not a whole number") from None


def _utf8(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise FormatError(f"{_shown(text)} is not UTF-8") from None


def _header_list(text: bytes) -> tuple[tuple[str, bytes | None], ...]:
    return tuple(header(_utf8(pair)) for pair in text.split(b",") if pair)


def header(text: str) -> tuple[str, bytes | None]:
    """A header written k=v (or k:v); without a separator its value is null; raises `FormatError`."""
    found = re.fullmatch(r"(?s)([^=:]+)(?:[=:](.*))?", text)
    if not found:
        raise FormatError(f"{text!r} is not a header: write name=value")
    return found[1], None if found[2] is None else found[2].encode()


def _shown(text: bytes) -> str:
    return repr(text[:40].decode("utf-8", "backslashreplace"))


# JSON lines

_MEMBERS: Final = {
    *("key", "key_base64", "value", "value_base64", "headers", "partition", "topic", "timestamp_ms", "offset"),
}


def read_json(line: bytes) -> Line:
    """A record from the object that `consume --json` prints; raises `FormatError`.

    `value` and `key` are strings, null, or any other JSON, which is sent as it is written compactly; `…_base64` are
    bytes. Its topic, partition and offset do not count: it goes where the command and its key say.
    """
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"it is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise FormatError('it is not a JSON object: write {"key": …, "value": …}')
    if unknown := sorted(set(found) - _MEMBERS):
        raise FormatError(f"it has the unknown member {unknown[0]!r}: there are {', '.join(sorted(_MEMBERS))}")
    return Line(
        _json_bytes(found, "value"),
        _json_bytes(found, "key"),
        timestamp_ms=_json_is(found, "timestamp_ms", int),
        headers=tuple(_json_header(each) for each in _json_is(found, "headers", list) or ()),
    )


def _json_bytes(members: dict[str, Any], name: str) -> bytes | None:
    coded = members.get(f"{name}_base64")
    if coded is not None:
        return unbase64(coded)
    value = members.get(name)
    if value is None or isinstance(value, str):
        return None if value is None else value.encode("utf-8", "surrogatepass")
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _json_is(members: dict[str, Any], name: str, kind: type) -> Any:
    value = members.get(name)
    if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
        raise FormatError(f"its {name} is {value!r}, not {kind.__name__}")
    return value


def _json_header(member: Any) -> tuple[str, bytes | None]:
    if not isinstance(member, dict) or not isinstance(member.get("key"), str):
        raise FormatError('a header is written {"key": "name", "value": …}')
    return member["key"], _json_bytes(member, "value")


def delimited(text: str) -> bytes:
    r"""A delimiter as written on the command line, where \t and the like are one character; raises `FormatError`."""
    parts = parse(text.replace("%", "%%"))
    if len(parts) != 1 or not isinstance(parts[0], bytes):
        raise FormatError(f"{text!r} is not a delimiter")
    return parts[0]
