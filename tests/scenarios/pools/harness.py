"""Reads a scenario of a pool and plays it; README.md says how one is written."""

from __future__ import annotations

import copy
import dataclasses
import os
import subprocess
from pathlib import Path
from typing import Any, Callable

from domus_core.cluster.cib import MONITOR_SECONDS, device_id, vm_id
from domus_core.cluster.pool import FenceDevice, HaVm, Member, Pool, QuorumDevice, Watchdog
from domus_core.cluster.pool_status import status_from
from domus_core.cluster.waiting_vms import unexplained, waiting
from domus_core.documents import load_document
from domus_core.model.quantities import UNITS
from lxml import etree

from tests.support.pool_simulation import Simulation

FOLDER = Path(__file__).parent
SETS = ("anti_affinity", "server_tags")
LISTS = ("start_after", "preferred_servers")


def scenario_files() -> list[Path]:
    """All scenarios."""
    return sorted(FOLDER.glob("*.yml"))


def load_scenario(path: Path) -> dict[str, Any]:
    """The data of a scenario file."""
    data: dict[str, Any] = load_document(path.read_text(encoding="utf-8"), name=path.name)
    return data


def bytes_of(text: Any) -> int:
    """`4GiB` as bytes."""
    number, unit = text[:-3], text[-3:]
    return int(float(number) * UNITS[unit])


def pool_of(data: dict[str, Any]) -> Pool:
    """The pool of a scenario; each server has a fence device of its own unless `devices` says otherwise."""
    members = tuple(_member(number, name, entry) for number, (name, entry) in enumerate(data["servers"].items(), 1))
    devices = tuple(FenceDevice(name, **entry) for name, entry in data.get("devices", {}).items())
    if "devices" not in data:
        devices = tuple(FenceDevice(f"power-{member.name}", "fence_test", {member.name: ""}) for member in members)
    settings = dict(data.get("pool", {}))
    if "quorum_device" in settings:
        settings["quorum_device"] = QuorumDevice(**settings["quorum_device"])
    if "watchdog" in settings:
        settings["watchdog"] = Watchdog(**settings["watchdog"])
    return Pool("rack1", members, devices, tuple(_vm(name, entry) for name, entry in data["vms"].items()), **settings)


def _member(number: int, name: str, entry: Any) -> Member:
    values = {"memory": entry} if isinstance(entry, str) else dict(entry)
    return Member(
        name,
        addresses=(f"192.0.2.{number}",),
        memory=bytes_of(values.get("memory", "16GiB")),
        cpus=values.get("cpus", 32),
        tags=frozenset(values.get("tags", ())),
        cpu_group=values.get("cpu_group"),
        evacuated=values.get("evacuated", False),
        closed=values.get("closed", False),
    )


def _vm(name: str, entry: dict[str, Any]) -> HaVm:
    values: dict[str, Any] = {key: value for key, value in entry.items() if key != "at" and (key, value) != ("wanted", "as it is")}
    if entry.get("wanted") == "as it is":
        values["wanted"] = None
    values.update({key: frozenset(values[key]) for key in SETS if key in values})
    values.update({key: tuple(values[key]) for key in LISTS if key in values})
    return HaVm(**{"name": name, "uuid": f"uuid-of-{name}", "cpus": 1, "wanted": True, **values, "memory": bytes_of(values.get("memory", "1GiB"))})


@dataclasses.dataclass
class Play:
    """A scenario under way: its data as changed so far, and the cluster."""

    data: dict[str, Any]
    cluster: Simulation

    def lost(self, server: str) -> None:
        """Its power goes, its network is cut or it freezes: for the others it is the same."""
        self.cluster.settle(f"--node-fail={server}")

    def alone(self, server: str) -> None:
        """It sees none of the others any more, and has no quorum."""
        others = [f"--node-fail={name}" for name in self.data["servers"] if name != server]
        self.cluster.settle("--quorum=0", *others)

    def back(self, server: str) -> None:
        """It has joined again."""
        self.cluster.settle(f"--node-up={server}")

    def unmarked(self, server: str) -> None:
        """Its mark is not there, or not yet, though it lives."""
        self.cluster.mark(server, False)
        self.cluster.settle()

    def shut_down(self, server: str) -> None:
        """Its cluster software is stopped as planned: what runs there leaves first."""
        state = self.cluster.cib.find(f"status/node_state[@uname='{server}']")
        attributes = state.find("transient_attributes/instance_attributes")
        etree.SubElement(attributes, "nvpair", id=f"status-{state.get('id')}-shutdown", name="shutdown", value="1700000000")
        self.cluster.settle()

    def crashed(self, vm: str) -> None:
        """A monitor finds the VM's QEMU gone."""
        self.cluster.settle(f"--op-inject={self._operation(vm, 'monitor', MONITOR_SECONDS * 1000)}@{self.cluster.places()[vm]}=7")

    def crashes(self, entry: dict[str, Any]) -> None:
        """It crashes several times, wherever it runs then."""
        for dummy in range(entry["times"]):
            self.crashed(entry["vm"])

    def shut_itself_down(self, vm: str) -> None:
        """Its guest powers off, its owner wants it to stay so: the agent sets the target role, then a monitor finds it gone."""
        self.cluster.cib.find(f".//primitive[@id='{vm_id(vm)}']/meta_attributes/nvpair[@name='target-role']").set("value", "Stopped")
        self.crashed(vm)

    def start_fails(self, entry: dict[str, Any]) -> None:
        """Its next starts on a server fail: a lock that does not fall, a network that is not there."""
        for dummy in range(entry.get("times", 1)):
            self.cluster.run(f"--op-fail={self._operation(entry['vm'], 'start')}@{entry['at']}=1", *entry.get("with", []))
        self.cluster.settle()

    def stop_fails(self, vm: str) -> None:
        """It is to stop and does not: its QEMU hangs in its storage."""
        self._set_wanted(vm, False)
        self.cluster.settle(f"--op-fail={self._operation(vm, 'stop')}@{self.cluster.places()[vm]}=1")

    def migration_fails(self, vm: str) -> None:
        """Its server is evacuated, and its live migration breaks off."""
        server = self.cluster.places()[vm]
        self.change({"servers": {server: {"evacuated": True}}}, settle=False)
        self.cluster.settle(f"--op-fail={self._operation(vm, 'migrate_to')}@{server}=1")

    def refreshed(self, vm: str) -> None:
        """Somebody has looked: its history is forgotten while it is unmanaged, a probe finds it where it runs, then it is managed again."""
        server = next(iter(self.cluster.last_places[vm].split("+")))
        meta = self.cluster.cib.find(f".//primitive[@id='{vm_id(vm)}']/meta_attributes")
        etree.SubElement(meta, "nvpair", id="unmanaged", name="is-managed", value="false")
        self.cluster.show_probed(vm, server)
        self.cluster.settle()
        unmanaged = self.cluster.cib.find(".//nvpair[@id='unmanaged']")
        unmanaged.getparent().remove(unmanaged)
        self.cluster.settle()

    def change(self, changes: dict[str, Any], settle: bool = True) -> None:
        """The document is changed and applied; None takes a VM, a server or a device out."""
        self.data = _overlay(self.data, changes)
        self.cluster.configure(pool_of(self.data))
        if settle:
            self.cluster.settle()

    def stop(self, vm: str) -> None:
        """Somebody stops it: the target role."""
        self._set_wanted(vm, False)
        self.cluster.settle()

    def start(self, vm: str) -> None:
        """Somebody starts it."""
        self._set_wanted(vm, True)
        self.cluster.settle()

    def by_hand(self, pieces: dict[str, str]) -> None:
        """An administrator puts something of his own into the CIB, below a path."""
        for path, xml in pieces.items():
            self.cluster.cib.find(f"configuration/{path}").append(etree.fromstring(xml))
        self.cluster.settle()

    def _set_wanted(self, vm: str, wanted: bool) -> None:
        self.data = _overlay(self.data, {"vms": {vm: {"wanted": wanted}}})
        self.cluster.configure(pool_of(self.data))

    @staticmethod
    def _operation(vm: str, name: str, interval: int = 0) -> str:
        return f"{vm_id(vm)}_{name}_{interval}"


def _overlay(data: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = copy.deepcopy(data)
    for key, value in changes.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            there = merged.get(key)
            merged[key] = _overlay(there if isinstance(there, dict) else {"memory": there} if isinstance(there, str) else {}, value)
        else:
            merged[key] = value
    return merged


def play(scenario: dict[str, Any], folder: Path) -> tuple[Play, dict[str, str]]:
    """The scenario after its last event, and what each VM came to: where it is (or `off`), and one word of what happened to it."""
    cluster = Simulation(folder, pool_of(scenario))
    places = {name: vm["at"] for name, vm in scenario["vms"].items() if "at" in vm}
    waiting = {name: {"wanted": False} for name, vm in scenario["vms"].items() if "at" not in vm}
    cluster.configure(pool_of(_overlay(scenario, {"vms": waiting})))
    cluster.start_at(places)
    acts = Play(scenario, cluster)
    if waiting:
        acts.change({}, settle=False)
    for event in scenario["events"]:
        if isinstance(event, str):
            event = {event: ""}
        for name, argument in event.items():
            handler: Callable[..., None] = getattr(acts, name)
            handler(argument)
    if not scenario["events"]:
        cluster.settle()
    return acts, told(acts, places)


def told(acts: Play, before: dict[str, str]) -> dict[str, str]:
    """Where each VM of the pool is, and what happened to it."""
    after = acts.cluster.places()
    return {vm.name: f"{after.get(vm.name, 'off')} {acts.cluster.word(vm.name, vm.name in before)}" for vm in acts.cluster.pool.vms}


def devices_watch_others(cluster: Simulation) -> bool:
    """Does no device of a single server run on that server?"""
    running = {
        str(one.get("id")): str(node.get("name"))
        for one in cluster.status.iterfind(".//revised_cluster_status/resources/resource")
        for node in one.iterfind("node")
    }
    single = {device_id(device.name): next(iter(device.servers)) for device in cluster.pool.devices if len(device.servers) == 1}
    return all(running.get(name) != server for name, server in single.items())


def waiting_vms(cluster: Simulation) -> dict[str, str]:
    """What a member tells of the VMs that are to run and for which it sees no server, by name."""
    path = cluster.folder / "now.xml"
    cluster.write(path)
    mon = ["crm_mon", "--one-shot", "--output-as=xml", "--inactive"]
    now = subprocess.run(mon, env={**os.environ, "CIB_file": str(path)}, capture_output=True, check=True).stdout
    simulate = ["crm_simulate", f"--xml-file={path}", "--output-as=xml", "--show-utilization"]
    simulated = etree.fromstring(subprocess.run(simulate, capture_output=True, check=True).stdout)
    return {one.about: one.text for one in waiting(cluster.cib, simulated, unexplained(status_from(now)))}
