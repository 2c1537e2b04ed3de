"""What is wrong in a pool, in plain words and with what to do, from what Pacemaker tells (`crm_mon`, as XML). Pure."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

from .cib import DEVICE, VM
from .manager_group import GROUP as MANAGER

ACTION, FENCE_DEVICE, FENCING, SERVER, BLOCKED, QUORUM = "action_failed", "fence_device_failed", "fencing_failed", "server_unclean", "vm_blocked", "quorum_lost"
LINK, SILENT, UNLOCKED, WAITS = "link_down", "pool_not_told", "vm_unlocked", "vm_waits"
# What a server knows of itself alone; all else every member sees, and one of them tells of it.
ITS_OWN = frozenset({LINK, SILENT, UNLOCKED})
_KEY = re.compile(r"(.+?)_(migrate_to|migrate_from|[a-z-]+)_\d+")
CLEAR = "domus-agent pool clear"

# What a failed action of a VM means, and what is to be done.
VM_ACTIONS = {
    "start": ("could not start VM {name} on {server}", f"Mend what the reason names (domus-agent doctor on {{server}}), then: {CLEAR}"),
    "stop": (
        "could not stop VM {name} on {server}, so nobody starts it elsewhere",
        f"See on {{server}} what keeps its QEMU (storage that hangs?); when it has ended: {CLEAR}",
    ),
    "migrate_to": ("could not migrate VM {name} away from {server}, where it runs on", f"Mend what the reason names, then: {CLEAR}"),
    "migrate_from": ("could not migrate VM {name} to {server}", f"Mend what the reason names (domus-agent doctor on {{server}}), then: {CLEAR}"),
    "monitor": (
        "VM {name} did not run on {server} as it was to, or could not be looked at",
        f"It is restarted by itself; see /var/log/libvirt/qemu/{{name}}.log on {{server}} why it ended, then: {CLEAR}",
    ),
}
DEVICE_FAILED = ("fence device {name} does not work from {server}", "Check its address, user and password, then: domus-agent pool fence-test")
MANAGER_FAILED = (
    "{action} of the manager's part {name} failed on {server}",
    f"journalctl -u domus-manager -u domus-nginx -u domus-runner on {{server}} says why; then: {CLEAR}",
)
OTHERS_FAILED = ("{action} of {name} failed on {server}", f"It is none of Domus's: whoever added it knows; then: {CLEAR}")


@dataclasses.dataclass(frozen=True)
class Problem:
    """One thing that needs somebody: of which `kind`, about which object, at which server, doing what; `text` says it, `remedy` what to do."""

    kind: str
    about: str
    text: str
    remedy: str
    server: str = ""
    action: str = ""

    @property
    def key(self) -> str:
        """The same for as long as it is the same problem, however often it is tried again."""
        return " ".join(filter(None, (self.kind, self.about, self.server, self.action)))

    def __str__(self) -> str:
        return f"{self.text} -> {self.remedy}" if self.remedy else self.text


def operation_of(failure: Any) -> tuple[str, str]:
    """Resource and action of a failure; both may have underscores in them."""
    told = _KEY.fullmatch(failure.get("op_key") or "")
    return (told[1], told[2]) if told else (str(failure.get("id")), str(failure.get("task")))


def problems_of(root: Any) -> tuple[Problem, ...]:
    """The problems in the output of crm_mon, each once: fencing that fails is tried again and again."""
    found: dict[str, Problem] = {}
    for problem in [*_quorum(root), *_failed_actions(root), *_fencing(root), *_unclean(root), *_blocked(root)]:
        found.setdefault(problem.key, problem)
    return tuple(found.values())


def unlocked_vm(name: str, server: str) -> Problem:
    """A VM runs whose disks nobody holds the locks of: virtlockd was ended with them, or came after the VM."""
    text = f"VM {name} runs on {server} without the locks of its disks: nothing keeps another server from starting it, too"
    return Problem(UNLOCKED, name, text, "Migrate or restart it: it has locks again; systemctl status virtlockd", server)


def _quorum(root: Any) -> Iterator[Problem]:
    center = root.find("summary/current_dc")
    if center is not None and center.get("with_quorum") == "false":
        text = "the servers that this one sees have no quorum: VMs that run here run on, none is started"
        yield Problem(QUORUM, "quorum", text, "Bring the other servers or the network between them back")


def _failed_actions(root: Any) -> Iterator[Problem]:
    for one in root.iterfind("failures/failure"):
        resource, action = operation_of(one)
        kind, name, (text, remedy) = ACTION, resource, OTHERS_FAILED
        if resource.startswith(VM):
            name = resource[len(VM) :]
            text, remedy = VM_ACTIONS.get(action, OTHERS_FAILED)
        elif resource.startswith(DEVICE) or _is_device(root, resource):
            kind, name, (text, remedy) = FENCE_DEVICE, resource.removeprefix(DEVICE), DEVICE_FAILED
        elif resource.startswith(f"{MANAGER}-"):
            name, (text, remedy) = resource.removeprefix(f"{MANAGER}-"), MANAGER_FAILED
        known = {"name": name, "server": str(one.get("node")), "action": action}
        yield Problem(kind, name, f"{text.format(**known)}: {_reason(one)}", remedy.format(**known), known["server"], action)


def _is_device(root: Any, resource: str) -> bool:
    return any(str(one.get("resource_agent")).startswith("stonith:") for one in root.iterfind("resources//resource") if one.get("id") == resource)


def _reason(failure: Any) -> str:
    """What the agent said; else whether it took too long; else the kind of its exit code."""
    if failure.get("exitreason"):
        return str(failure.get("exitreason"))
    if failure.get("status") == "Timed Out":
        return "it took longer than it may"
    return str(failure.get("exitstatus"))


def _fencing(root: Any) -> Iterator[Problem]:
    """Attempts that failed; those to a server that was cut later are over."""
    events = list(root.iterfind("fence_history/fence_event"))
    cut = [(event.get("target"), event.get("completed") or "") for event in events if event.get("status") == "success"]
    for event in events:
        target = str(event.get("target"))
        if event.get("status") == "failed" and not any(name == target and at >= (event.get("completed") or "") for name, at in cut):
            reason = event.get("exit-reason") or event.get("extended-status") or "no device could do it"
            remedy = f"See which device answers (domus-agent pool fence-test); if {target} is surely off: stonith_admin --confirm {target}; then: {CLEAR}"
            yield Problem(FENCING, target, f"could not cut the power of {target} ({event.get('action')}): {reason}", remedy, target)


def _unclean(root: Any) -> Iterator[Problem]:
    for node in root.iterfind("nodes/node"):
        if node.get("unclean") == "true":
            name = str(node.get("name"))
            text = f"{name} is to be cut, and is not proven to be off: its VMs are started nowhere until it is"
            yield Problem(SERVER, name, text, f"Mend its fence device (domus-agent pool fence-test); if it is surely off: stonith_admin --confirm {name}", name)


def _blocked(root: Any) -> Iterator[Problem]:
    for one in root.iterfind("resources//resource"):
        if one.get("blocked") == "true":
            name = str(one.get("id")).removeprefix(VM)
            yield Problem(BLOCKED, name, f"{name} is blocked: Pacemaker does nothing with it", f"Mend what failed of it, then: {CLEAR}")
