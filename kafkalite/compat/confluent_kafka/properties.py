"""THE table of librdkafka's configuration properties, and what a client makes of the ones it is given.

    name | C, P or * (both) | type | range or choices | default | the property it is an alias of

A property of the table is checked as librdkafka checks it and otherwise only matters where `producer`, `consumer` or
`admin` ask for it: sockets, TLS and SASL mean nothing in process. What is not in the table is refused, as there.
Beside them stand the properties that Python adds: callbacks, `logger`, and `default.topic.config`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal

from kafkalite.compat.confluent_kafka.kafka_error import Code, KafkaError, KafkaException

Client = Literal["producer", "consumer", "admin client"]

TABLE: Final = """
builtin.features | * | flags
client.id | * | string |  | rdkafka
metadata.broker.list | * | string
bootstrap.servers | * | string |  |  | metadata.broker.list
message.max.bytes | * | int | 1000..1000000000 | 1000000
message.copy.max.bytes | * | int | 0..1000000000 | 65535
receive.message.max.bytes | * | int | 1000..2147483647 | 100000000
max.in.flight.requests.per.connection | * | int | 1..1000000 | 1000000
max.in.flight | * | int | 1..1000000 | 1000000 | max.in.flight.requests.per.connection
metadata.recovery.strategy | * | enum | none, rebootstrap | rebootstrap
metadata.recovery.rebootstrap.trigger.ms | * | int | 0..2147483647 | 300000
topic.metadata.refresh.interval.ms | * | int | -1..3600000 | 300000
metadata.max.age.ms | * | int | 1..86400000 | 900000
topic.metadata.refresh.fast.interval.ms | * | int | 1..60000 | 100
topic.metadata.refresh.fast.cnt | * | int | 0..1000 | 10
topic.metadata.refresh.sparse | * | bool |  | true
topic.metadata.propagation.max.ms | * | int | 0..3600000 | 30000
topic.blacklist | * | string
debug | * | flags
socket.timeout.ms | * | int | 10..300000 | 60000
socket.blocking.max.ms | * | int | 1..60000 | 1000
socket.send.buffer.bytes | * | int | 0..100000000 | 0
socket.receive.buffer.bytes | * | int | 0..100000000 | 0
socket.keepalive.enable | * | bool |  | false
socket.nagle.disable | * | bool |  | true
socket.max.fails | * | int | 0..1000000 | 1
broker.address.ttl | * | int | 0..86400000 | 1000
broker.address.family | * | enum | any, v4, v6 | any
socket.connection.setup.timeout.ms | * | int | 1000..2147483647 | 30000
connections.max.idle.ms | * | int | 0..2147483647 | 0
reconnect.backoff.jitter.ms | * | int | 0..3600000 | 0
reconnect.backoff.ms | * | int | 0..3600000 | 100
reconnect.backoff.max.ms | * | int | 0..3600000 | 10000
statistics.interval.ms | * | int | 0..86400000 | 0
enabled_events | * | int | 0..2147483647 | 0
error_cb | * | api
throttle_cb | * | api
stats_cb | * | api
log_cb | * | api
log_level | * | int | 0..7 | 6
log.queue | * | bool |  | false
log.thread.name | * | bool |  | true
enable.random.seed | * | bool |  | true
log.connection.close | * | bool |  | true
background_event_cb | * | api
socket_cb | * | api
connect_cb | * | api
closesocket_cb | * | api
open_cb | * | api
resolve_cb | * | api
opaque | * | api
default_topic_conf | * | api
internal.termination.signal | * | int | 0..128 | 0
api.version.request | * | bool |  | true
api.version.request.timeout.ms | * | int | 1..300000 | 10000
api.version.fallback.ms | * | int | 0..604800000 | 0
broker.version.fallback | * | string |  | 0.10.0
allow.auto.create.topics | * | bool |  | false
security.protocol | * | enum | plaintext, ssl, sasl_plaintext, sasl_ssl | plaintext
ssl.cipher.suites | * | string
ssl.curves.list | * | string
ssl.sigalgs.list | * | string
ssl.key.location | * | string
ssl.key.password | * | string
ssl.key.pem | * | string
ssl_key | * | api
ssl.certificate.location | * | string
ssl.certificate.pem | * | string
ssl_certificate | * | api
ssl.ca.location | * | string
https.ca.location | * | string
https.ca.pem | * | string
ssl.ca.pem | * | string
ssl_ca | * | api
ssl.ca.certificate.stores | * | string |  | Root
ssl.crl.location | * | string
ssl.keystore.location | * | string
ssl.keystore.password | * | string
ssl.providers | * | string
ssl.engine.location | * | string
ssl.engine.id | * | string |  | dynamic
ssl_engine_callback_data | * | api
enable.ssl.certificate.verification | * | bool |  | true
ssl.endpoint.identification.algorithm | * | enum | none, https | https
ssl.certificate.verify_cb | * | api
sasl.mechanisms | * | string |  | GSSAPI
sasl.mechanism | * | string |  | GSSAPI | sasl.mechanisms
sasl.kerberos.service.name | * | string |  | kafka
sasl.kerberos.principal | * | string |  | kafkaclient
sasl.kerberos.kinit.cmd | * | string |  | kinit -R -t "%{sasl.kerberos.keytab}" -k %{sasl.kerberos.principal}
sasl.kerberos.keytab | * | string
sasl.kerberos.min.time.before.relogin | * | int | 0..86400000 | 60000
sasl.username | * | string
sasl.password | * | string
sasl.oauthbearer.config | * | string
enable.sasl.oauthbearer.unsecure.jwt | * | bool |  | false
oauthbearer_token_refresh_cb | * | api
sasl.oauthbearer.method | * | enum | default, oidc | default
sasl.oauthbearer.client.id | * | string
sasl.oauthbearer.client.credentials.client.id | * | string |  |  | sasl.oauthbearer.client.id
sasl.oauthbearer.client.credentials.client.secret | * | string |  |  | sasl.oauthbearer.client.secret
sasl.oauthbearer.client.secret | * | string
sasl.oauthbearer.scope | * | string
sasl.oauthbearer.extensions | * | string
sasl.oauthbearer.token.endpoint.url | * | string
sasl.oauthbearer.sub.claim.name | * | string |  | sub
sasl.oauthbearer.grant.type | * | enum|client_credentials,urn:ietf:params:oauth:grant-type:jwt-bearer|client_credentials
sasl.oauthbearer.assertion.algorithm | * | enum | RS256, ES256 | RS256
sasl.oauthbearer.assertion.private.key.file | * | string
sasl.oauthbearer.assertion.private.key.passphrase | * | string
sasl.oauthbearer.assertion.private.key.pem | * | string
sasl.oauthbearer.assertion.file | * | string
sasl.oauthbearer.assertion.claim.aud | * | string
sasl.oauthbearer.assertion.claim.exp.seconds | * | int | 1..2147483647 | 300
sasl.oauthbearer.assertion.claim.iss | * | string
sasl.oauthbearer.assertion.claim.jti.include | * | bool |  | false
sasl.oauthbearer.assertion.claim.nbf.seconds | * | int | 0..2147483647 | 60
sasl.oauthbearer.assertion.claim.sub | * | string
sasl.oauthbearer.assertion.jwt.template.file | * | string
sasl.oauthbearer.metadata.authentication.type | * | enum | none, azure_imds, aws_iam | none
plugin.library.paths | * | string
interceptors | * | api
group.id | C | string
group.instance.id | C | string
partition.assignment.strategy | C | string |  | range,roundrobin
session.timeout.ms | C | int | 1..3600000 | 45000
heartbeat.interval.ms | C | int | 1..3600000 | 3000
group.protocol.type | C | string |  | consumer
group.protocol | C | enum | classic, consumer | classic
group.remote.assignor | C | string
coordinator.query.interval.ms | C | int | 1..3600000 | 600000
max.poll.interval.ms | C | int | 1..86400000 | 300000
enable.auto.commit | C | bool |  | true
auto.commit.interval.ms | C | int | 0..86400000 | 5000
enable.auto.offset.store | C | bool |  | true
queued.min.messages | C | int | 1..10000000 | 100000
queued.max.messages.kbytes | C | int | 1..2097151 | 65536
fetch.wait.max.ms | C | int | 0..300000 | 500
fetch.queue.backoff.ms | C | int | 0..300000 | 1000
fetch.message.max.bytes | C | int | 1..1000000000 | 1048576
max.partition.fetch.bytes | C | int | 1..1000000000 | 1048576 | fetch.message.max.bytes
fetch.max.bytes | C | int | 0..2147483135 | 52428800
fetch.min.bytes | C | int | 0..2147483647 | 1
fetch.error.backoff.ms | C | int | 0..300000 | 500
offset.store.method | C | enum | none, file, broker | broker
isolation.level | C | enum | read_uncommitted, read_committed | read_committed
consume_cb | C | api
rebalance_cb | C | api
offset_commit_cb | C | api
enable.partition.eof | C | bool |  | false
check.crcs | C | bool |  | false
client.rack | * | string
max.poll.records | C | int | 1..2147483647 | 500
share.acknowledgement.mode | C | string |  | implicit
transactional.id | P | string
transaction.timeout.ms | P | int | 1000..2147483647 | 60000
enable.idempotence | P | bool |  | false
enable.gapless.guarantee | P | bool |  | false
queue.buffering.max.messages | P | int | 0..2147483647 | 100000
queue.buffering.max.kbytes | P | int | 1..2147483647 | 1048576
queue.buffering.max.ms | P | float | 0..900000 | 5
linger.ms | P | float | 0..900000 | 5 | queue.buffering.max.ms
message.send.max.retries | P | int | 0..2147483647 | 2147483647
retries | P | int | 0..2147483647 | 2147483647 | message.send.max.retries
retry.backoff.ms | * | int | 1..300000 | 100
retry.backoff.max.ms | * | int | 1..300000 | 1000
queue.buffering.backpressure.threshold | P | int | 1..1000000 | 1
compression.codec | P | enum | none, gzip, snappy, lz4, zstd | none
compression.type | P | enum | none, gzip, snappy, lz4, zstd | none | compression.codec
batch.num.messages | P | int | 1..1000000 | 10000
batch.size | P | int | 1..2147483647 | 1000000
delivery.report.only.error | P | bool |  | false
dr_cb | P | api
dr_msg_cb | P | api
sticky.partitioning.linger.ms | P | int | 0..900000 | 10
client.dns.lookup | * | enum | use_all_dns_ips, resolve_canonical_bootstrap_servers_only | use_all_dns_ips
enable.metrics.push | * | bool |  | true
request.required.acks | P | int | -1..1000 | -1
acks | P | int | -1..1000 | -1 | request.required.acks
request.timeout.ms | P | int | 1..900000 | 30000
message.timeout.ms | P | int | 0..2147483647 | 300000
delivery.timeout.ms | P | int | 0..2147483647 | 300000 | message.timeout.ms
queuing.strategy | P | enum | fifo, lifo | fifo
produce.offset.report | P | bool |  | false
partitioner | P | string |  | consistent_random
partitioner_cb | P | api
msg_order_cmp | P | api
compression.level | P | int | -1..12 | -1
auto.commit.enable | C | bool |  | true
auto.offset.reset | C | enum | smallest, earliest, beginning, largest, latest, end, error | largest
offset.store.path | C | string |  | .
offset.store.sync.interval.ms | C | int | -1..86400000 | -1
consume.callback.max.messages | C | int | 0..1000000 | 0
"""

CALLBACKS: Final = ("error_cb", "throttle_cb", "stats_cb", "oauth_cb")
CALLBACK_OF: Final[Mapping[str, Client]] = {"on_delivery": "producer", "on_commit": "consumer"}
DEBUG_CONTEXTS: Final = frozenset(
    [
        "generic",
        "broker",
        "topic",
        "metadata",
        "feature",
        "queue",
        "msg",
        "protocol",
        "cgrp",
        "security",
        "fetch",
        "interceptor",
        "plugin",
        "consumer",
        "admin",
        "eos",
        "mock",
        "assignor",
        "conf",
        "telemetry",
        "all",
    ]
)
TRUE: Final = ("true", "t", "1")
FALSE: Final = ("false", "f", "0")
TYPES: Final = {"int": "Integer", "float": "Float", "bool": "Bool", "enum": "", "flags": ""}
STRATEGIES: Final = ("range", "roundrobin", "cooperative-sticky")
PARTITIONERS: Final = (
    *("random", "consistent", "consistent_random", "murmur2", "murmur2_random", "fnv1a", "fnv1a_random"),
)
NO_DEFAULT: Final = {"string": None, "flags": "", "api": None}
_INTEGER: Final = re.compile(r"\s*([+-]?(?:0[xX][0-9a-fA-F]+|\d+))")
_FLOAT: Final = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)")


@dataclass(frozen=True, slots=True)
class Property:
    """A row of the table; `low` and `high` bound a number, `choices` are an enumeration's."""

    name: str
    scope: str
    type: str
    low: float
    high: float
    choices: tuple[str, ...]
    default: Any
    alias_of: str

    def parse(self, value: Any) -> Any:
        """The value in the property's type; raises `KafkaException` as librdkafka does."""
        if self.type == "api":
            kind = "Internal" if self.name.startswith("ssl_") else "Property"
            raise invalid(
                f'Internal property "{self.name}" not settable'
                if kind == "Internal"
                else f'Property "{self.name}" must be set through dedicated .._set_..() function'
            )
        text = None if value is None else str(value)
        if not text and self.type in TYPES:
            kind = f"{TYPES[self.type]} configuration" if TYPES[self.type] else "Configuration"
            raise invalid(f'{kind} property "{self.name}" cannot be set to empty value')
        return _PARSERS[self.type](self, text)


def _parse_number(row: Property, text: str, pattern: re.Pattern[str], make: Callable[[str], float]) -> float:
    """As C's strtol and strtod do: what follows the number is not looked at."""
    found = pattern.match(text)
    if found is None:
        if row.name == "request.required.acks" and text.lower() == "all":
            return -1
        raise invalid(f'Invalid value for configuration property "{row.name}"')
    number = make(found[1])
    if not row.low <= number <= row.high:
        raise invalid(
            f'Configuration property "{row.name}" value {number:.10g} is outside allowed range '
            f"{row.low:.10g}..{row.high:.10g}"
        )
    return number


def _parse_int(row: Property, text: str) -> int:
    return int(_parse_number(row, text, _INTEGER, lambda digits: int(digits, 0 if "x" in digits.lower() else 10)))


def _parse_float(row: Property, text: str) -> float:
    return _parse_number(row, text, _FLOAT, float)


def _parse_bool(row: Property, text: str) -> bool:
    if text.lower() not in TRUE + FALSE:
        raise invalid(f'Expected bool value for "{row.name}": true or false')
    return text.lower() in TRUE


def _parse_enum(row: Property, text: str) -> str:
    if text.lower() not in map(str.lower, row.choices):
        raise invalid(f'Invalid value "{text}" for configuration property "{row.name}"')
    return text.lower()


def _parse_flags(row: Property, text: str) -> str:
    for flag in text.split(",") if row.name == "debug" else ():
        if flag.strip().lstrip("-") not in DEBUG_CONTEXTS:
            raise invalid(f'Invalid value "{flag}" for configuration property "{row.name}"')
    return text


def _parse_string(row: Property, text: str | None) -> str | None:
    if row.name == "partitioner" and text not in PARTITIONERS:
        raise invalid(f'Invalid value for configuration property "partitioner": {text or "(null)"}')
    return text


_PARSERS: Final[Mapping[str, Callable[..., Any]]] = {
    "int": _parse_int,
    "float": _parse_float,
    "bool": _parse_bool,
    "enum": _parse_enum,
    "flags": _parse_flags,
    "string": _parse_string,
}


def invalid(reason: str) -> KafkaException:
    """What librdkafka raises for a configuration that it does not take."""
    return KafkaException(KafkaError(Code.INVALID_ARG, reason))


def _row(line: str) -> Property:
    name, scope, kind, valid, default, alias = ([part.strip() for part in line.split("|")] + ["", "", ""])[:6]
    low, _, high = valid.partition("..")
    number = float if kind in ("int", "float") else (lambda _: 0.0)
    choices = tuple(choice.strip() for choice in valid.split(",")) if kind == "enum" else ()
    row = Property(name, scope, kind, number(low or 0), number(high or 0), choices, None, alias)
    value = NO_DEFAULT.get(kind) if not default else row.parse(default)
    return Property(name, scope, kind, row.low, row.high, choices, value, alias)


PROPERTIES: Final[Mapping[str, Property]] = MappingProxyType(
    {row.name: row for row in map(_row, TABLE.strip().splitlines())}
)


@dataclass(frozen=True, slots=True)
class Config:
    """What a client was given, checked: properties under their canonical names, and the rest by its own."""

    client: Client
    given: Mapping[str, Any]
    extra: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        """A property's value, its default if it was not given; `name` is canonical."""
        return self.given[name] if name in self.given else PROPERTIES[name].default

    def callback(self, name: str) -> Callable[..., Any] | None:
        """A callback that was given, or None."""
        found: Callable[..., Any] | None = self.extra.get(name)
        return found


def merged(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a constructor's arguments: a dictionary, keywords, or both."""
    if len(args) > 1 or (args and not isinstance(args[0], dict)) or (not args and not kwargs):
        raise TypeError("expected configuration dict")
    return {**(args[0] if args else {}), **kwargs}


def checked(client: Client, conf: Mapping[Any, Any]) -> Config:
    """The configuration of a client, checked property by property and as a whole; raises `KafkaException`."""
    if client == "consumer" and conf.get("group.id") is None:
        raise ValueError("Failed to create consumer: group.id must be set")
    given: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for name, value in conf.items():
        if name == "default.topic.config":
            given |= {PROPERTIES[key].alias_of or key: _parsed(key, each) for key, each in value.items()}
        elif name == "logger" or name in CALLBACKS or CALLBACK_OF.get(name) == client:
            extra[name] = _callback(name, value)
        else:
            parsed = _parsed(name, value)
            given[PROPERTIES[name].alias_of or name] = parsed
    config = Config(client, given, extra)
    for complaint in _complaints(config):
        raise invalid(f"Failed to create {client}: {complaint}")
    return config


def _callback(name: str, value: Any) -> Any:
    if name != "logger" and not callable(value):
        if name in CALLBACKS:
            kind = ValueError if name == "throttle_cb" else TypeError  # as it is there
            raise kind(f"expected {name} property as a callable function")
        raise invalid(f"{name} requires a callable object")
    return value


def _parsed(name: Any, value: Any) -> Any:
    row = PROPERTIES.get(name) if isinstance(name, str) else None
    if row is None:
        raise invalid(f'No such configuration property: "{name}"')
    return PROPERTIES[row.alias_of or row.name].parse(value)


def _complaints(config: Config) -> list[str]:
    """What is wrong with properties taken together; librdkafka's rules, those that mean something in process."""
    strategies = [one.strip() for one in (config["partition.assignment.strategy"] or "").split(",")]
    unknown = [one for one in strategies if one not in STRATEGIES]
    found = [f"Unsupported partition.assignment.strategy: {one}" for one in unknown]
    if "cooperative-sticky" in strategies and len(strategies) > 1:
        found.append(
            f"All partition.assignment.strategy ({','.join(strategies)}) assignors must have the same protocol type, "
            "online migration between assignors with different protocol types is not supported"
        )
    return found + (_of_consumer(config) if config.client == "consumer" else _of_producer(config))


def _of_consumer(config: Config) -> list[str]:
    found = []
    if config["group.protocol"] == "consumer":
        found += [
            f"`{name}` is not supported for `group.protocol=consumer`"
            for name in ("session.timeout.ms", "heartbeat.interval.ms", "partition.assignment.strategy")
            if name in config.given
        ]
    elif config["max.poll.interval.ms"] < config["session.timeout.ms"]:
        found.append("`max.poll.interval.ms`must be >= `session.timeout.ms`")
    return found


def _of_producer(config: Config) -> list[str]:
    """The rules of an idempotent producer, of a transactional one, and of time-outs."""
    is_idempotent = config["enable.idempotence"] or bool(config["transactional.id"])
    found = []
    if config["transactional.id"] and config.given.get("enable.idempotence") is False:
        found.append("`transactional.id` requires `enable.idempotence=true`")
    if config["enable.gapless.guarantee"] and not is_idempotent:
        found.append("`enable.gapless.guarantee` requires `enable.idempotence` to be enabled")
    if is_idempotent:
        if config.given.get("max.in.flight.requests.per.connection", 5) > 5:
            found.append("`max.in.flight` must be set <= 5 when `enable.idempotence` is true")
        if config["request.required.acks"] != -1:
            found.append("`acks` must be set to `all` when `enable.idempotence` is true")
        if config["message.send.max.retries"] < 1:
            found.append("`retries` must be set >= 1 when `enable.idempotence` is true")
        if config["queuing.strategy"] != "fifo":
            found.append("`queuing.strategy` must be set to `fifo` when `enable.idempotence` is true")
    timeout = config["message.timeout.ms"]
    if 0 < timeout <= config["queue.buffering.max.ms"]:
        found.append("`message.timeout.ms` must be greater than `linger.ms`")
    return found
