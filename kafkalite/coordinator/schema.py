"""Kafka's message schemas as data, and the one codec that reads and writes what they describe.

A schema is a tuple of `Field`s, each with a type and the versions that have it, as Kafka's JSON files say it. Numbers
are big-endian. A version is fixed or flexible (KIP-482), which decides how lengths are written, not what they count:

    type                        fixed                     flexible
    int8 … int64, uuid          as they are               the same
    string                      length i16, null -1       varint of length + 1, null 0
    bytes, array                length i32, null -1       varint of length + 1, null 0
    struct                      its fields                its fields, then its tagged fields
    tagged fields               none                      varint count, then varint tag, varint size, field: each

A varint is unsigned, seven bits a byte, the lowest first. Tagged fields are written only when they are not at their
default, so a reader that does not know one passes over it by its size: that is how Kafka extends records.

Reading trusts nothing: whatever the bytes are, a value or a `ValueError` comes out, and no more is allocated than a
small multiple of the bytes that are there, since every element of an array takes at least one. The loser was Kafka's
way, code generated per schema: faster, and ten thousand lines. What is hot has its own encoder beside its schema.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from struct import Struct
from typing import Any, ClassVar, Final, NamedTuple, Protocol

from kafkalite.errors import ConfigError
from kafkalite.model import INTERNAL_TOPICS

MAX_STRING_SIZE: Final = 0x7FFF
"""Bytes of UTF-8; Kafka refuses to read a longer one, in flexible versions too."""
MAX_VARINT_SIZE: Final = 5
UUID_SIZE: Final = 16
ALWAYS: Final = (0, 0x7FFF)
CONSUMER_OFFSETS: Final = INTERNAL_TOPICS.index("__consumer_offsets")
TRANSACTION_STATE: Final = INTERNAL_TOPICS.index("__transaction_state")
SHARE_GROUP_STATE: Final = INTERNAL_TOPICS.index("__share_group_state")
I16: Final = Struct(">h")
I32: Final = Struct(">i")


class Form(NamedTuple):
    """How a schema is written: its version, and whether that is a flexible one."""

    version: int
    is_flexible: bool


KEY_FORM: Final = Form(0, is_flexible=False)
VERSION: Final = I16
"""What keys and values begin with: a key with its kind, a value with its version."""


class Wire:
    """Bytes being read: `at` is the next one."""

    __slots__ = ("at", "form", "raw")

    def __init__(self, raw: bytes, at: int, form: Form) -> None:
        self.raw = raw
        self.at = at
        self.form = form

    def take(self, size: int) -> bytes:
        """The next `size` bytes; `ValueError` if there are fewer."""
        at, end = self.at, self.at + size
        if end > len(self.raw):
            raise ValueError(f"{size} bytes are announced at byte {at}, and {len(self.raw) - at} are there")
        self.at = end
        return self.raw[at:end]

    def varint(self) -> int:
        """An unsigned varint of 32 bits; `ValueError` if it is longer."""
        value = 0
        for shift in range(0, 7 * MAX_VARINT_SIZE, 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise ValueError(f"the varint that ends at byte {self.at} has more than {MAX_VARINT_SIZE} bytes")

    def length(self, fixed: Struct) -> int | None:
        """A length, in the form's own way; None is null. Never more than the bytes that are left."""
        if self.form.is_flexible:
            length = self.varint() - 1
        else:
            (length,) = fixed.unpack(self.take(fixed.size))
        if length == -1:
            return None
        if not 0 <= length <= len(self.raw) - self.at:
            raise ValueError(f"the length {length} before byte {self.at} exceeds the {len(self.raw)} bytes there are")
        return int(length)


class Type(Protocol):
    """What a field may be."""

    def write(self, out: bytearray, value: Any, form: Form) -> None:
        """Append the value."""

    def read(self, wire: Wire) -> Any:
        """Take a value; `ValueError` if there is none."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field: the attribute it is on the Python side, its type, the versions (first, last) that have it.

    `default` is its value in versions that do not. With a `tag` it is a tagged field of those versions.
    """

    name: str
    type: Type
    versions: tuple[int, int] = ALWAYS
    default: Any = None
    tag: int | None = None

    def is_in(self, version: int) -> bool:
        """Whether this version has the field."""
        first, last = self.versions
        return first <= version <= last


def write(fields: tuple[Field, ...], value: object, form: Form, out: bytearray) -> None:
    """Append the attributes of `value` that `fields` name.

    Raises `ConfigError` for a string that no record of Kafka's can hold; a number out of range is an `AssertionError`.
    """
    tagged = []
    for field in fields:
        if not field.is_in(form.version):
            continue
        content = getattr(value, field.name)
        if field.tag is None:
            field.type.write(out, content, form)
        elif content != field.default:
            tagged.append((field.tag, field.type, content))
    if form.is_flexible:
        put_varint(out, len(tagged))
        for tag, kind, content in sorted(tagged, key=lambda entry: entry[0]):
            inner = bytearray()
            kind.write(inner, content, form)
            put_varint(out, tag)
            put_varint(out, len(inner))
            out += inner


def read(fields: tuple[Field, ...], wire: Wire) -> dict[str, Any]:
    """The fields' values by name, defaults for those that are not there; `ValueError` for other bytes."""
    version = wire.form.version
    values = {
        field.name: field.type.read(wire) if field.tag is None and field.is_in(version) else field.default
        for field in fields
    }
    if wire.form.is_flexible:
        for _ in range(wire.varint()):
            tag, content = wire.varint(), wire.take(wire.varint())
            field = next((field for field in fields if field.tag == tag and field.is_in(version)), None)
            if field:
                values[field.name] = _read_whole(field.type, content, wire.form)
    return values


def _read_whole(kind: Type, raw: bytes, form: Form) -> Any:
    inner = Wire(raw, 0, form)
    value = kind.read(inner)
    expect_end(inner)
    return value


def expect_end(wire: Wire) -> None:
    """`ValueError` if bytes are left."""
    if wire.at != len(wire.raw):
        raise ValueError(f"{len(wire.raw) - wire.at} bytes are left over at byte {wire.at}")


def put_varint(out: bytearray, value: int) -> None:
    """Append an unsigned varint."""
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def put_length(out: bytearray, length: int | None, form: Form, fixed: Struct) -> None:
    """Append a length, in the form's own way; None is null."""
    if form.is_flexible:
        put_varint(out, 0 if length is None else length + 1)
    else:
        out += fixed.pack(-1 if length is None else length)


def utf8(text: str) -> bytes:
    """The bytes of a string field; `ConfigError` for what no record of Kafka's can hold."""
    try:
        raw = text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"the text {text[:80]!r} has half of a surrogate pair: give text that is Unicode") from error
    if len(raw) > MAX_STRING_SIZE:
        raise ConfigError(
            f"the text {text[:80]!r}… has {len(raw)} bytes in UTF-8, and Kafka's records hold at most"
            f" {MAX_STRING_SIZE}: shorten it"
        )
    return raw


# Records


@dataclass(frozen=True, slots=True)
class Schema:
    """What the records of one kind look like; values of versions 0 to `version`, from `flexible` on flexible ones."""

    log_id: int
    kind: int
    key: tuple[Field, ...]
    value: tuple[Field, ...]
    version: int = 0
    flexible: int = 0

    def form(self, version: int) -> Form:
        """How a value of this version is written."""
        return Form(version, version >= self.flexible)


class Record:
    """One record of an internal log. `SCHEMA` says how it is written."""

    __slots__ = ()
    SCHEMA: ClassVar[Schema]

    def key(self) -> bytes:
        """The record's key; raises `ConfigError` for a text that no key can hold."""
        out = bytearray(VERSION.pack(self.SCHEMA.kind))
        write(self.SCHEMA.key, self, KEY_FORM, out)
        return bytes(out)

    def value(self) -> bytes:
        """The record's value in the newest version; raises `ConfigError` for a text that none can hold."""
        return encode_value(self, self.SCHEMA.version)


def encode_value(record: Record, version: int) -> bytes:
    """The value of a record in one version; what that version cannot say is left out."""
    out = bytearray(VERSION.pack(version))
    write(record.SCHEMA.value, record, record.SCHEMA.form(version), out)
    return bytes(out)


# Types


@dataclass(frozen=True, slots=True)
class _Fixed:
    """A number, by `struct` format."""

    layout: Struct

    def write(self, out: bytearray, value: Any, form: Form) -> None:  # noqa: ARG002 (the same in every form)
        try:
            out += self.layout.pack(value)
        except struct.error as error:
            raise AssertionError(f"{value!r} does not fit {self.layout.format}") from error

    def read(self, wire: Wire) -> Any:
        return self.layout.unpack(wire.take(self.layout.size))[0]


@dataclass(frozen=True, slots=True)
class _Uuid:
    def write(self, out: bytearray, value: Any, form: Form) -> None:  # noqa: ARG002 (the same in every form)
        assert len(value) == UUID_SIZE, f"{value!r} is no UUID of {UUID_SIZE} bytes"
        out += value

    def read(self, wire: Wire) -> bytes:
        return wire.take(UUID_SIZE)


@dataclass(frozen=True, slots=True)
class _Nullable:
    """A length that may be null, before the rest."""

    fixed: Struct
    is_nullable: bool

    def put(self, out: bytearray, length: int | None, form: Form) -> None:
        assert length is not None or self.is_nullable, "the field is never null"
        put_length(out, length, form, self.fixed)

    def take(self, wire: Wire) -> int | None:
        length = wire.length(self.fixed)
        if length is None and not self.is_nullable:
            raise ValueError(f"null before byte {wire.at}, in a field that is never null")
        return length


@dataclass(frozen=True, slots=True)
class _String:
    length: _Nullable

    def write(self, out: bytearray, value: Any, form: Form) -> None:
        raw = None if value is None else utf8(value)
        self.length.put(out, None if raw is None else len(raw), form)
        out += raw or b""

    def read(self, wire: Wire) -> str | None:
        length = self.length.take(wire)
        if length is None:
            return None
        if length > MAX_STRING_SIZE:
            raise ValueError(f"the string at byte {wire.at} has {length} bytes, more than {MAX_STRING_SIZE}")
        return wire.take(length).decode()


@dataclass(frozen=True, slots=True)
class _Bytes:
    length: _Nullable

    def write(self, out: bytearray, value: Any, form: Form) -> None:
        self.length.put(out, len(value), form)
        out += value

    def read(self, wire: Wire) -> bytes:
        return wire.take(self.length.take(wire) or 0)


@dataclass(frozen=True, slots=True)
class _Integers:
    """An array of int32, in one piece."""

    length: _Nullable

    def write(self, out: bytearray, value: Any, form: Form) -> None:
        self.length.put(out, len(value), form)
        try:
            out += struct.pack(f">{len(value)}i", *value)
        except struct.error as error:
            raise AssertionError(f"{value!r} are no numbers of 32 bits") from error

    def read(self, wire: Wire) -> tuple[int, ...]:
        count = self.length.take(wire) or 0
        return struct.unpack(f">{count}i", wire.take(I32.size * count))


@dataclass(frozen=True, slots=True)
class _Array:
    """An array of anything, a tuple in Python."""

    item: Type
    length: _Nullable

    def write(self, out: bytearray, value: Any, form: Form) -> None:
        self.length.put(out, None if value is None else len(value), form)
        for item in value or ():
            self.item.write(out, item, form)

    def read(self, wire: Wire) -> tuple[Any, ...] | None:
        count = self.length.take(wire)
        return None if count is None else tuple(self.item.read(wire) for _ in range(count))


@dataclass(frozen=True, slots=True)
class _StructType:
    """Fields of their own, made into one value."""

    make: Callable[..., Any]
    fields: tuple[Field, ...]

    def write(self, out: bytearray, value: Any, form: Form) -> None:
        write(self.fields, value, form, out)

    def read(self, wire: Wire) -> Any:
        return self.make(**read(self.fields, wire))


@dataclass(frozen=True, slots=True)
class _Optional:
    """A struct that may be null: an int8 before it says so, negative for null."""

    of: Type

    def write(self, out: bytearray, value: Any, form: Form) -> None:
        INT8.write(out, -1 if value is None else 1, form)
        if value is not None:
            self.of.write(out, value, form)

    def read(self, wire: Wire) -> Any:
        return None if INT8.read(wire) < 0 else self.of.read(wire)


class _Entry(NamedTuple):
    """An element of an array that is a mapping in Python."""

    name: Any
    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Mapping:
    """An array of (name, array of int32), in Python a dict; a name that comes twice is refused, as Kafka does."""

    array: _Array

    def write(self, out: bytearray, value: Any, form: Form) -> None:
        self.array.write(out, None if value is None else [_Entry(*item) for item in value.items()], form)

    def read(self, wire: Wire) -> Mapping[Any, tuple[int, ...]] | None:
        entries = self.array.read(wire)
        if entries is None:
            return None
        mapping = dict(entries)
        if len(mapping) < len(entries):
            raise ValueError(f"a topic comes twice in the array before byte {wire.at}")
        return mapping


INT8: Final = _Fixed(Struct(">b"))
INT16: Final = _Fixed(I16)
INT32: Final = _Fixed(I32)
INT64: Final = _Fixed(Struct(">q"))
UUID: Final = _Uuid()
STRING: Final = _String(_Nullable(I16, is_nullable=False))
NULLABLE_STRING: Final = _String(_Nullable(I16, is_nullable=True))
BYTES: Final = _Bytes(_Nullable(I32, is_nullable=False))
INT32S: Final = _Integers(_Nullable(I32, is_nullable=False))


def array(item: Type) -> Type:
    """An array, never null; a tuple in Python."""
    return _Array(item, _Nullable(I32, is_nullable=False))


def structure(make: Callable[..., Any], *fields: Field) -> Type:
    """A struct; `make` is given the fields by name and has them as attributes."""
    return _StructType(make, fields)


def optional(of: Type) -> Type:
    """A struct that may be null."""
    return _Optional(of)


def numbers_by(name: Type, *, is_nullable: bool = False) -> Type:
    """An array of structs (name, array of int32): a dict of tuples in Python."""
    entry = structure(_Entry, Field("name", name), Field("numbers", INT32S))
    return _Mapping(_Array(entry, _Nullable(I32, is_nullable)))
