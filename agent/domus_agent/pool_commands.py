"""`domus-agent pool`: this server as a member of its clustered pool, without agent and manager; the role `server_pool` works by it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable

from domus_core.cluster.corosync import known_node_ids
from domus_core.cluster.failures import clear_failures
from domus_core.cluster.fence_tests import FenceTest, ask_devices, cut_power, recall
from domus_core.cluster.member_files import CONF, KEY, is_ours, read_file, write_files
from domus_core.cluster.member_services import UNITS, is_active, leave_packaged, start_member, stop_member
from domus_core.cluster.member_steps import realize, resign
from domus_core.cluster.pacemaker import Pacemaker, told
from domus_core.cluster.pool_document import PoolDocument, read_pool_document
from domus_core.cluster.pool_state import read_pool_state, told_of
from domus_core.cluster.pool_status import read_status
from domus_core.cluster.waking import power_on
from domus_core.errors import InvalidSpec, NotFound

from . import contact
from .config import AgentConfig
from .output import print_text, show_one, table, tell_changes
from .pool_manager_command import add_options as add_manager_options
from .pool_manager_command import manager
from .pool_vm_commands import change_vm, migrate_vm, start_vm, stop_vm, vms

DONE, FAILED, CHANGES = 0, 1, 2


def member(config: AgentConfig, options: argparse.Namespace) -> int:
    """Tell what of a pool is on this server, whether it runs or not."""
    conf = read_file(CONF)
    is_member = is_ours(conf)
    seen = {"node_ids": known_node_ids(conf) if is_member else {}, "has_key": is_member and os.path.exists(KEY)}
    show_one({**seen, "services": {unit: is_active(unit) for unit in UNITS}}, options.output)
    return DONE


def status(config: AgentConfig, options: argparse.Namespace) -> int:
    """Tell how the pool is: quorum, members, links, fence devices, VMs, and what is wrong with what to do about it."""
    state = read_pool_state()
    if state is None:
        raise NotFound("this server is in no pool of Domus's", remedy="The role server_pool makes one")
    told = told_of(state, recall(config.state_directory))
    if options.output == "json":
        show_one(told, "json")
    else:
        _show_state(told)
    return FAILED if told["problems"] else DONE


def _show_state(state: Mapping[str, Any]) -> None:
    """The state for people: a few lines, then a table for each list that has something in it."""
    votes = "{total} of {expected}".format(**state["votes"]) if state["votes"] else None
    show_one({**{name: state[name] for name in ("pool", "quorate", "coordinator")}, "votes": votes}, "table")
    tables = {
        "members": [{"member": name, "state": value} for name, value in state["members"].items()],
        "links": state["links"],
        "devices": [{"fence device": name, "watched by": servers} for name, servers in state["fence_devices"].items()],
        "tests": [_told_test(FenceTest(**test)) for test in state["fence_tests"]],
        "vms": [{"vm": name, "on": servers} for name, servers in state["vms"].items()],
    }
    for rows in filter(None, tables.values()):
        print_text("\n" + table(rows))
    for problem in state["problems"]:
        print_text(f"\n{problem['text']}\n-> {problem['remedy']}")


def fence_test(config: AgentConfig, options: argparse.Namespace) -> int:
    """Ask each fence device for the power of each other server; with a server to be cut, really cut that one's power."""
    own = os.uname().nodename
    tests = cut_power(config.state_directory, own, options.cut) if options.cut else ask_devices(config.state_directory, own)
    if options.output == "json":
        show_one({"tests": [dataclasses.asdict(test) for test in tests]}, "json")
    else:
        print_text(table([_told_test(test) for test in tests]))
    return FAILED if any(test.problem for test in tests) and not options.report else DONE


def switch_on(config: AgentConfig, options: argparse.Namespace) -> int:
    """Have the fence devices of another member switch it on."""
    show_one({"devices": [dataclasses.asdict(one) for one in power_on(os.uname().nodename, options.server)]}, options.output)
    return DONE


def _told_test(test: FenceTest) -> dict[str, Any]:
    outcome = test.problem or (f"cut, and {test.state} again" if test.cut else test.state)
    return {"fence device": test.device, "server": test.server, "last test": contact.moment(test.at), "outcome": outcome}


def write(config: AgentConfig, options: argparse.Namespace) -> int:
    """Write this member's files."""
    document = _document(options.file)
    left = leave_packaged(options.check)
    return tell_changes([*left, *write_files(document, options.check)], options)


def realize_member(config: AgentConfig, options: argparse.Namespace) -> int:
    """Be a member as the manager says: all that `write`, `start` and `apply` do, in an order that suits all members at once."""
    data = _data(options.file)
    applies = bool(data.pop("applies", False))
    show_one({"changes": realize(read_pool_document(data), applies)}, options.output)
    return DONE


def start(config: AgentConfig, options: argparse.Namespace) -> int:
    """Have Corosync and Pacemaker run by these files."""
    return tell_changes(start_member(options.check), options)


def apply(config: AgentConfig, options: argparse.Namespace) -> int:
    """Put the pool into Pacemaker's configuration; one member does it for all."""
    document = _document(options.file)
    pacemaker = Pacemaker()
    work = pacemaker.plan if options.check else pacemaker.apply
    change = work(document.pool, document.node_ids, document.keeps_vms)
    show_one(told(change), options.output)
    return CHANGES if options.check and change.changes else DONE


def clear(config: AgentConfig, options: argparse.Namespace) -> int:
    """Forget failures whose cause is mended."""
    return tell_changes(read_status().failed if options.check else clear_failures(), options)


def leave(config: AgentConfig, options: argparse.Namespace) -> int:
    """Be a member no more."""
    return tell_changes(stop_member(check=True) if options.check else resign(), options)


def _document(path: str) -> PoolDocument:
    return read_pool_document(_data(path))


def _data(path: str) -> Any:
    text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidSpec(f"is no JSON: {error}", object=path) from None


ACTIONS: dict[str, tuple[Callable[[AgentConfig, argparse.Namespace], int], str]] = {
    "member": (member, "What of a pool is on this server: its files' node ids, the key, the services."),
    "status": (status, "How the pool is, and what to do about what is wrong; exit code 1 when something is."),
    "fence-test": (fence_test, "Ask each fence device for the power of each other server, and remember the answers; exit code 1 when one has failed."),
    "power-on": (switch_on, "Have the fence devices of another member switch it on, as after an orderly end."),
    "vms": (vms, "List the pool's VMs: where those with HA run, and where the others ran last."),
    "start-vm": (start_vm, "Have a VM of the pool run and wait for it: with HA wherever there is room, else on its server, or here when that one is off."),
    "stop-vm": (stop_vm, "Have a VM of the pool not run, wherever it does: its guest is asked to shut down."),
    "migrate-vm": (migrate_vm, "Move a VM of the pool live to another member, from whichever member it is on."),
    "change-vm": (change_vm, "Make VMs of the pool, wherever they are, as a document says; what it does not say stays."),
    "write": (write, "Write this member's files; no service is touched."),
    "realize": (realize_member, "Be a member as the document says: write, start, and (where it says `applies`) apply. For the agent."),
    "start": (start, "Have Corosync and Pacemaker run by these files, and wait until this server has joined."),
    "apply": (apply, "Put the pool into Pacemaker's configuration, in one atomic write; one member does it for all."),
    "manager": (manager, "Have the pool run the manager itself, as a service of the members that are named."),
    "clear": (clear, "Forget failed actions and failed fencing, once their cause is mended; no VM is restarted for it."),
    "leave": (leave, "Be a member no more; refused while HA VMs run here."),
}


def add_actions(parser: Any) -> None:
    """The actions of `domus-agent pool`, as subcommands of `parser`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, (run, text) in ACTIONS.items():
        one = actions.add_parser(name, help=text, description=text)
        one.add_argument("-o", "--output", choices=("table", "json"), default="table", help="how to print (default: %(default)s)")
        one.set_defaults(run=run)
        if name not in ("member", "status", "fence-test", "power-on", "vms", "realize"):
            one.add_argument("--check", action="store_true", help="only say what would change; exit code 2 when that is something")
        if name in ("write", "apply", "realize", "change-vm"):
            what = "the document" if name == "change-vm" else "the pool as JSON"
            one.add_argument("-f", "--file", required=True, metavar="FILE", help=f"{what}; - is standard input")
        if name == "fence-test":
            one.add_argument("--report", action="store_true", help="exit code 0 also when a device has failed: the answer says so")
            one.add_argument("--cut", metavar="SERVER", help="really cut the power of this member and give it back; refused while HA VMs run on it")
        if name == "power-on":
            one.add_argument("server", metavar="SERVER", help="the member's name")
        if name in ("start-vm", "stop-vm", "migrate-vm"):
            one.add_argument("vm", metavar="VM", help="the VM's name")
            one.add_argument("--timeout", type=float, default=300.0, metavar="SECONDS", help="how long to wait for it (default: %(default)g)")
        if name == "manager":
            add_manager_options(one)
        if name == "stop-vm":
            one.add_argument("--force", action="store_true", help="power it off when its guest does not shut down in time; with HA that is always done")
        if name == "migrate-vm":
            one.add_argument("server", metavar="SERVER", help="the member that it is to run on")
