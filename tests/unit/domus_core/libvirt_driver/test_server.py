"""What a server can do is read from libvirt's test driver, from real QEMU, and from servers that this machine is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from domus_core.errors import DriverError
from domus_core.libvirt_driver import server
from domus_core.libvirt_driver.connection import libvirt
from domus_core.libvirt_driver.kvm_probe import GUEST_ANSWERED
from domus_core.libvirt_driver.server import read_server

SOURCES = str(Path(server.__file__).parents[2])


class Watched:
    """A connection of the test driver that counts its calls and answers some of them itself."""

    def __init__(self, **answers: Any) -> None:
        assert libvirt is not None, "python3-libvirt is missing: apt-get install python3-libvirt"
        self.connection = libvirt.open("test:///default")
        self.answers = answers
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            self.calls.append(name)
            answer = self.answers.get(name)
            if isinstance(answer, Exception):
                raise answer
            return getattr(self.connection, name)(*arguments) if answer is None else answer

        return call


def capabilities(emulator: Path, *domain_types: str) -> str:
    domains = "".join(f"<domain type='{name}'/>" for name in domain_types)
    return (
        "<capabilities><host><uuid>u</uuid><cpu><arch>x86_64</arch><model>EPYC</model></cpu></host>"
        "<guest><os_type>hvm</os_type><arch name='i686'><emulator>/wrong</emulator><domain type='wrong'/></arch></guest>"
        f"<guest><os_type>hvm</os_type><arch name='x86_64'><emulator>{emulator}</emulator><machine>pc-1</machine>"
        f"<machine canonical='pc-1'>pc</machine>{domains}</arch></guest></capabilities>"
    )


GUESTS = """<domainCapabilities><vcpu max='7'/><os supported='yes'><enum name='firmware'><value>efi</value></enum>
<loader supported='yes'><enum name='secure'><value>no</value></enum></loader></os>
<cpu><mode name='host-passthrough' supported='no'/><mode name='custom' supported='yes'>
<model usable='yes'>b</model><model usable='no'>c</model><model usable='yes'>a</model></mode></cpu>
<devices><disk supported='yes'><enum name='bus'><value>virtio</value></enum></disk>
<rng supported='no'><enum name='backendModel'><value>random</value></enum></rng>
<tpm supported='yes'><enum name='backendModel'><value>emulator</value></enum></tpm></devices></domainCapabilities>"""


def emulator(tmp_path: Path, code: int) -> Path:
    path = tmp_path / "emulator"
    path.write_text(f"#!/bin/sh\nexit {code}\n")
    path.chmod(0o755)
    return path


def invented(tmp_path: Path, *domain_types: str, code: int = 0) -> Watched:
    return Watched(getCapabilities=capabilities(emulator(tmp_path, code), *domain_types), getDomainCapabilities=GUESTS)


def read(connection: Any, tmp_path: Path, setting: str = "auto") -> dict[str, Any]:
    return read_server(connection, virtualization_setting=setting, state_directory=str(tmp_path / "state"))


def test_a_driver_without_domain_capabilities_leaves_them_open(tmp_path: Path) -> None:
    facts = read(Watched(), tmp_path)
    assert facts["hypervisor"] == "TEST"
    assert facts["virtualization"] == "test"
    assert facts["emulator"] == "/usr/bin/test-hv"
    assert facts["cpus"] == 16
    assert facts["cpu_topology"] == {"sockets": 4, "cores": 2, "threads": 2}
    assert facts["memory"] == 3 * 1024**3
    assert facts["numa_cells"][1] == {"id": 1, "memory": 4 * 1024**3, "cpus": list(range(8, 16)), "distances": {}}
    assert facts["firmware"] == {"uefi": None, "secure_boot": None}
    assert facts["cpu_models"] is None
    assert facts["libvirt_version"].count(".") == 2
    assert json.loads(json.dumps(facts)) == facts


def test_only_what_is_usable_is_offered(tmp_path: Path) -> None:
    facts = read(invented(tmp_path, "qemu"), tmp_path)
    assert facts["uuid"] == "u"
    assert facts["cpu_model"] == "EPYC"
    assert facts["machines"] == ["pc", "pc-1"]
    assert facts["cpu_models"] == ["a", "b"]
    assert facts["cpu_modes"] == ["custom"]
    assert facts["vcpus_max"] == 7
    assert facts["firmware"] == {"uefi": True, "secure_boot": False}
    assert facts["devices"] == {"disk_buses": ["virtio"], "graphics": [], "video": [], "rng": False, "tpm": True}


@pytest.mark.parametrize(
    ("offered", "setting", "probe", "chosen"),
    [
        (("qemu", "kvm"), "auto", GUEST_ANSWERED, "kvm"),
        (("qemu", "kvm"), "auto", 0, "qemu"),
        (("qemu",), "auto", GUEST_ANSWERED, "qemu"),
        (("qemu", "kvm"), "kvm", 0, "kvm"),
        (("qemu", "kvm"), "qemu", GUEST_ANSWERED, "qemu"),
        (("xen",), "auto", 0, "xen"),
    ],
)
def test_the_domain_type(tmp_path: Path, offered: tuple[str, ...], setting: str, probe: int, chosen: str) -> None:
    facts = read(invented(tmp_path, *offered, code=probe), tmp_path, setting)
    assert facts["virtualization"] == chosen
    assert facts["domain_types"] == list(offered)


EXPENSIVE = {"getCapabilities", "getDomainCapabilities", "getVersion"}


def test_the_expensive_calls_are_made_once(tmp_path: Path) -> None:
    connection = invented(tmp_path, "qemu")
    facts = read(connection, tmp_path)
    assert set(connection.calls) >= EXPENSIVE
    connection.calls.clear()
    again = read(connection, tmp_path)
    assert not EXPENSIVE & set(connection.calls)
    assert {**again, "memory_free": 0} == {**facts, "memory_free": 0}


def test_what_changes_is_read_each_time(tmp_path: Path) -> None:
    connection = invented(tmp_path, "qemu")
    read(connection, tmp_path)
    connection.answers["getFreeMemory"] = 4711
    assert read(connection, tmp_path)["memory_free"] == 4711


def test_a_new_domain_type_asks_only_for_itself(tmp_path: Path) -> None:
    connection = invented(tmp_path, "qemu", "kvm")
    read(connection, tmp_path, "qemu")
    read(connection, tmp_path, "kvm")
    read(connection, tmp_path, "qemu")
    assert connection.calls.count("getCapabilities") == 1
    assert connection.calls.count("getDomainCapabilities") == 2


@pytest.mark.parametrize("change", ["libvirt", "driver", "emulator", "memory"])
def test_a_change_is_read_anew(tmp_path: Path, change: str) -> None:
    connection = invented(tmp_path, "qemu")
    read(connection, tmp_path)
    if change == "libvirt":
        connection.answers["getLibVersion"] = 99_001_002
    if change == "driver":
        connection.answers["getURI"] = "test:///other"
    if change == "emulator":
        emulator(tmp_path, 1)
    if change == "memory":
        (tmp_path / "state" / "capabilities.json").write_text("{")
    facts = read(connection, tmp_path)
    assert connection.calls.count("getCapabilities") == connection.calls.count("getDomainCapabilities") == 2
    assert change != "libvirt" or facts["libvirt_version"] == "99.1.2"


def test_what_libvirt_refuses_is_told(tmp_path: Path) -> None:
    with pytest.raises(DriverError, match="no capabilities today"):
        read(Watched(getCapabilities=libvirt.libvirtError("no capabilities today")), tmp_path)
    assert not (tmp_path / "state" / "capabilities.json").exists()


@pytest.mark.parametrize("text", ["<capabilities>", "not XML", "<capabilities/>"])
def test_an_answer_that_makes_no_sense_is_told(tmp_path: Path, text: str) -> None:
    with pytest.raises(DriverError):
        read(Watched(getCapabilities=text), tmp_path)


@pytest.fixture
def short_directory() -> Iterator[str]:
    """A directory for sockets, whose paths may not be longer than 107 characters."""
    with tempfile.TemporaryDirectory(prefix="domus-", dir="/tmp") as directory:
        yield directory


READ_REAL_QEMU = """
import json, os, sys, threading, libvirt
from domus_core.libvirt_driver.server import read_server
libvirt.virEventRegisterDefaultImpl()
threading.Thread(target=lambda: [libvirt.virEventRunDefaultImpl() for _ in iter(int, 1)], daemon=True).start()
connection = libvirt.open("qemu:///embed?root=" + sys.argv[1])
facts = read_server(connection, virtualization_setting="qemu", state_directory=sys.argv[1])
common = [connection.baselineHypervisorCPU(None, None, None, "qemu", [xml], 0) for xml in (facts["cpu"]["xml"], facts["guest_cpu_xml"])]
print(json.dumps({**facts, "common": common}), flush=True)
os._exit(0)
"""


@pytest.mark.libvirt
@pytest.mark.slow
def test_real_qemu(short_directory: str) -> None:
    # libvirt asks QEMU again at every call where /dev/kvm is closed to QEMU's user but open to libvirt.
    os.mkdir(f"{short_directory}/etc")
    Path(short_directory, "etc", "qemu.conf").write_text('user = "root"\ngroup = "root"\n')
    environment = {**os.environ, "PYTHONPATH": SOURCES}
    done = subprocess.run([sys.executable, "-c", READ_REAL_QEMU, short_directory], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{done.stderr}\nneeded: apt-get install libvirt-daemon-driver-qemu qemu-system-x86 python3-libvirt python3-lxml"
    facts = json.loads(done.stdout)
    assert facts["hypervisor"] == "QEMU"
    assert facts["virtualization"] == "qemu"
    assert facts["cpus"] == len(os.sched_getaffinity(0))
    assert {"pc", "q35"} <= set(facts["machines"])
    assert "qemu64" in facts["cpu_models"]
    assert facts["emulator"] == "/usr/bin/qemu-system-x86_64"
    assert facts["hypervisor_version"] in subprocess.run([facts["emulator"], "--version"], capture_output=True, text=True, check=True).stdout
    assert facts["devices"]["rng"] is True
    assert "virtio" in facts["devices"]["disk_buses"]
    assert facts["memory"] > facts["memory_free"] > 0
    assert facts["cpu"]["model"] and all("<model" in text for text in facts["common"])
    installed = Path("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd").exists()
    assert facts["firmware"] == {"uefi": installed, "secure_boot": installed}
