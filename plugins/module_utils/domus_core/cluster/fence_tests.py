"""Fence devices are tested: each is asked for the power of each server that it can cut, as Pacemaker would ask; the last answers are kept in a file."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Callable, Optional

from ..errors import Conflict, DomusError, NotFound
from ..libvirt_driver.registry import write_atomically
from ..libvirt_driver.tools import ask, run
from .cib import DEVICE, VM
from .pacemaker import Pacemaker
from .pool_status import PoolStatus, read_status
from .watchdog import is_trusted

FILE = "fence-tests.json"
SECONDS, CUT_SECONDS, AT_ONCE = 20.0, 60, 8
ON, OFF = "on", "off"
# Fence agents exit with 2 to say that the power is off (FenceAgentAPI).
IS_OFF = 2
_AGENT = re.compile(r"fence_[\w-]+")


@dataclasses.dataclass(frozen=True)
class Question:
    """How is the power of `server`, by `device`; or with another action than status, what it is to do. `options` go to the fence agent's
    standard input."""

    device: str
    agent: str
    server: str
    options: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class FenceTest:
    """What a device said of a server's power (`state` on or off), or why not (`problem`); `cut`: it was really cut. `at` is in seconds since 1970."""

    device: str
    server: str
    at: float
    state: Optional[str] = None
    problem: Optional[str] = None
    cut: bool = False


def questions(cib: Any, own: str, action: str = "status") -> tuple[Question, ...]:
    """What to ask (or to have done) by Pacemaker's configuration. A server is not asked of itself: it never cuts itself, and may not even reach
    its own device."""
    members = [str(node.get("uname")) for node in cib.iterfind("configuration/nodes/node")]
    found = []
    for device in cib.iterfind("configuration/resources//primitive[@class='stonith']"):
        options = {str(one.get("name")): str(one.get("value") or "") for one in device.iterfind("instance_attributes/nvpair")}
        plain = [(name, value) for name, value in options.items() if not name.startswith("pcmk_")]
        name, argument = str(device.get("id")).removeprefix(DEVICE), options.get("pcmk_host_argument", "plug")
        for server, plug in _plugs(options, members):
            asked = [("action", action), ("nodename", server), *([] if argument == "none" else [(argument, plug)]), *plain]
            if server != own or len(members) == 1:
                found.append(Question(name, str(device.get("type")), server, tuple(asked)))
    return tuple(found)


def _plugs(options: dict[str, str], members: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The servers that a device can cut, each with its plug; one that does not say can cut all."""
    pairs = [pair.rpartition(":") for pair in re.split(r"[;\s]+", options.get("pcmk_host_map", "")) if ":" in pair]
    if pairs:
        yield from ((server, plug) for server, dummy, plug in pairs)
        return
    listed = re.split(r"[,\s]+", options.get("pcmk_host_list", "").strip())
    for server in filter(None, listed) if any(listed) else members:
        yield server, server


def ask_device(question: Question) -> FenceTest:
    """Ask a device now."""
    if not _AGENT.fullmatch(question.agent):
        return FenceTest(question.device, question.server, time.time(), problem=f"{question.agent} is no fence agent that can be asked")
    text = "".join(f"{name}={value}\n" for name, value in question.options)
    what = f"asking {question.device} for the power of {question.server}"
    try:
        status, dummy = ask([question.agent], timeout=SECONDS, input=text.encode(), what=what, answers=(0, IS_OFF))
    except DomusError as error:
        return FenceTest(question.device, question.server, time.time(), problem=str(error))
    return FenceTest(question.device, question.server, time.time(), state=OFF if status == IS_OFF else ON)


def judged(test: FenceTest, status: PoolStatus) -> FenceTest:
    """A device that says of a living member that it is off, lies, or has another server's plug."""
    if test.state == OFF and status.members.get(test.server) in ("online", "standby", "maintenance", "pending"):
        return dataclasses.replace(test, problem=f"says that {test.server} is off, which is a living member: is it the right plug?")
    return test


def ask_devices(directory: str, own: str, asked: Callable[[Question], FenceTest] = ask_device) -> list[FenceTest]:
    """Ask all devices, side by side, and keep what they said. Raises NotFound without a device, DriverError, Unreachable."""
    cib = Pacemaker().read()
    wanted = questions(cib, own)
    if not wanted and is_trusted(cib):
        return []  # servers reset themselves: there is nobody to ask
    if not wanted:
        raise NotFound("the pool has no fence device that this server could ask", remedy="Give the pool fence devices: no VM is started elsewhere without")
    status = read_status()
    with ThreadPoolExecutor(AT_ONCE) as threads:
        tests = [judged(test, status) for test in threads.map(asked, wanted)]
    known = {(question.device, question.server) for question in wanted}
    keep(directory, tests, known)
    return tests


def cut_power(directory: str, own: str, server: str) -> list[FenceTest]:
    """Really cut the power of a member and give it back, as Pacemaker does it. Raises Conflict for this server, and for one that HA VMs run on."""
    status = read_status()
    if server not in status.members:
        raise NotFound("is not a member of this pool", object=f"server {server}", remedy=f"Members: {', '.join(sorted(status.members))}")
    if server == own:
        raise Conflict("a server does not cut itself", object=f"server {server}", remedy="Ask for it on another member")
    here = sorted(name[len(VM) :] for name, servers in status.vms.items() if name.startswith(VM) and server in servers)
    if here:
        raise Conflict(f"HA VMs run on it: {', '.join(here)}", object=f"server {server}", remedy="Evacuate the server first")
    problem = None
    try:
        run(["stonith_admin", "--reboot", server, "--timeout", str(CUT_SECONDS)], timeout=CUT_SECONDS + 5.0, what=f"cutting the power of {server}")
    except DomusError as error:
        problem = str(error)
    # Pacemaker does not tell which device of several it was.
    devices = sorted({question.device for question in questions(Pacemaker().read(), own) if question.server == server})
    test = FenceTest(" or ".join(devices), server, time.time(), None if problem else ON, problem, True)
    keep(directory, [test])
    return [test]


def recall(directory: str) -> list[FenceTest]:
    """The last tests that were made from this server."""
    with suppress(OSError, ValueError, TypeError), open(os.path.join(directory, FILE), encoding="utf-8") as file:
        return [FenceTest(**one) for one in json.load(file)]
    return []


def keep(directory: str, tests: Iterable[FenceTest], known: Optional[set[tuple[str, str]]] = None) -> None:
    """Keep these tests and, of those before, the last of each other device and server that is `known` still; of real cuts the last, too."""
    kept = {(one.device, one.server, one.cut): one for one in recall(directory) if known is None or one.cut or (one.device, one.server) in known}
    kept.update({(one.device, one.server, one.cut): one for one in tests})
    write_atomically(os.path.join(directory, FILE), json.dumps([dataclasses.asdict(one) for one in kept.values()]).encode())
