"""What `domus-agent` does on the server itself: with the engine and its locks directly, so it needs neither manager nor daemon."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from typing import Any, Callable, Optional

from domus_core import engine
from domus_core.description import describe
from domus_core.documents import read_document
from domus_core.errors import Conflict, DomusError
from domus_core.libvirt_driver.driver import LibvirtDriver, open_driver
from domus_core.model.document import DEFAULT_SITE, Site, parse_document
from domus_core.model.quantities import format_size
from domus_core.owner import owner, write_down_forced
from domus_core.planning.reconcile import plan
from domus_core.rendering import counted, render_plan
from domus_core.verbs import VERBS, carry_out_verb, plan_verb
from domus_core.version import VERSION

from . import contact
from .config import AgentConfig
from .identity_files import read_identity
from .output import complain, print_text, remark, show, show_one
from .output import findings as render_findings
from .ownership import Ownership
from .store import AgentStore

DONE, FAILED, CHANGES = 0, 1, 2
# The agent looks every 5 s whether it is to be rescued.
RESCUE_PATIENCE = 15.0


def serve(config: AgentConfig, options: argparse.Namespace) -> int:
    """Be the agent until SIGTERM."""
    from .daemon import run  # only the daemon needs the libraries of its door

    return run(config)


def status(config: AgentConfig, options: argparse.Namespace) -> int:
    """Tell who this server is, whose it is, and how its agent, libvirt and the way to the manager are."""
    identity = read_identity(config.directory)
    serving, url, heard = is_serving(config.directory), identity["url"], contact.last_heard(config.directory)
    with _database(config) as store:
        counts = store.counts()
        told = {
            "server": identity["server"],
            "version": VERSION,
            "agent": "running" if serving else "not running",
            "manager": url,
            "manager_id": identity["manager"],
            "name": identity["name"],
            "take_over_with": "domus-agent secret" if url is None else None,
            "manager_heard": None if heard is None else contact.moment(heard),
            "manager_problem": contact.silence(config.directory, url) if serving and url else None,
            "waiting_for_manager": counts["outbox"],
            "objects": counts["objects"],
            "operations_under_way": len(store.unfinished()),
            "database": store.problem or "ok",
            "libvirt": _libvirt(config),
        }
    show_one(told if options.output == "json" else {name: value for name, value in told.items() if value is not None}, options.output)
    return DONE


def secret(config: AgentConfig, options: argparse.Namespace) -> int:
    """Print `fingerprint:secret`, with which a manager takes this server over.

    Raises Conflict on a server that has one, unless it is to be rescued from it.
    """
    with _database(config) as store:
        ownership = Ownership(config.directory, config.state_directory, store)
        invitation = ownership.invitation()
        if invitation is None and options.rescue:
            invitation = ownership.rescue()
            _remark_rescue(config, ownership, invitation)
        if invitation is None:
            remedy = "Have that manager release it first; if it is lost for good: domus-agent secret --rescue"
            raise Conflict("belongs to a manager already", object="server", value=ownership.url, remedy=remedy)
    print_text(json.dumps({"secret": invitation}) if options.output == "json" else invitation)
    return DONE


def _remark_rescue(config: AgentConfig, ownership: Ownership, invitation: str) -> None:
    """Say what the secret is good for, once the running agent takes it."""
    remark(f"for an hour another manager may take this server over with it, once; until then it belongs to {ownership.url}")
    if not is_serving(config.directory):
        remark("the agent does not run: it takes the secret once it does")
        return
    deadline = time.monotonic() + RESCUE_PATIENCE
    while not _takes(config, invitation):
        if time.monotonic() > deadline:
            remark("the agent does not take it yet; look at its log: journalctl -u domus-agent")
            return
        time.sleep(0.2)


def _takes(config: AgentConfig, invitation: str) -> bool:
    """Does the agent answer somebody without a certificate?"""
    from domus_core.clients.agent import AgentClient
    from domus_core.clients.wire import split_invitation

    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.address, config.address)
    try:
        with AgentClient.peek(address, config.port, split_invitation(invitation)[0], timeout=RESCUE_PATIENCE) as contact:
            return bool(contact.call("hello")["csr"])
    except DomusError:
        return False


def list_objects(config: AgentConfig, options: argparse.Namespace) -> int:
    """List the objects of a kind as they are now."""
    identity = read_identity(config.directory)
    with _server(config) as driver:
        found = dict(driver.read(Site(DEFAULT_SITE, {})).all(options.kind))
        described = [describe(options.kind, key, one, identity["server"]) for key, one in sorted(found.items())]
        for one in described:
            if one["kind"] == "vm" and one["state"] == "running":
                one["measured"]["addresses"] = list(driver.addresses(one["key"]))
    if options.output == "json":
        print_text(json.dumps(described, indent=2))
    else:
        show([_row(one) for one in described], options.output)
    return DONE


def verb(config: AgentConfig, options: argparse.Namespace) -> int:
    """Carry out a verb on each of the VMs; those that fail do not stop the others."""
    exit_code, rows = DONE, []
    read_identity(config.directory)
    with _server(config) as driver:
        for vm in options.vms:
            try:
                _report_forced(config, DEFAULT_SITE, _foreseen(driver, vm, options))
                result = carry_out_verb(driver, vm, options.command, site=DEFAULT_SITE, force=options.force, timeout=options.timeout)
                if result.error is not None:
                    raise result.error
                rows.append(_outcome(result, options.output))
            except DomusError as error:
                error.remedy = error.remedy.replace("force_stop: true", "--force")  # what a document says, as this command line says it
                complain(error.located(f"vm {vm}"), options.output)
                exit_code = FAILED
    if rows:
        show(rows, options.output)
    return exit_code


def _outcome(result: engine.ObjectResult, output: str) -> dict[str, Any]:
    """What a verb did; what is to be known besides is part of it for programs, and a line of its own for people."""
    told = {"name": result.key, "changed": result.changed, "state": result.found.state.state if result.found else None}
    if result.note and output == "json":
        return {**told, "note": result.note}
    if result.note:
        remark(f"vm {result.key} {result.note}")
    return told


def plan_document(config: AgentConfig, options: argparse.Namespace) -> int:
    """Say what an apply of the document would do; 2 when that is something."""
    site = _site(config, options)
    with _server(config) as driver:
        planned = plan(site, driver.read(site))
    print_text(json.dumps(planned.as_dict(), indent=2) if options.output == "json" else render_plan(planned))
    return CHANGES if planned.steps else DONE


def apply_document(config: AgentConfig, options: argparse.Namespace) -> int:
    """Apply the document here; on a server that has a manager it hears of that."""
    site = _site(config, options)
    with _server(config) as driver:
        foreseen = [f"{step.action} {step.name}" for step in plan(site, driver.read(site)).steps]
        _report_forced(config, site.name, foreseen)
        report = engine.apply(site, driver, wait_for_address=options.wait_for_address, progress=remark)
    if options.output == "json":
        print_text(json.dumps({**report.as_dict(), "fingerprint": report.fingerprint}, indent=2))
    else:
        changed = sum(result.changed for result in report.results)
        print_text(f"{counted(changed, 'object')} changed, {len(report.errors)} failed" if changed or report.errors else "nothing to change")
    for error in report.errors:
        complain(error, options.output)
    return FAILED if report.errors else DONE


def doctor(config: AgentConfig, options: argparse.Namespace) -> int:
    """Check what this server needs; 1 when something fails."""
    from .doctor import FAIL, examine

    findings = examine(config)
    told = [finding.as_dict() for finding in findings]
    print_text(json.dumps(told, indent=2) if options.output == "json" else render_findings(told, shutil.get_terminal_size().columns))
    return FAILED if any(finding.verdict == FAIL for finding in findings) else DONE


def is_serving(directory: str) -> bool:
    """Does an agent work on this directory now? It holds a lock while it does."""
    try:
        with open(os.path.join(directory, "agent.lock"), "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@contextlib.contextmanager
def _server(config: AgentConfig) -> Iterator[LibvirtDriver]:
    driver = open_driver(config.uri, config.state_directory)
    with contextlib.closing(driver):
        yield driver


@contextlib.contextmanager
def _database(config: AgentConfig) -> Iterator[AgentStore]:
    """The agent's database, beside a running agent or without one. Raises DomusError."""
    try:
        with contextlib.closing(AgentStore(config.directory)) as store:
            yield store
    except PermissionError as error:
        raise DomusError(f"may not be read: {error.strerror}", object=error.filename or config.directory, remedy="Run this as root") from None


def _site(config: AgentConfig, options: argparse.Namespace) -> Site:
    name: Optional[str] = read_identity(config.directory)["name"]
    return parse_document(read_document("/dev/stdin" if options.file == "-" else options.file), server=options.server or name)


def _foreseen(driver: LibvirtDriver, vm: str, options: argparse.Namespace) -> list[str]:
    found = driver.find_vm(vm)
    steps = plan_verb(found, VERBS[options.command], force=options.force, timeout=options.timeout) if found is not None else ()
    return [f"{step.action} {step.name}" for step in steps]


def _report_forced(config: AgentConfig, site: str, actions: list[str]) -> None:
    """On a server that has a manager, write down what is about to be done here without it."""
    owned = owner(config.state_directory)
    if owned is not None and actions:
        write_down_forced(config.state_directory, site, actions)
        remark(f"this server belongs to the manager at {owned['url']}, which will be told of this")


def _libvirt(config: AgentConfig) -> str:
    try:
        with _server(config) as driver:
            return f"answers, version {driver.connection.getLibVersion() // 1000000}.{driver.connection.getLibVersion() // 1000 % 1000}"
    except DomusError as error:
        return str(error)


def _row(described: dict[str, Any]) -> dict[str, Any]:
    row = {"name": described["key"], "state": described["state"]}
    if described["kind"] == "vm":
        spec, measured = described["spec"], described["measured"]
        memory = spec.get("memory")
        row.update(cpus=spec.get("cpus"), memory=format_size(memory) if memory else None, addresses=measured["addresses"], managed=measured["managed"])
    if described["restart_required"]:
        row["state"] += " (restart required)"
    return row


Command = Callable[[AgentConfig, argparse.Namespace], int]
