"""Settings: what a caller may give, in which form, and what the error says."""

from typing import Any, Literal, get_args, get_type_hints

import pytest

from kafkalite import config
from kafkalite.config import SETTINGS, ProducerSettings, Scope, StoreSettings, TopicSettings, given, resolved
from kafkalite.errors import ConfigError

SCOPES: tuple[Scope, ...] = get_args(Scope)
ROWS = [row for scope in SCOPES for row in SETTINGS[scope].values()]


def refusal(scope: Scope, settings: dict[str, Any], dotted: dict[str, Any] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        given(scope, settings, dotted)
    return str(caught.value)


def test_nothing_given_is_nothing_checked_and_all_defaults_resolved() -> None:
    assert given("producer", {}) == {}
    assert resolved("producer", {}) == config.defaults("producer")
    assert resolved("producer", {})["linger_ms"] == 5.0


def test_what_is_given_overlays_the_defaults_only() -> None:
    settings = resolved("topic", {"retention_ms": 1000}, {"max.message.bytes": 5})
    assert settings["retention_ms"] == 1000
    assert settings["max_message_bytes"] == 5
    assert settings["retention_bytes"] == -1
    assert set(settings) == set(SETTINGS["topic"])


def test_resolving_does_not_change_the_callers_mappings() -> None:
    settings, dotted = {"linger_ms": 1}, {"batch.size": 7}
    resolved("producer", settings, dotted)
    assert (settings, dotted) == ({"linger_ms": 1}, {"batch.size": 7})


def test_both_forms_name_the_same_setting() -> None:
    assert given("producer", {"linger_ms": 20}) == given("producer", {}, {"linger.ms": 20})


@pytest.mark.parametrize("dotted", ["linger.ms", "linger_ms"])
def test_both_forms_at_once_are_refused_even_when_they_agree(dotted: str) -> None:
    message = refusal("producer", {"linger_ms": 5}, {dotted: 5})
    assert "given twice" in message
    assert dotted in message
    assert "linger_ms" in message


@pytest.mark.parametrize(
    ("scope", "wrong", "right"),
    [
        ("producer", "linger_mss", "linger_ms"),
        ("producer", "batchsize", "batch_size"),
        ("producer", "compresion_type", "compression_type"),
        ("topic", "retention", "retention_ms"),
        ("topic", "max_message_byte", "max_message_bytes"),
        ("store", "segment_byte", "segment_bytes"),
    ],
)
def test_an_unknown_setting_asks_did_you_mean(scope: Scope, wrong: str, right: str) -> None:
    message = refusal(scope, {wrong: 1})
    assert f"unknown {scope} setting {wrong!r}" in message
    assert f"did you mean {right!r}?" in message


def test_an_unknown_dotted_setting_is_shown_as_it_was_given() -> None:
    assert "'linger.mss'" in refusal("producer", {}, {"linger.mss": 1})


def test_a_setting_like_no_other_gets_the_list() -> None:
    message = refusal("store", {"zzz": 1})
    assert all(name in message for name in SETTINGS["store"])


def test_a_setting_of_another_scope_is_unknown() -> None:
    assert "unknown topic setting 'linger_ms'" in refusal("topic", {"linger_ms": 1})


@pytest.mark.parametrize(
    ("scope", "name", "value"),
    [
        ("producer", "batch_size", None),
        ("producer", "batch_size", "many"),
        ("producer", "batch_size", "1.5"),
        ("producer", "batch_size", 1.5),
        ("producer", "batch_size", True),
        ("producer", "batch_size", b"1"),
        ("producer", "batch_size", [1]),
        ("producer", "linger_ms", True),
        ("producer", "linger_ms", "soon"),
        ("producer", "enable_idempotence", 1),
        ("producer", "enable_idempotence", "yes"),
        ("producer", "enable_idempotence", ""),
        ("producer", "compression_type", 4),
        ("producer", "compression_type", None),
        ("topic", "cleanup_policy", ["compact"]),
        ("store", "durability", b"commit"),
    ],
)
def test_a_wrong_type_is_named_with_value_and_what_is_right(scope: Scope, name: str, value: Any) -> None:
    message = refusal(scope, {name: value})
    assert message.startswith(f"{name}={value!r} has the wrong type")
    assert SETTINGS[scope][name].type.__name__ in message


@pytest.mark.parametrize(
    ("scope", "name", "value"),
    [
        ("topic", "retention_ms", -2),
        ("topic", "retention_ms", 2**63),
        ("topic", "max_message_bytes", -1),
        ("topic", "max_message_bytes", 2**29 + 1),
        ("producer", "linger_ms", -0.1),
        ("producer", "linger_ms", float("nan")),
        ("producer", "linger_ms", float("inf")),
        ("producer", "linger_ms", "nan"),
        ("producer", "buffer_memory", 0),
        ("store", "segment_bytes", 512 * 1024 - 1),
        ("store", "flush_interval_ms", 0),
    ],
)
def test_a_number_out_of_range_is_named_with_the_range(scope: Scope, name: str, value: Any) -> None:
    message = refusal(scope, {name: value})
    least, greatest = SETTINGS[scope][name].valid
    assert message.startswith(f"{name}=")
    assert f"out of range: give {least} to {greatest}" in message


@pytest.mark.parametrize("row", [row for row in ROWS if row.type in (int, float)], ids=lambda row: row.name)
def test_the_ends_of_every_range_are_valid_and_what_is_beyond_is_not(row: config.Setting) -> None:
    least, greatest = row.valid
    assert (row.check(least), row.check(greatest)) == (least, greatest)
    for beyond in (least - 1, greatest + 1):
        with pytest.raises(ConfigError, match="out of range"):
            row.check(beyond)


@pytest.mark.parametrize(
    ("scope", "name", "value"),
    [
        ("producer", "compression_type", "lz4"),
        ("producer", "compression_type", "ZSTD"),
        ("producer", "partitioner", "random"),
        ("producer", "acks", 2),
        ("producer", "acks", "none"),
        ("producer", "acks", None),
        ("topic", "cleanup_policy", "delete,compact"),
        ("store", "durability", ""),
    ],
)
def test_a_value_that_is_no_choice_is_named_with_the_choices(scope: Scope, name: str, value: Any) -> None:
    message = refusal(scope, {name: value})
    assert message.startswith(f"{name}={value!r} is not valid")
    assert all(repr(choice) in message for choice in SETTINGS[scope][name].valid)


@pytest.mark.parametrize(("text", "value"), [("true", True), ("True", True), ("FALSE", False), ("false", False)])
def test_a_bool_may_be_written_as_kafkas_files_write_it(text: str, value: bool) -> None:
    assert given("producer", {}, {"enable.idempotence": text}) == {"enable_idempotence": value}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("batch_size", "16384", 16384),
        ("linger_ms", "2.5", 2.5),
        ("linger_ms", "3", 3.0),
        ("linger_ms", 3, 3.0),
    ],
)
def test_a_number_may_be_written_as_text_and_comes_in_its_type(name: str, text: Any, value: float) -> None:
    checked = given("producer", {name: text})[name]
    assert checked == value
    assert type(checked) is type(value)


@pytest.mark.parametrize("acks", ["all", "-1", "1", "0", -1, 1, 0])
def test_acks_takes_kafkas_forms(acks: Any) -> None:
    assert given("producer", {"acks": acks}) == {"acks": acks}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.scope}-{row.name}")
def test_every_row_is_complete_and_its_default_valid(row: config.Setting) -> None:
    assert row.check(row.default) == row.default
    assert type(row.check(row.default)) is type(row.default)
    assert row.meaning.endswith(".")
    assert row.name == row.name.lower()
    assert "." not in row.name
    assert SETTINGS[row.scope][row.name] is row


def test_the_tables_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        SETTINGS["store"] = {}  # type: ignore[index]
    with pytest.raises(TypeError):
        SETTINGS["store"]["more"] = ROWS[0]  # type: ignore[index]


@pytest.mark.parametrize(
    ("scope", "typed", "apart"),
    [
        ("store", StoreSettings, {"durability"}),  # a parameter of its own
        ("topic", TopicSettings, set()),
        ("producer", ProducerSettings, set()),
    ],
)
def test_the_typed_settings_are_the_tables_rows(scope: Scope, typed: type, apart: set[str]) -> None:
    hints = get_type_hints(typed)
    assert set(hints) | apart == set(SETTINGS[scope])
    for name, hint in hints.items():
        row = SETTINGS[scope][name]
        if hint in (int, float, bool, str):
            assert row.type is hint
        elif hint == str | None:
            assert (row.type, row.default) == (object, None)
        else:
            assert hint == Literal[get_args(hint)]
            assert set(get_args(hint)) <= set(row.valid)
