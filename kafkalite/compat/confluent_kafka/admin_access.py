"""Access rules and credentials as AdminClient knows them: names and shapes, so that programs which use them load.

A store has neither: who may open its files may use it.
"""

import functools
from enum import Enum
from typing import Any, ClassVar

from kafkalite.compat.confluent_kafka.admin_types import (
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
    ScramMechanism,
    as_member,
)


@functools.total_ordering
class AclBinding:
    """An access rule: who may, or may not, do what to which resource from which host."""

    _required: ClassVar[tuple[str, ...]] = (
        *("restype", "name", "resource_pattern_type", "principal", "host", "operation", "permission_type"),
    )
    _forbidden: ClassVar[tuple[Enum, ...]] = (
        *(ResourceType.ANY, ResourcePatternType.ANY, ResourcePatternType.MATCH),
        *(AclOperation.ANY, AclPermissionType.ANY),
    )

    def __init__(
        self,
        restype: ResourceType | str | int,
        name: str,
        resource_pattern_type: ResourcePatternType | str | int,
        principal: str,
        host: str,
        operation: AclOperation | str | int,
        permission_type: AclPermissionType | str | int,
    ) -> None:
        given = {
            "restype": restype,
            "name": name,
            "resource_pattern_type": resource_pattern_type,
            "principal": principal,
            "host": host,
            "operation": operation,
            "permission_type": permission_type,
        }
        for field in self._required:
            if given[field] is None:
                raise ValueError(f"Expected {field} to be not None")
        for field in ("name", "principal", "host"):
            if given[field] is not None and not isinstance(given[field], str):
                raise TypeError(f"Expected {field} to be a string")
        self.name, self.principal, self.host = name, principal, host
        self.restype = as_member(restype, ResourceType)
        self.resource_pattern_type = as_member(resource_pattern_type, ResourcePatternType)
        self.operation = as_member(operation, AclOperation)
        self.permission_type = as_member(permission_type, AclPermissionType)
        for field in ("restype", "resource_pattern_type", "operation", "permission_type"):
            member = getattr(self, field)
            if member in self._forbidden:
                raise ValueError(f"Cannot use enum {field}, value {member.name} in this class")
            setattr(self, f"{field}_int", int(member.value))

    def _fields(self) -> tuple[Any, ...]:
        return tuple(getattr(self, field) for field in AclBinding._required)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({','.join(map(str, self._fields()))})"

    def __hash__(self) -> int:
        return hash(self._fields())

    def __eq__(self, other: object) -> bool:
        return self._fields() == other._fields() if isinstance(other, AclBinding) else NotImplemented

    def __lt__(self, other: object) -> bool:
        return bool(self._fields() < other._fields()) if isinstance(other, AclBinding) else NotImplemented


class AclBindingFilter(AclBinding):
    """What access rules to match; None and ANY match all."""

    _required: ClassVar[tuple[str, ...]] = ("restype", "resource_pattern_type", "operation", "permission_type")
    _forbidden: ClassVar[tuple[Enum, ...]] = (
        *(ResourceType.UNKNOWN, ResourcePatternType.UNKNOWN, AclOperation.UNKNOWN, AclPermissionType.UNKNOWN),
    )


class ScramCredentialInfo:
    """How a password is kept, and how often it is hashed."""

    def __init__(self, mechanism: ScramMechanism, iterations: int) -> None:
        self.mechanism = mechanism
        self.iterations = iterations


class UserScramCredentialsDescription:
    """A user and the kinds of credentials there are."""

    def __init__(self, user: str, scram_credential_infos: list[ScramCredentialInfo]) -> None:
        self.user = user
        self.scram_credential_infos = scram_credential_infos


class UserScramCredentialAlteration:
    """A change to a user's credentials."""

    def __init__(self, user: str) -> None:
        self.user = user


class UserScramCredentialUpsertion(UserScramCredentialAlteration):
    """Set a credential."""

    def __init__(
        self, user: str, scram_credential_info: ScramCredentialInfo, password: bytes, salt: bytes | None = None
    ) -> None:
        super().__init__(user)
        self.scram_credential_info = scram_credential_info
        self.password = password
        self.salt = salt


class UserScramCredentialDeletion(UserScramCredentialAlteration):
    """Remove a credential."""

    def __init__(self, user: str, mechanism: ScramMechanism) -> None:
        super().__init__(user)
        self.mechanism = mechanism
