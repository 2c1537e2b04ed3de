"""`domus-agent pool ...-vm`: the VMs of a pool from any of its members, while the manager is away.

An HA VM is Pacemaker's, so it is told there. Any other is worked on where it is, through that member's libvirt: members trust each other's
certificates.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
from collections.abc import Iterator

from domus_core import engine
from domus_core.cluster.membership import Membership, read_membership
from domus_core.cluster.pacemaker import Pacemaker
from domus_core.cluster.pool_status import read_status
from domus_core.cluster.pool_vms import STARTED, STOPPED, PoolVm, move, set_wanted, vms_of
from domus_core.cluster.record_files import all_records
from domus_core.cluster.records import PoolRecord
from domus_core.cluster.waiting_vms import with_waiting
from domus_core.documents import read_document
from domus_core.errors import Conflict, DomusError, NotFound
from domus_core.libvirt_driver.driver import LibvirtDriver, open_driver
from domus_core.libvirt_driver.pooled import migrate_plainly
from domus_core.model.document import Site, parse_document
from domus_core.verbs import carry_out_verb

from .config import AgentConfig
from .output import complain, print_text, remark, table, tell_changes

DONE, FAILED = 0, 1


def vms(config: AgentConfig, options: argparse.Namespace) -> int:
    """List the pool's VMs; those without HA only where the pool file system is there."""
    found = _all_vms(_membership())
    if options.output == "json":
        print_text(json.dumps([dataclasses.asdict(vm) for vm in found], indent=2))
    else:
        rows = [{"vm": vm.name, "ha": vm.is_ha, "on": vm.servers, "wanted": vm.wanted, "problems": "; ".join(vm.problems), "uuid": vm.uuid} for vm in found]
        print_text(table(rows))
    return DONE


def start_vm(config: AgentConfig, options: argparse.Namespace) -> int:
    """Have a VM run."""
    return _have(config, options, "start", STARTED)


def stop_vm(config: AgentConfig, options: argparse.Namespace) -> int:
    """Have a VM not run."""
    return _have(config, options, "stop", STOPPED)


def _have(config: AgentConfig, options: argparse.Namespace, verb: str, role: str) -> int:
    member = _membership()
    vm = _vm(member, options.vm)
    if vm.is_ha:
        return tell_changes(set_wanted(vm.name, role, options.timeout, options.check), options)
    with _at(config, member, vm) as driver:
        found = driver.find_vm(vm.uuid) or (None if options.check else driver.take_vm(vm.uuid))
        is_so = found is not None and found.state.state == ("running" if verb == "start" else "stopped")
        if is_so or options.check:
            return tell_changes([] if is_so else [f"vm {vm.name} {role.lower()}"], options)
        stopping = {"timeout": int(options.timeout), "force": options.force} if verb == "stop" else {}
        result = carry_out_verb(driver, vm.uuid, verb, site="", **stopping)
        if result.error is not None:
            raise result.error
    return tell_changes([f"vm {vm.name} {role.lower()}"], options)


def migrate_vm(config: AgentConfig, options: argparse.Namespace) -> int:
    """Move a VM live to another member. Raises Conflict where it is there already."""
    member = _membership()
    vm, target = _vm(member, options.vm), options.server
    if vm.servers == (target,):
        return tell_changes([], options)
    told = [f"vm {vm.name} to {target}"]
    if options.check:
        return tell_changes(told, options)
    if vm.is_ha:
        move(vm.name, target, options.timeout)
        return tell_changes(told, options)
    status = read_status()
    if status.members.get(target) != "online":
        raise Conflict(
            f"is {status.members.get(target, 'no member of this pool')}, so it takes no VM", object=f"server {target}", remedy="domus-agent pool status"
        )
    with _at(config, member, vm) as driver:
        migrate_plainly(driver, vm.uuid, target, member.settings, options.timeout)
    return tell_changes(told, options)


def change_vm(config: AgentConfig, options: argparse.Namespace) -> int:
    """Make VMs as a document says, each where it is; those that fail do not stop the others."""
    member = _membership()
    site = parse_document(read_document("/dev/stdin" if options.file == "-" else options.file))
    others = sorted(kind for kind in site.objects if kind != "vm" and site.wanted(kind))
    if others:
        raise Conflict(f"has objects of other kinds: {', '.join(others)}", object="document", remedy="Apply those on the server: domus-agent apply")
    changes, failed = [], False
    for name, spec in site.wanted("vm").items():
        try:
            vm = _vm(member, name)
            with _at(config, member, vm) as driver:
                driver.find_vm(vm.uuid) or driver.take_vm(vm.uuid)
                changes += _apply(driver, Site(site.name, {"vm": {name: spec}}), name, options.check)
        except DomusError as error:
            complain(error.located(f"vm {name}"), options.output)
            failed = True
    code = tell_changes(changes, options)
    return FAILED if failed else code


def _apply(driver: LibvirtDriver, site: Site, name: str, check: bool) -> list[str]:
    report = engine.apply(site, driver, check=check, existing={name: ""}, progress=remark)
    for error in report.errors:
        raise error
    return [f"vm {name} {change.field}" for result in report.results for change in result.changes]


def _membership() -> Membership:
    member = read_membership()
    if member is None:
        raise NotFound("this server is in no pool of Domus's", remedy="The role server_pool makes one")
    return member


def _all_vms(member: Membership) -> list[PoolVm]:
    records: list[PoolRecord] = []
    problems: list[DomusError] = []
    try:
        records, problems = all_records(member.settings.records)
    except DomusError as error:
        remark(f"VMs without HA are not listed: {error}")
    for problem in problems:
        remark(str(problem))
    return vms_of(Pacemaker().read(), with_waiting(read_status()), records)


def _vm(member: Membership, name: str) -> PoolVm:
    found = [vm for vm in _all_vms(member) if name in (vm.name, vm.uuid)]
    if not found:
        raise NotFound("is no VM of this pool", object=f"vm {name}", remedy="domus-agent pool vms lists them")
    return found[0]


@contextlib.contextmanager
def _at(config: AgentConfig, member: Membership, vm: PoolVm) -> Iterator[LibvirtDriver]:
    """The driver of the member that has the VM; this one's for a VM whose server is off. Raises Unreachable."""
    record = member.find(vm.uuid)
    holder = vm.servers[0] if vm.servers else record.server if record is not None else None
    is_remote = holder not in (None, member.server) and read_status().members.get(holder or "") in ("online", "standby", "maintenance")
    uri, server = (member.settings.migration.format(holder), holder) if is_remote else (config.uri, None)
    with contextlib.closing(open_driver(uri, config.state_directory)) as driver:
        driver.remote_member = server
        yield driver
