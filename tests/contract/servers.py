"""The servers that the contract is tried on: each gives the modules' `uri`, holds images, and tells what is on it."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from domus_core.engine import apply
from domus_core.errors import DomusError
from domus_core.libvirt_driver.connection import connect
from domus_core.libvirt_driver.driver import open_driver
from domus_core.libvirt_driver.image_files import create_empty
from domus_core.model.document import parse_document

from tests.integration.server_under_test import PREFIX, SYSTEM, end

TEMPLATE_SIZE = 1 << 30
TEMPLATE, ISO = "main/Templates/debian-12.qcow2", "main/ISOs/debian-12-netinst.iso"


class FakeServer:
    """A server in a file: see domus_core.fake_driver.file_driver."""

    has_guests = True

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.file = directory / "server.json"
        self.parameters = {"uri": f"fake://{self.file}", "state_directory": str(directory)}
        files = {TEMPLATE: {"format": "qcow2", "size": TEMPLATE_SIZE}, ISO: {"format": "raw", "size": 1 << 20}}
        self.file.write_text(json.dumps({"format": 1, "server": {"virtualization": "qemu"}, "objects": {}, "files": files}))

    def written(self) -> Any:
        """Everything that an apply could have written, to be compared."""
        return files_below(self.directory)

    def close(self) -> None:
        """Nothing runs, so there is nothing to end."""


class LibvirtServer:
    """libvirt on this machine, with a directory of its own; only what bears the PREFIX of this run is ours."""

    has_guests = True

    def __init__(self, directory: Path, uri: str = SYSTEM) -> None:
        self.directory = directory
        self.parameters = {"uri": uri, "state_directory": str(directory / "state")}
        for place in (TEMPLATE, ISO):
            (directory / place).parent.mkdir(parents=True)
        create_empty(str(directory / TEMPLATE), "qcow2", TEMPLATE_SIZE, False)
        (directory / ISO).write_bytes(bytes(1 << 20))
        self.connection = connect(uri)
        driver = open_driver(uri, self.parameters["state_directory"])
        apply(parse_document({"servers": [{"name": "here", "virtualization": "qemu" if uri == SYSTEM else "auto"}]}), driver)
        driver.close()

    def written(self) -> Any:
        """Everything that an apply could have written, to be compared."""
        inactive = 2  # VIR_DOMAIN_XML_INACTIVE
        domains = {domain.name(): (domain.XMLDesc(), domain.XMLDesc(inactive), domain.autostart()) for domain in self.domains()}
        networks = {network.name(): (network.XMLDesc(), network.isActive(), network.autostart()) for network in self.networks()}
        return domains, networks, files_below(self.directory)

    def domains(self) -> list[Any]:
        """The domains of this run."""
        return [domain for domain in self.connection.listAllDomains() if domain.name().startswith(PREFIX)]

    def networks(self) -> list[Any]:
        """The networks of this run."""
        return [network for network in self.connection.listAllNetworks() if network.name().startswith(PREFIX)]

    def close(self) -> None:
        """Leave nothing behind."""
        for domain in self.domains():
            end(domain)
        for network in self.networks():
            if network.isActive():
                network.destroy()
            network.undefine()
        self.connection.close()


class LibvirtTestServer(LibvirtServer):
    """libvirt's own test driver, which can define everything and change little that runs. Its world lasts as long as somebody is connected."""

    has_guests = False

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, "test:///default")


class LibvirtSystemServer(LibvirtServer):
    """Real QEMU. Not in pytest's own directory: QEMU's user must reach the images."""

    def __init__(self, directory: Path) -> None:
        place = Path(tempfile.mkdtemp(prefix=f"domus-{PREFIX}-", dir="/var/tmp"))
        place.chmod(0o711)
        try:
            super().__init__(place)
        except DomusError as error:
            shutil.rmtree(place)
            pytest.fail(f"{error}\nStart libvirt on this machine: scripts/local-server up")

    def close(self) -> None:
        """Leave nothing behind."""
        super().close()
        shutil.rmtree(self.directory)


def files_below(directory: Path) -> dict[str, Any]:
    """What tells a file's content from another, for all files but locks and what is only remembered of the server."""
    files = [path for path in directory.rglob("*") if path.is_file() and path.suffix != ".lock" and path.name != "capabilities.json"]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


# The contract holds for every one of them.
SERVERS = {"fake": FakeServer, "libvirt-test": LibvirtTestServer, "libvirt-qemu": LibvirtSystemServer}
