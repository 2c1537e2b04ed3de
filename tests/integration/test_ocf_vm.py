"""`ocf:domus:vm` as Pacemaker calls it, on real libvirt and QEMU: its return codes in each state, and with libvirtd, record or lock gone wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Optional

import pytest
from domus_core.cluster.record_files import write_record
from domus_core.cluster.records import PoolRecord
from lxml import etree

from tests.support.private_libvirtd import PrivateLibvirtd

pytestmark = pytest.mark.libvirt
ROOT = Path(__file__).resolve().parents[2]
# As the script `vm` beside it starts it where it is installed.
AGENT = ("/usr/bin/python3", "-IS", str(ROOT / "agent" / "domus_agent" / "ocf" / "vm.py"))
SUCCESS, ERR_GENERIC, ERR_ARGS, ERR_UNIMPLEMENTED, ERR_INSTALLED, ERR_CONFIGURED, NOT_RUNNING = 0, 1, 2, 3, 5, 6, 7
SCHEMA = Path("/usr/share/resource-agents/metadata.rng")
DEFINITION = """<domain type="qemu"><name>{name}</name><uuid>{uuid}</uuid><memory unit="MiB">32</memory><vcpu>1</vcpu>
<os><type>hvm</type></os><features><acpi/></features>
<devices><disk type="file" device="disk"><driver name="qemu" type="raw"/><source file="{disk}"/><target dev="vda" bus="virtio"/></disk></devices>
</domain>"""


class Vm:
    """A VM of a pool, and the agent called for it with what Pacemaker sets."""

    def __init__(self, libvirtd: PrivateLibvirtd, folder: Path, name: str, disk: Path) -> None:
        self.libvirtd, self.folder, self.name = libvirtd, folder, name
        self.uuid = str(uuid.uuid4())
        self.records = folder / "records"
        self.records.mkdir(exist_ok=True)
        self.settings = folder / "pool.json"
        settings = {"records": str(self.records), "server": "srv1", "libvirt": libvirtd.uri, "copies": str(folder / "copies"), "lock_patience": 20}
        self.settings.write_text(json.dumps(settings), encoding="utf-8")
        self.record = PoolRecord(self.uuid, name, DEFINITION.format(name=name, uuid=self.uuid, disk=disk), stop_timeout=1)
        self.token = write_record(str(self.records), self.record, "", lambda: True)

    def call(self, action: str, *, timeout: int = 60, **more: str) -> int:
        """The return code of an action; `reason` is what was said."""
        done = self.begin(action, timeout=timeout, **more)
        self.reason = done.communicate(timeout=timeout + 30)[1]
        return done.returncode

    def begin(self, action: str, *, timeout: int = 60, **more: str) -> subprocess.Popen[str]:
        """The action under way."""
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "DOMUS_ENGINE": str(ROOT / "plugins" / "module_utils"),
            "DOMUS_POOL_SETTINGS": str(self.settings),
            "DOMUS_HA_STATE": str(self.folder / "state"),
            "OCF_RESOURCE_INSTANCE": f"domus-vm-{self.name}",
            "OCF_RESKEY_name": self.name,
            "OCF_RESKEY_uuid": self.uuid,
            "OCF_RESKEY_CRM_meta_timeout": str(timeout * 1000),
            **more,
        }
        return subprocess.Popen([*AGENT, action], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def is_alive(self) -> bool:
        """Is its QEMU there, as the kernel sees it?"""
        return self.pid() is not None

    def pid(self) -> Optional[int]:
        """The process of its QEMU."""
        try:
            return self.libvirtd.guest(self.name)
        except AssertionError:
            return None


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that QEMU can reach."""
    folder = Path("/var/tmp") / f"domus-ocf-{uuid.uuid4().hex[:8]}"
    folder.mkdir(mode=0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def disk(place: Path) -> Path:
    made = place / "disk.img"
    made.write_bytes(b"\0" * (1 << 20))
    made.chmod(0o666)
    return made


@pytest.fixture
def vm(private_libvirtd: PrivateLibvirtd, place: Path, disk: Path) -> Iterator[Vm]:
    if not private_libvirtd.is_running():
        private_libvirtd.start()
    yield Vm(private_libvirtd, place, "ha1", disk)
    if not private_libvirtd.is_running():
        private_libvirtd.start()
    private_libvirtd.clear()


def _eventually(question: Callable[[], bool]) -> bool:
    give_up = time.monotonic() + 30
    while not question() and time.monotonic() < give_up:
        time.sleep(0.1)
    return question()


def test_the_metadata_is_valid_and_names_what_is_done(vm: Vm) -> None:
    done = vm.begin("meta-data")
    text = done.communicate(timeout=30)[0]
    assert done.returncode == SUCCESS
    root = etree.fromstring(text.encode())
    if SCHEMA.exists():
        etree.RelaxNG(etree.parse(str(SCHEMA))).assertValid(root)
    assert root.findtext("version") == "1.1"
    required = {"start", "stop", "monitor", "meta-data", "validate-all", "migrate_to", "migrate_from"}
    assert {one.get("name") for one in root.iterfind("actions/action")} == required
    assert {one.get("name") for one in root.iterfind("parameters/parameter")} == {"name", "uuid"}
    assert root.findall("parameters/parameter[@reloadable]") == []


def test_start_monitor_stop_in_each_state(vm: Vm) -> None:
    assert vm.call("validate-all") == SUCCESS
    assert vm.call("monitor") == NOT_RUNNING
    assert vm.call("stop") == SUCCESS, "what is stopped can be stopped"
    assert vm.call("start") == SUCCESS, vm.reason
    first = vm.pid()
    assert first is not None
    assert vm.call("monitor") == SUCCESS
    assert vm.call("start") == SUCCESS and vm.pid() == first, "what runs can be started, and is not started again"
    assert vm.libvirtd.virsh("dominfo", vm.name).count("Autostart:      disable") == 1
    assert vm.call("stop") == SUCCESS, vm.reason
    assert not vm.is_alive()
    assert vm.call("monitor") == NOT_RUNNING


def test_what_is_asked_wrongly(vm: Vm) -> None:
    assert vm.call("promote") == ERR_UNIMPLEMENTED
    assert vm.call("monitor", OCF_RESKEY_uuid="../../etc/passwd") == ERR_CONFIGURED
    assert vm.call("start", OCF_RESKEY_name="a b") == ERR_CONFIGURED
    assert vm.call("start", DOMUS_POOL_SETTINGS="/nowhere") == ERR_INSTALLED
    assert vm.call("migrate_to", OCF_RESKEY_CRM_meta_migrate_target="qemu+ssh://evil/") == ERR_ARGS
    assert subprocess.run(AGENT, capture_output=True, check=False).returncode == ERR_ARGS


def test_a_crash_is_seen(vm: Vm) -> None:
    assert vm.call("start") == SUCCESS, vm.reason
    os.kill(vm.pid() or 0, signal.SIGKILL)
    # While it is dying its disks are open, so it counts as running.
    assert _eventually(lambda: vm.call("monitor", OCF_RESKEY_CRM_meta_interval="10000") == NOT_RUNNING)
    assert vm.call("start") == SUCCESS, vm.reason
    assert vm.is_alive()


def test_a_paused_vm_runs(vm: Vm) -> None:
    assert vm.call("start") == SUCCESS, vm.reason
    vm.libvirtd.virsh("suspend", vm.name)
    assert vm.call("monitor") == SUCCESS
    assert vm.call("stop") == SUCCESS, vm.reason
    assert not vm.is_alive()


def test_without_libvirtd_it_is_seen_running_and_stopped_with_proof(vm: Vm) -> None:
    assert vm.call("start") == SUCCESS, vm.reason
    vm.libvirtd.kill()
    assert vm.is_alive(), "a VM does not depend on libvirtd"
    assert vm.call("monitor") == SUCCESS
    shutil.rmtree(vm.folder / "state")
    assert vm.call("monitor") == SUCCESS, "its process is found by its arguments, too"
    assert vm.call("stop") == SUCCESS, vm.reason
    assert not vm.is_alive()
    assert vm.call("monitor") == NOT_RUNNING
    assert vm.call("start") == ERR_GENERIC, "without libvirtd nothing is started"


def test_a_hanging_libvirtd_hangs_nobody(vm: Vm) -> None:
    assert vm.call("start") == SUCCESS, vm.reason
    daemons = vm.libvirtd.processes("libvirtd")
    for pid in daemons:
        os.kill(pid, signal.SIGSTOP)
    try:
        assert vm.call("monitor") == SUCCESS
        assert vm.call("stop", timeout=90) == SUCCESS, vm.reason
        assert not vm.is_alive()
    finally:
        for pid in daemons:
            os.kill(pid, signal.SIGCONT)


def test_a_start_that_libvirt_is_still_at_is_not_called_stopped(vm: Vm) -> None:
    """libvirtd hangs in the middle of a start that was given up, then goes on: whoever was told "stopped" would start it elsewhere meanwhile."""
    daemons = vm.libvirtd.processes("libvirtd")
    for pid in daemons:
        os.kill(pid, signal.SIGSTOP)
    try:
        assert vm.call("start", timeout=15) == ERR_GENERIC
        assert not vm.is_alive()
        assert vm.call("monitor") == ERR_GENERIC
        assert vm.call("stop", timeout=45) == ERR_GENERIC, "nobody can say that it will not start in a moment"
    finally:
        for pid in daemons:
            os.kill(pid, signal.SIGCONT)
    assert _eventually(lambda: vm.call("stop") == SUCCESS), vm.reason
    assert not vm.is_alive() and vm.call("monitor") == NOT_RUNNING
    assert vm.call("start") == SUCCESS, vm.reason


def test_the_pool_file_system_gone(vm: Vm) -> None:
    assert vm.call("start") == SUCCESS, vm.reason
    vm.records.rename(vm.folder / "away")
    assert vm.call("monitor") == SUCCESS, "it runs, whatever the storage does"
    assert vm.call("stop") == SUCCESS, vm.reason
    assert not vm.is_alive()
    assert vm.call("start") == ERR_GENERIC and not vm.is_alive()
    assert "mounted" in vm.reason
    assert not vm.records.exists(), "nothing is made where the file system should be"
    (vm.folder / "away").rename(vm.records)
    assert vm.call("start") == SUCCESS, vm.reason


def test_half_a_record_starts_nothing(vm: Vm) -> None:
    path = vm.records / f"{vm.uuid}.json"
    path.write_text(path.read_text(encoding="utf-8")[:-40], encoding="utf-8")
    assert vm.call("start") == ERR_GENERIC and not vm.is_alive()
    assert "not whole" in vm.reason


def test_start_waits_for_a_lock_to_fall(vm: Vm, place: Path, disk: Path) -> None:
    other = Vm(vm.libvirtd, place, "ha2", disk)
    assert other.call("start") == SUCCESS, other.reason
    waiting = vm.begin("start")
    time.sleep(3)
    # Its QEMU comes and goes with each attempt: whether a process is there at this moment says nothing.
    assert waiting.poll() is None and other.is_alive(), "it gave up though the lock may still fall"
    os.kill(other.pid() or 0, signal.SIGKILL)
    assert waiting.wait(timeout=60) == SUCCESS, waiting.communicate()[1]
    assert vm.is_alive()


def test_a_lock_that_never_falls(vm: Vm, place: Path, disk: Path) -> None:
    other = Vm(vm.libvirtd, place, "ha2", disk)
    assert other.call("start") == SUCCESS, other.reason
    settings = {**json.loads(vm.settings.read_text(encoding="utf-8")), "lock_patience": 1}
    vm.settings.write_text(json.dumps(settings), encoding="utf-8")
    assert vm.call("start") == ERR_GENERIC
    assert "lock" in vm.reason and not vm.is_alive() and other.is_alive()


def test_a_vm_saved_to_disk_goes_on_with_its_memory(vm: Vm) -> None:
    assert vm.call("start") == SUCCESS, vm.reason
    vm.libvirtd.virsh("managedsave", vm.name)
    assert vm.call("monitor") == NOT_RUNNING
    assert vm.call("start") == SUCCESS, vm.reason
    assert "no" in vm.libvirtd.virsh("dominfo", vm.name).partition("Managed save:")[2].splitlines()[0]


def test_a_vm_saved_elsewhere_is_not_started_from_nothing(vm: Vm) -> None:
    saved = PoolRecord(vm.uuid, vm.name, vm.record.definition, saved_on="srv2", generation=1)
    write_record(str(vm.records), saved, vm.token, lambda: True)
    assert vm.call("start") == ERR_INSTALLED and not vm.is_alive()
    assert "srv2" in vm.reason


def test_a_migration_that_can_not_be_leaves_it_running(vm: Vm) -> None:
    assert vm.call("start") == SUCCESS, vm.reason
    first = vm.pid()
    assert vm.call("migrate_to", OCF_RESKEY_CRM_meta_migrate_target="nowhere.invalid") == ERR_GENERIC
    assert "runs on here" in vm.reason
    assert vm.pid() == first and vm.call("monitor") == SUCCESS


def test_another_process_that_names_the_uuid_is_not_the_vm(vm: Vm) -> None:
    namesake = subprocess.Popen(["sleep", "60", ";", "-uuid", vm.uuid], stderr=subprocess.DEVNULL)
    try:
        assert vm.call("monitor") == NOT_RUNNING
    finally:
        namesake.kill()
        namesake.wait()
