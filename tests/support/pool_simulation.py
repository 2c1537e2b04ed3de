"""A pool before Pacemaker's own scheduler: crm_simulate plays what happens to a CIB that Domus wrote; no cluster runs."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Optional

from domus_core.cluster.cib import UP, vm_id, wanted_configuration
from domus_core.cluster.cib_merge import CibChange, merge_configuration
from domus_core.cluster.corosync import assign_node_ids
from domus_core.cluster.pool import HaVm, Pool, check_pool
from lxml import etree

MOST_ROUNDS = 12
EMPTY = "<configuration><crm_config/><nodes/><resources/><constraints/></configuration>"
# What this Pacemaker writes; a newer one would be refused.
FEATURE_SET = "3.16.1"


@dataclasses.dataclass
class Simulation:
    """A cluster whose CIB is a file in `folder`; `actions` tells, in their order, what was done to resources and servers since the last `forget`."""

    folder: Path
    pool: Pool
    cib: Any = None
    status: Any = None
    terminated: bool = False
    last_change: Optional[CibChange] = None
    node_ids: dict[str, int] = dataclasses.field(default_factory=dict)
    last_places: dict[str, str] = dataclasses.field(default_factory=dict)
    actions: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        versions = {"crm_feature_set": FEATURE_SET, "validate-with": "pacemaker-3.9", "admin_epoch": "0", "epoch": "1", "num_updates": "0", "have-quorum": "1"}
        self.cib = etree.Element("cib", versions)
        self.cib.append(etree.fromstring(EMPTY))
        etree.SubElement(self.cib, "status")
        self.configure(self.pool)

    def configure(self, pool: Pool) -> CibChange:
        """Give the cluster this pool, as the edge does: merged into what it has; VMs say where they run."""
        places = self.places()
        self.last_places.update({vm: server for vm, server in places.items() if "+" not in server})
        pool = dataclasses.replace(pool, vms=tuple(self._located(vm, places) for vm in pool.vms))
        assert check_pool(pool) == []
        self.pool = pool
        self.node_ids = assign_node_ids([member.name for member in pool.members], self.node_ids)
        change = merge_configuration(self.cib.find("configuration"), wanted_configuration(pool, self.node_ids))
        self.cib.replace(self.cib.find("configuration"), change.configuration)
        self._show_watchdog(pool)
        self.cib.set("epoch", str(int(self.cib.get("epoch")) + 1))
        self._show_members()
        self.last_change = change
        return change

    def _show_watchdog(self, pool: Pool) -> None:
        """What Pacemaker's controller says of itself where SBD runs."""
        properties = self.cib.find("configuration/crm_config")
        for old in properties.findall("cluster_property_set[@id='cib-bootstrap-options']"):
            properties.remove(old)
        if pool.watchdog is not None:
            own = etree.SubElement(properties, "cluster_property_set", id="cib-bootstrap-options")
            etree.SubElement(own, "nvpair", id="cib-bootstrap-options-have-watchdog", name="have-watchdog", value="true")

    def _located(self, vm: HaVm, places: dict[str, str]) -> HaVm:
        return dataclasses.replace(vm, server=places.get(vm.name), last_server=self.last_places.get(vm.name))

    def mark(self, server: str, up: bool) -> None:
        """What the resource `domus-up`, and Pacemaker when it loses a member, do to the server's mark."""
        state = self.cib.find(f"status/node_state[@uname='{server}']")
        for old in state.findall("transient_attributes"):
            state.remove(old)
        if up:
            number = state.get("id")
            attributes = etree.SubElement(etree.SubElement(state, "transient_attributes", id=number), "instance_attributes", id=f"status-{number}")
            etree.SubElement(attributes, "nvpair", id=f"status-{number}-up", name=UP, value="1")

    def _show_members(self) -> None:
        """A server that is new has joined; the rest is as it was."""
        status = self.cib.find("status")
        known = {node.get("uname") for node in status}
        for name, number in self.node_ids.items():
            if name not in known:
                states = {"in_ccm": "true", "crmd": "online", "join": "member", "expected": "member", "crm-debug-origin": "simulation"}
                etree.SubElement(status, "node_state", id=str(number), uname=name, **states)
                self.mark(name, True)

    def start_at(self, places: dict[str, str]) -> None:
        """Let VMs run where they are said to run: they are told so once, then it is forgotten."""
        constraints = self.cib.find("configuration/constraints")
        for vm, server in places.items():
            etree.SubElement(constraints, "rsc_location", id=f"first-{vm}", rsc=vm_id(vm), node=server, score="INFINITY")
        self.settle()
        constraints = self.cib.find("configuration/constraints")
        for constraint in [one for one in constraints if one.get("id").startswith("first-")]:
            constraints.remove(constraint)
        found = self.places()
        assert {vm: found.get(vm) for vm in places} == places, "the VMs can not run where the scenario has them"
        self.forget()

    def show_running(self, places: dict[str, str], *, probed: bool = False) -> None:
        """VMs that run already, as their history says; quicker than letting them start. `probed`: all servers were asked for all of them."""
        for state in self.cib.find("status"):
            history = etree.SubElement(etree.SubElement(state, "lrm", id=state.get("id")), "lrm_resources")
            for vm, server in places.items():
                if server == state.get("uname") or probed:
                    name, code = ("start", 0) if server == state.get("uname") else ("monitor", 7)
                    self._show_operation(history, vm, name, code)
        self.pool = dataclasses.replace(self.pool, vms=tuple(self._located(vm, places) for vm in self.pool.vms))

    def show_probed(self, vm: str, server: str) -> None:
        """What all servers say of a VM after its history was forgotten: it runs on this one."""
        for state in self.cib.find("status"):
            history = state.find("lrm/lrm_resources")
            for old in history.findall(f"lrm_resource[@id='{vm_id(vm)}']"):
                history.remove(old)
            self._show_operation(history, vm, "monitor", 0 if state.get("uname") == server else 7)

    def _show_operation(self, history: Any, vm: str, name: str, code: int) -> None:
        key = f"1:0:{code}:xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"
        resource = etree.SubElement(history, "lrm_resource", {"id": vm_id(vm), "class": "ocf", "provider": "domus", "type": "vm"})
        told = {
            "id": f"{vm_id(vm)}_last_0",
            "operation": name,
            "operation_key": f"{vm_id(vm)}_{name}_0",
            "op-digest": self._digest(vm),
            "crm_feature_set": FEATURE_SET,
            "transition-key": key,
            "transition-magic": f"0:{code};{key}",
            "call-id": "2",
            "rc-code": str(code),
            "op-status": "0",
            "interval": "0",
        }
        etree.SubElement(resource, "lrm_rsc_op", told)

    def write(self, path: Path) -> None:
        """The CIB as a file."""
        path.write_bytes(etree.tostring(self.cib))

    def _digest(self, name: str) -> str:
        """By this Pacemaker sees whether a resource was started with the parameters that it has now."""
        uuid = next(vm.uuid for vm in self.pool.vms if vm.name == name)
        return hashlib.md5(f' <parameters name="{name}" uuid="{uuid}"/>\n'.encode(), usedforsecurity=False).hexdigest()

    def forget(self) -> None:
        """Tell from now on."""
        self.actions = []

    def settle(self, *options: str, quick: bool = False) -> None:
        """Let the scheduler have its way until nothing is left to do, or once when `quick`; options hold for the first round only.

        A transition that is terminated in the middle (an order beside a live migration does that) is followed by another, as in a real cluster.
        """
        for option in options:
            if option.startswith(("--node-fail=", "--node-up=")):
                self.mark(option.split("=")[1], option.startswith("--node-up"))
        for number in range(MOST_ROUNDS):
            done = self.run(*(options if number == 0 else [one for one in options if one.startswith("--quorum")]))
            if not done and (not self.terminated or "--quorum=0" in options) or quick and not self.terminated:
                return
        raise AssertionError(f"it never settles: {self.actions[-20:]}")

    def run(self, *options: str) -> list[tuple[str, str, str]]:
        """One run of the scheduler, its transition carried out; what was done, in its order."""
        assert shutil.which("crm_simulate"), "crm_simulate is missing: apt-get install --no-install-recommends pacemaker-cli-utils"
        source, target = self.folder / "cib.xml", self.folder / "after.xml"
        self.write(source)
        command = ["crm_simulate", "--simulate", f"--xml-file={source}", f"--save-output={target}", "--output-as=xml", *options]
        done = subprocess.run(command, capture_output=True, check=False, timeout=120)
        self.terminated = done.returncode == 1
        assert done.returncode in (0, 1), f"{' '.join(command)}: {done.stderr.decode()[-1000:]}"
        self.cib = etree.fromstring(target.read_bytes(), etree.XMLParser(remove_blank_text=True))
        self.status = etree.fromstring(done.stdout)
        actions = [(element.get("op"), element.get("resource") or element.get("target"), element.get("node") or "") for element in _done(self.status)]
        self.actions += actions
        return actions

    def places(self) -> dict[str, str]:
        """Where each VM runs; one that is off is left out. Asserts that none runs twice."""
        places: dict[str, str] = {}
        if self.status is None:  # the scheduler has not run yet: only what was shown to it
            return {vm.name: vm.server for vm in self.pool.vms if vm.server}
        ours = {vm_id(vm.name): vm.name for vm in self.pool.vms}
        for resource in self.status.iterfind(".//revised_cluster_status/resources/resource"):
            nodes = [node.get("name") for node in resource.iterfind("node")]
            assert len(nodes) <= 1 or resource.get("blocked") == "true", f"{resource.get('id')} runs on {nodes}"
            if nodes and resource.get("role") == "Started" and resource.get("id") in ours:
                places[ours[resource.get("id")]] = "+".join(sorted(nodes))
        return places

    def blocked(self) -> set[str]:
        """Resources that Pacemaker leaves alone until somebody has looked."""
        return {str(one.get("id")) for one in self.status.iterfind(".//revised_cluster_status/resources/resource[@blocked='true']")}

    def online(self) -> set[str]:
        """The servers that may run VMs now."""
        nodes = self.status.iterfind(".//revised_cluster_status/nodes/node")
        return {str(node.get("name")) for node in nodes if node.get("online") == "true" and node.get("standby") == "false"}

    def word(self, vm: str, ran: bool) -> str:
        """What happened to a VM since the last `forget`, in one word."""
        done = {op for op, resource, dummy in self.actions if resource == vm_id(vm)}
        if "migrate_to" in done and "start" not in done:
            return "migrated"
        if "start" in done:
            return "restarted" if ran else "started"
        return "stopped" if "stop" in done or ran and vm not in self.places() else "untouched"

    def fenced(self) -> list[str]:
        """The servers whose power was cut."""
        return sorted({resource for op, resource, dummy in self.actions if op in ("reboot", "off")})


def _done(status: Any) -> Iterable[Any]:
    """Actions on resources and servers; probes and recurring monitors change nothing."""
    for element in status.iterfind(".//transition/*"):
        if element.tag == "fencing_action" or element.tag == "rsc_action" and element.get("op") != "monitor":
            yield element


def room_left(pool: Pool, places: dict[str, str]) -> dict[str, tuple[int, int]]:
    """Memory in bytes and vCPUs that each server has left for HA VMs."""
    left = {member.name: (member.memory, member.cpus) for member in pool.members}
    for vm in pool.vms:
        server = places.get(vm.name)
        if server in left:
            left[server] = (left[server][0] - vm.memory, left[server][1] - vm.cpus)
    return left


def may_run(vm: HaVm, server: str, pool: Pool, places: dict[str, str]) -> bool:
    """Do the rules allow this VM on this server, as the other VMs are placed? Room is another question."""
    member = next(member for member in pool.members if member.name == server)
    if not vm.server_tags <= member.tags or vm.cpu_group not in (None, member.cpu_group):
        return False
    there = [other for other in pool.vms if other.name != vm.name and places.get(other.name) == server]
    return not any(vm.anti_affinity & other.anti_affinity for other in there)
