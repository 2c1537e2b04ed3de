"""What a server is and what VMs it can run, as plain data."""

from __future__ import annotations

import os
import shutil
from typing import Any

from ..errors import DriverError
from .connection import code_of, libvirt, translate
from .host_cpu import guest_cpu, guest_cpu_xml, host_cpu, numa_cell
from .host_facts import read_host
from .kvm_probe import usable_kvm
from .remembered import boot_id, recall, remember, stamp
from .xml_fields import parse

STORAGE_TOOLS = ("qemu-img", "xorriso")

# What libvirt reads, beside itself and QEMU, to know what a server can do.
_CONFIGURATIONS = (("/etc/libvirt/libvirtd.conf", "/run/libvirtd.pid"), ("/etc/libvirt/virtqemud.conf", "/run/virtqemud.pid"))
_FIRMWARE_DIRECTORIES = ("/usr/share/qemu/firmware", "/etc/qemu/firmware", "/usr/share/OVMF")

# What is remembered has another one when facts were added.
FORMAT = "3"
# Secure boot and every newer device need it; a server without it is asked for its own default machine.
_PREFERRED_MACHINE = "q35"


def read_server(connection: Any, *, virtualization_setting: str, state_directory: str) -> dict[str, Any]:
    """What the server is and can do, sizes in bytes; None stands for what the driver does not tell.

    The setting is auto, kvm or qemu; `virtualization` in the answer is the domain type to use.
    Raises DriverError or Unreachable when libvirt fails. What costs seconds is remembered in the state directory: the sizes of
    the NUMA cells are those of the first reading since the boot.
    """
    host, guests = _capabilities(connection, virtualization_setting, state_directory)
    dummy, megabytes, cpus, dummy, cells, sockets, cores, threads = _call(connection.getInfo)
    return {
        "hostname": _call(connection.getHostname),
        **host,
        "cpus": cpus,
        "cpu_topology": {"sockets": sockets * cells, "cores": cores, "threads": threads},
        "memory": megabytes * 1024 * 1024,
        "memory_free": _call(connection.getFreeMemory),
        "libvirt_version": _version(_call(connection.getLibVersion)),
        "storage_tools": {tool: shutil.which(tool) is not None for tool in STORAGE_TOOLS},
        **guests,
    }


def describe_server(connection: Any, *, virtualization_setting: str, state_directory: str) -> dict[str, Any]:
    """The same with what the kernel tells of its devices and its system, for people and for planners of a whole site."""
    return {**read_host(), **read_server(connection, virtualization_setting=virtualization_setting, state_directory=state_directory)}


def _capabilities(connection: Any, setting: str, state_directory: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The facts of the host and of its guests, remembered until something that libvirt derives them from changes."""
    path = os.path.join(state_directory, "capabilities.json")
    key = _key(connection)
    known = recall(path, key)
    if not known or known["emulator_stamp"] != stamp(known["host"]["emulator"]):
        host = _read_host(connection)
        known = {"host": host, "emulator_stamp": stamp(host["emulator"]), "guests": {}}
    host = known["host"]
    virtualization = _virtualization(setting, host, state_directory)
    if virtualization not in known["guests"]:
        known["guests"][virtualization] = _read_guests(connection, host, virtualization)
        remember(path, key, known)
    return host, {"virtualization": virtualization, **known["guests"][virtualization]}


def _key(connection: Any) -> list[str]:
    versions = [FORMAT, boot_id(), _call(connection.getURI), str(_call(connection.getLibVersion))]
    return [
        *versions,
        *(_in_force(*paths) for paths in _CONFIGURATIONS),
        shutil.which("swtpm") or "",
        stamp("/dev/kvm"),
        *(stamp(path) for path in _FIRMWARE_DIRECTORIES),
    ]


def _in_force(configuration: str, pid_file: str) -> str:
    """Which configuration a daemon of libvirt has, the host UUID for one: that of the file, once it was started after the last change of that."""
    changed, started = stamp(configuration), stamp(pid_file)
    return f"{changed} {'read' if started and int(started) > int(changed or 0) else 'not read'}"


def _virtualization(setting: str, host: dict[str, Any], state_directory: str) -> str:
    """The domain type to use: as set, or kvm if it is offered and proven, or else the first of what is offered."""
    offered: list[str] = host["domain_types"]
    if "kvm" not in offered and "qemu" not in offered and offered:
        return offered[0]
    if setting != "auto":
        return setting
    return "kvm" if "kvm" in offered and usable_kvm(host["emulator"], state_directory) else "qemu"


def _read_host(connection: Any) -> dict[str, Any]:
    root = parse(_call(connection.getCapabilities))
    architecture = root.findtext("host/cpu/arch", "")
    guest = _guest_element(root, architecture)
    return {
        "uuid": root.findtext("host/uuid"),
        "architecture": architecture,
        "cpu_model": root.findtext("host/cpu/model"),
        "cpu": host_cpu(root),
        "numa_cells": [numa_cell(cell) for cell in root.iterfind("host/topology/cells/cell")],
        "hypervisor": _call(connection.getType),
        "hypervisor_version": _version(_call(connection.getVersion)),
        "emulator": guest.findtext("emulator", ""),
        "domain_types": [domain.get("type") for domain in guest.iterfind("domain")],
        "machines": sorted({machine.text for machine in guest.iterfind(".//machine")}),
    }


def _guest_element(root: Any, architecture: str) -> Any:
    """The offer for fully virtualized guests of the server's own architecture."""
    for guest in root.iterfind("guest"):
        if guest.findtext("os_type") == "hvm" and guest.find("arch").get("name") == architecture:
            return guest.find("arch")
    raise DriverError("libvirt offers no virtual machines here", field="architecture", value=architecture, remedy="install QEMU for it")


def _read_guests(connection: Any, host: dict[str, Any], virtualization: str) -> dict[str, Any]:
    machine = _PREFERRED_MACHINE if _PREFERRED_MACHINE in host["machines"] else None
    text = _call(connection.getDomainCapabilities, host["emulator"], host["architecture"], machine, virtualization, 0)
    if text is None:
        return _untold_guests()
    root = parse(text)
    return {
        "cpu_models": sorted(model.text for model in root.iterfind("cpu/mode[@name='custom']/model[@usable='yes']")),
        "guest_cpu_xml": guest_cpu_xml(text),
        "guest_cpu": guest_cpu(text),
        "cpu_modes": [mode.get("name") for mode in root.iterfind("cpu/mode[@supported='yes']")],
        "vcpus_max": int(root.find("vcpu").get("max")) if root.find("vcpu") is not None else None,
        "firmware": {
            "uefi": "efi" in _choices(root, "os", "firmware"),
            "secure_boot": "yes" in _choices(root, "os/loader", "secure"),
        },
        "devices": {
            "disk_buses": _choices(root, "devices/disk", "bus"),
            "graphics": _choices(root, "devices/graphics", "type"),
            "video": _choices(root, "devices/video", "modelType"),
            "rng": bool(_choices(root, "devices/rng", "backendModel")),
            "tpm": "emulator" in _choices(root, "devices/tpm", "backendModel"),
        },
    }


def _untold_guests() -> dict[str, Any]:
    return {
        "cpu_models": None,
        "guest_cpu_xml": None,
        "guest_cpu": None,
        "cpu_modes": None,
        "vcpus_max": None,
        "firmware": {"uefi": None, "secure_boot": None},
        "devices": {"disk_buses": None, "graphics": None, "video": None, "rng": None, "tpm": None},
    }


def _choices(root: Any, path: str, name: str) -> list[str]:
    return [value.text for value in root.iterfind(f"{path}[@supported='yes']/enum[@name='{name}']/value")]


def _call(function: Any, *arguments: Any) -> Any:
    """The call's answer, or None from a driver that does not have it; raises Unreachable or DriverError when libvirt fails."""
    try:
        return function(*arguments)
    except libvirt.libvirtError as error:
        if code_of(error) == libvirt.VIR_ERR_NO_SUPPORT:
            return None
        raise translate(error, "reading what this server is") from error


def _version(number: int) -> str:
    """libvirt's numbers are 1,000,000 * major + 1,000 * minor + release."""
    return f"{number // 1000000}.{number // 1000 % 1000}.{number % 1000}"
