"""Names of libvirt's migration flags to the number that it takes (https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainMigrateFlags)."""

from __future__ import annotations

from collections.abc import Iterable

from .connection import libvirt


def libvirt_flags(names: Iterable[str]) -> int:
    """The flags VIR_MIGRATE_... of these names together."""
    total = 0
    for name in names:
        total |= getattr(libvirt, f"VIR_MIGRATE_{name}")
    return total
