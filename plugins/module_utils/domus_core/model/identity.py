"""Identities derived from names, so a plan shows what an apply will do."""

from __future__ import annotations

import hashlib
import uuid

NAMESPACE = uuid.UUID("6f7c1f0a-6d1e-5d0c-9f55-8d5b6a3f4c21")


def derived_uuid(site: str, kind: str, name: str) -> str:
    """The UUID of an object of this site, kind and name (RFC 9562 version 5)."""
    return str(uuid.uuid5(NAMESPACE, f"{site}/{kind}/{name}"))


def derived_mac(site: str, vm: str, nic: str) -> str:
    """The MAC address of a NIC: locally administered, 40 bits of hash, so 20,000 VMs do not collide by chance."""
    digest = hashlib.sha256(f"{site}/vm/{vm}/nic/{nic}".encode()).digest()
    return ":".join(["52", *(f"{byte:02x}" for byte in digest[:5])])
