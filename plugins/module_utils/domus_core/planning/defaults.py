"""What a new VM gets for the fields its document leaves out, so that a plan shows all of it."""

from __future__ import annotations

from typing import Any

from ..errors import InvalidSpec
from ..model.fields import given, make, merge
from ..model.identity import derived_mac
from ..model.quantities import UNITS
from ..model.server import ServerState
from ..model.vm import VmSpec
from ..model.vm_devices import CdromSpec, NicSpec, VncSpec

DEFAULT_MEMORY = 512 * UNITS["MiB"]

NEW_VNC = make(VncSpec, {"enabled": True, "listen": "127.0.0.1"})


def new_vm(wanted: VmSpec, site: str, server: ServerState) -> VmSpec:
    """Return the whole specification of a VM that is to be made; its disks are completed elsewhere.

    Raises InvalidSpec when a NIC is connected to nothing.
    """
    layout = wanted.cpu_topology
    product = (layout.sockets or 1) * (layout.cores or 1) * (layout.threads or 1) if layout else None
    most = wanted.cpus_max or product or wanted.cpus or 1
    memory = wanted.memory or wanted.memory_max or DEFAULT_MEMORY
    architecture = wanted.architecture or (server.facts or {}).get("architecture") or "x86_64"
    values: dict[str, Any] = {
        "cpus": wanted.cpus or most,
        "cpus_max": most,
        "memory": memory,
        "memory_max": wanted.memory_max or memory,
        "firmware": "bios" if architecture != "aarch64" else "uefi",
        "machine": next((name for name in ("q35", "virt") if name in server.machines), None),
        "architecture": architecture,
        "serial_console": True,
        "rng": True,
        "guest_agent": True,
        "clock": "utc",
        "on_poweroff": "destroy",
        "on_reboot": "restart",
        "on_crash": "destroy",
        "autostart": False,
    }
    whole = merge(make(VmSpec, {name: value for name, value in values.items() if value is not None}), wanted)
    values = given(whole)
    values["virtualization"] = server.virtualization if wanted.virtualization in (None, "auto") else wanted.virtualization
    values.setdefault("video", "vga" if wanted.vnc and wanted.vnc.enabled is not False else "none")
    devices: tuple[Any, ...] = (*(wanted.disks or ()), *(wanted.cdroms or ()), *(wanted.nics or ()))
    if not any(device.boot_index for device in devices):
        values.setdefault("boot", ("disk",))
    values["nics"] = tuple(new_nic(nic, site, wanted.name) for nic in wanted.nics or ())
    values["cdroms"] = tuple(new_cdrom(drive, whole) for drive in wanted.cdroms or ())
    if wanted.vnc:
        values["vnc"] = merge(NEW_VNC, wanted.vnc)
    return make(VmSpec, values)


def new_nic(nic: NicSpec, site: str, vm: str) -> NicSpec:
    """Return the whole specification of a new NIC. Raises InvalidSpec when it is connected to nothing."""
    if nic.network is None and nic.bridge is None:
        raise InvalidSpec("is missing", field=f"nics[{nic.name}].network", remedy="Say which network, or which bridge, it is connected to")
    return merge(make(NicSpec, {"name": nic.name, "model": "virtio", "link": "up", "mac": derived_mac(site, vm, nic.name)}), nic)


def new_cdrom(drive: CdromSpec, vm: Any) -> CdromSpec:
    """Return the whole specification of a new CD-ROM drive; i440fx machines have no SATA."""
    bus = "ide" if str(vm.machine).startswith("pc") and "q35" not in str(vm.machine) else "sata"
    return merge(make(CdromSpec, {"name": drive.name, "iso": "", "bus": bus}), drive)
