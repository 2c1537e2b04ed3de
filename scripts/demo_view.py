"""demo_view.py vms|console NAME|login PASSWORD-FILE: show the demo's virtual machines."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from domus_core.libvirt_driver.connection import libvirt
from domus_core.libvirt_driver.driver import LibvirtDriver, open_driver
from domus_core.model.document import Site
from domus_core.model.quantities import format_size
from rich.console import Console
from rich.table import Table

SITE = "demo"
PATIENCE = 60.0


def show_vms(driver: LibvirtDriver) -> None:
    """A table of the demo's virtual machines."""
    table = Table("VM", "state", "address", "vCPUs", "memory", "disks", "NICs", title="Virtual machines of the demo")
    for name, vm in sorted(driver.read(Site(SITE, {})).objects["vm"].items()):
        if vm.state.site == SITE:
            disks = ", ".join(f"{disk.name} {format_size(disk.size or 0)}" for disk in vm.spec.disks)
            nics = ", ".join(f"{nic.name} on {nic.network}" for nic in vm.spec.nics)
            table.add_row(name, vm.state.state, ", ".join(driver.addresses(name)), str(vm.spec.cpus), format_size(vm.spec.memory), disks, nics)
    Console(width=max(Console().width, 120)).print(table)


def show_console(driver: LibvirtDriver, name: str) -> None:
    """One line of a virtual machine's serial console: what it answers to the Enter key."""
    stream = driver.connection.newStream(libvirt.VIR_STREAM_NONBLOCK)
    driver.connection.lookupByName(name).openConsole(None, stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE)
    text, deadline = b"", time.monotonic() + PATIENCE
    while b"login:" not in text and time.monotonic() < deadline:
        stream.send(b"\r")
        time.sleep(0.5)
        while isinstance(received := stream.recv(4096), bytes) and received:
            text += received
    stream.abort()
    lines = [line.strip() for line in text.decode(errors="replace").splitlines() if line.strip()]
    print(f"serial console of {name}: {lines[-1] if lines else '(silent)'}")


def show_login(driver: LibvirtDriver, password_file: str) -> None:
    """How to get into the virtual machines."""
    for name in ("web1", "web2", "db1"):
        address = next(iter(driver.addresses(name)), "(no address yet)")
        print(f"  {name}: ssh root@{address}   or   virsh -c qemu:///system console {name}")
    print(f"  user: root   password: {Path(password_file).read_text().strip()}")


def main(command: str, *words: str) -> None:
    """Do what the command line says."""
    driver = open_driver()
    {"vms": show_vms, "console": show_console, "login": show_login}[command](driver, *words)
    driver.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
