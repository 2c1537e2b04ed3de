"""The bodies of requests that are not resources, as field tables like those of the kinds."""

from __future__ import annotations

import dataclasses

from domus_core.model.field_types import Choice, Flag, Integer, ListOf, Name, SecretText, Text
from domus_core.model.fields import attribute
from domus_core.model.migration import MigrationSpec
from domus_core.model.policy import PolicySpec

from .reading import Moment

ROLES = ("viewer", "operator", "administrator")
USER_NAME = Text(64, pattern=r"[A-Za-z0-9][A-Za-z0-9@._-]*", noun="a user's name")
PASSWORD = SecretText(1000, pattern=r".{12,}", noun="a password of at least 12 characters")
POOL = Text(63, pattern=r"[A-Za-z0-9][A-Za-z0-9_.-]*", noun="a pool's name")
STOPPED_TOO = "Move stopped VMs, too, where their disks can be reached from another server; those that can not move stay, and are named."
ADDRESS = Text(253, pattern=r"[A-Za-z0-9.:-]+", noun="a host name or IP address")


@dataclasses.dataclass(frozen=True)
class TakeOver:
    """Take a free server over: it shows `fingerprint:secret` once, on its own console."""

    name: str = attribute(Name(), "What the server is to be called.", required=True, example="srv1")
    address: str = attribute(ADDRESS, "Where its agent answers.", required=True, example="192.0.2.20")
    port: int | None = attribute(Integer(1, 65535), "The agent's port.", default=8899, example=8899)
    secret: str = attribute(
        SecretText(200, pattern=r"[0-9a-f]{64}:[0-9a-f]{32}", noun="fingerprint:secret"), "The one-time secret it shows.", required=True, secret=True
    )
    pool: str | None = attribute(POOL, "Servers of one pool trust each other's libvirt.", default="default", example="default")
    replace: bool | None = attribute(
        Flag(), "It is the server of that name, reinstalled: bury the old record, and revoke its certificates.", default=False, example=False
    )


@dataclasses.dataclass(frozen=True)
class Discover:
    """Where to look for a server."""

    address: str = attribute(ADDRESS, "Where its agent answers.", required=True, example="192.0.2.20")
    port: int | None = attribute(Integer(1, 65535), "The agent's port.", default=8899, example=8899)


@dataclasses.dataclass(frozen=True)
class Renewal:
    """New certificates for a server."""

    pool: str | None = attribute(POOL, "Its pool from now on; left out: the one it is in.", example="default")


@dataclasses.dataclass(frozen=True)
class FenceTest:
    """A test of a pool's fence devices; left empty each is only asked for the power of each server."""

    cut: str | None = attribute(ADDRESS, "Really cut the power of this member and give it back; refused while HA VMs run on it.", example="srv3")


@dataclasses.dataclass(frozen=True)
class Maintenance:
    """Take a server out of use for a while, or back into use."""

    enabled: bool = attribute(Flag(), "true: no VM is placed on it or moved to it.", required=True, example=True)
    evacuate: bool | None = attribute(Flag(), "Move its VMs to other servers.", default=False, example=False)
    copy_storage: bool | None = attribute(Flag(), "With `evacuate`: copy the disks that lie on storage of the server's own.", default=False, example=False)
    stopped: bool | None = attribute(Flag(), STOPPED_TOO, default=False, example=False)
    reason: str | None = attribute(Text(1000), "Why; shown with the server.", example="new memory")


@dataclasses.dataclass(frozen=True)
class Adopt:
    """Which VMs of a server Domus is to manage from now on."""

    vms: tuple[str, ...] | None = attribute(ListOf(Text(255), most=10_000), "Their names; left out: all.", example=["web1"])
    site: str | None = attribute(Name(), "The site they are to belong to; left out: the manager's own.", example="default")


@dataclasses.dataclass(frozen=True)
class VerbOptions:
    """How a verb is carried out."""

    force: bool | None = attribute(Flag(), "Do it without the guest's help when the guest does not help.", default=False, example=True)
    timeout: int | None = attribute(Integer(0, 86400), "Seconds the guest gets; left out: what its specification says.", example=60)


@dataclasses.dataclass(frozen=True)
class Migrate(MigrationSpec):
    """Move a VM to another server."""

    server: str | None = attribute(Name(), "Where it is to go: name or id; left out: where there is room for it.", example="srv2")


@dataclasses.dataclass(frozen=True)
class Evacuate(MigrationSpec):
    """Move the VMs of a server that run to other servers."""

    stopped: bool | None = attribute(Flag(), STOPPED_TOO, default=False, example=False)
    at_once: int | None = attribute(Integer(1, 64), "How many move at the same time.", default=2, example=4)


@dataclasses.dataclass(frozen=True)
class Balance(PolicySpec):
    """A policy to be carried out once; what is left out is as the pool's own policy has it, the mode else `drs`."""


@dataclasses.dataclass(frozen=True)
class NewToken:
    """A token for programs."""

    name: str = attribute(Text(64, pattern=r"[^\x00-\x1f\x7f]+", noun="a token's name"), "What it is for.", required=True, example="nightly backup")
    role: str | None = attribute(Choice(*ROLES), "What it may do; left out: what its owner may do.", example="viewer")
    expires_at: float | None = attribute(Moment(), "When it ends; left out: never.", example="2027-01-01T00:00:00Z")


@dataclasses.dataclass(frozen=True)
class NewCertificate:
    """A certificate for a person, good for a year."""

    csr: str = attribute(
        Text(10_000, multiline=True), "Certificate signing request (PEM) for an EC P-256 key; only the key counts.", required=True, example="-----BEGIN ..."
    )
    name: str | None = attribute(Text(64, pattern=r"[^\x00-\x1f\x7f]*", noun="a name"), "What it is for.", example="laptop")
    role: str | None = attribute(Choice(*ROLES), "What it may do; left out: what its owner may do.", example="viewer")


@dataclasses.dataclass(frozen=True)
class NewUser:
    """A person."""

    name: str = attribute(USER_NAME, "Name to log in with.", required=True, example="ada")
    password: str = attribute(PASSWORD, "Password, 12 characters at least.", required=True, secret=True)
    role: str = attribute(Choice(*ROLES), "What the person may do.", required=True, example="operator")


@dataclasses.dataclass(frozen=True)
class NewPassword:
    """Another password."""

    password: str = attribute(PASSWORD, "The new password, 12 characters at least.", required=True, secret=True)


BODIES = (Migrate, Evacuate, Balance, TakeOver, Discover, Renewal, FenceTest, Maintenance, Adopt, VerbOptions, NewToken, NewCertificate, NewUser, NewPassword)
