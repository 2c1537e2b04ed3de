"""A server for tests: the engine over the libvirt driver, with a repository of its own; everything it made ends with it."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from domus_core.engine import Report, apply
from domus_core.errors import DomusError
from domus_core.libvirt_driver.connection import libvirt
from domus_core.libvirt_driver.driver import open_driver
from domus_core.libvirt_driver.image_files import create_empty
from domus_core.libvirt_driver.xml_fields import parse
from domus_core.model.document import Site, parse_document
from domus_core.model.snapshot import Found
from domus_core.planning.reconcile import plan

PREFIX = f"dt{os.getpid()}"
LAN, OTHER = f"{PREFIX}-lan", f"{PREFIX}-other"
SYSTEM = "qemu:///system"
# Without an operating system nobody hears the power button.
IMPATIENT = {"force_stop": True, "stop_timeout": 0}
SMALL = {"memory": "16MiB", "machine": "pc"}
INACTIVE = 3  # VIR_DOMAIN_XML_SECURE | VIR_DOMAIN_XML_INACTIVE


class ServerUnderTest:
    """`name` gives names that no other run uses; `apply` asserts what must hold for every apply."""

    def __init__(self, uri: str = SYSTEM) -> None:
        # Not pytest's own directory: QEMU's user must reach the images.
        self.directory = Path(tempfile.mkdtemp(prefix=f"domus-{PREFIX}-", dir="/var/tmp"))
        self.directory.chmod(0o711)
        try:
            self.driver = open_driver(uri, str(self.directory / "state"))
        except DomusError as error:
            self.directory.rmdir()
            pytest.fail(f"{error}\nStart libvirt on this machine: scripts/local-server up", pytrace=False)
        self.connection = self.driver.connection
        self.does_all_live = self.connection.getType() != "TEST"
        self.main = self.directory / "main"
        try:
            self._furnish()
        except BaseException:
            self.close()
            raise

    def _furnish(self) -> None:
        self.apply(
            servers=[{"name": "here", "virtualization": "auto" if not self.does_all_live else "qemu"}], repositories=[{"name": "main", "path": str(self.main)}]
        )
        create_empty(str(self.main / "Templates/small.qcow2"), "qcow2", 1 << 20, False)
        for number in (1, 2):
            (self.main / f"ISOs/{number}.iso").write_bytes(bytes(1 << 16))
        # Without a subnet there is no dnsmasq to wait for.
        self.apply(networks=[{"name": name, "mode": "isolated", "state": "active", "autostart": False} for name in (LAN, OTHER)])
        self.apply(
            templates=[{"name": "small", "image": "main/small.qcow2"}], isos=[{"name": f"cd{number}", "image": f"main/{number}.iso"} for number in (1, 2)]
        )

    def name(self, short: str) -> str:
        """A name of this run."""
        return f"{PREFIX}-{short}"

    def site(self, **sections: Any) -> Site:
        """A checked document."""
        return parse_document({"site": "paris", **sections})

    def steps(self, **sections: Any) -> tuple[Any, ...]:
        """What an apply would do."""
        site = self.site(**sections)
        return plan(site, self.driver.read(site)).steps

    def try_apply(self, **sections: Any) -> Report:
        """Apply without asserting anything."""
        return apply(self.site(**sections), self.driver)

    def apply(self, *, waits: str = "as predicted", **sections: Any) -> Report:
        """Check, apply, apply again: nothing fails, the check was right, and nothing is left to do.

        With `waits="guest decides"` more may wait for a restart than was predicted: the guest did not let a device go.
        """
        site = self.site(**sections)
        check, done = apply(site, self.driver, check=True), apply(site, self.driver)
        assert [str(error) for error in done.errors] == []
        assert [one.as_dict() for result in check.results for one in result.steps] == [one.as_dict() for result in done.results for one in result.steps]
        predicted, measured = ({(result.kind, result.key): set(result.restart_required) for result in report.results} for report in (check, done))
        for target, names in measured.items():
            assert (predicted[target] <= names) if waits == "guest decides" else (predicted[target] == names), (
                f"{target}: predicted {predicted[target]}, waiting {names}"
            )
        again = apply(site, self.driver, check=True)
        assert [step for result in again.results for step in result.steps] == []
        assert all(set(result.restart_required) == measured[(result.kind, result.key)] for result in again.results)
        return done

    def vm(self, short: str = "vm", *, waits: str = "as predicted", **fields: Any) -> Found:
        """Apply one VM, without patience for its guest, and return what is there then."""
        self.apply(vms=[{"name": self.name(short), **IMPATIENT, **fields}], waits=waits)
        return self.found(short)

    def waiting(self, short: str = "vm") -> set[str]:
        """The fields of a VM that wait for a restart."""
        (result,) = apply(self.site(vms=[{"name": self.name(short)}]), self.driver, check=True).results
        return set(result.restart_required)

    def found(self, short: str = "vm") -> Found:
        """A VM as it is."""
        found = self.driver.read_one("vm", self.name(short))
        assert found is not None
        return found

    def domain(self, short: str = "vm") -> Any:
        """The domain of a VM."""
        return self.connection.lookupByName(self.name(short))

    def xml(self, short: str = "vm", flags: int = INACTIVE) -> Any:
        """The definition of a VM as libvirt has it (flags 0: what runs)."""
        return parse(self.domain(short).XMLDesc(flags))

    def image(self, name: str) -> Path:
        """The file of a virtual disk, by its name with extension."""
        return self.main / "VirtualDisks" / name

    def clear(self) -> None:
        """End and forget all VMs of this run, and delete their images."""
        for domain in self.connection.listAllDomains():
            if domain.name().startswith(PREFIX):
                end(domain)
        for folder in ("VirtualDisks", ".domus/virtual_disk"):
            for path in (self.main / folder).glob("*"):
                path.unlink()

    def close(self) -> None:
        """Leave nothing behind."""
        self.clear()
        for network in self.connection.listAllNetworks():
            if network.name().startswith(PREFIX):
                if network.isActive():
                    network.destroy()
                network.undefine()
        self.driver.close()
        shutil.rmtree(self.directory)


def end(domain: Any) -> None:
    """Power a domain off and forget it."""
    with contextlib.suppress(libvirt.libvirtError):
        domain.destroy()
    with contextlib.suppress(libvirt.libvirtError):
        domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)
    with contextlib.suppress(libvirt.libvirtError):
        domain.undefine()
