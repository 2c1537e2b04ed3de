"""How the pool is, as one of its members sees it: quorum, members, links, fence devices, VMs, problems; Pacemaker's and Corosync's words put together."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from typing import Any, Optional

from ..errors import DomusError
from ..libvirt_driver.tools import ask
from .cib import VM
from .corosync import known_node_ids
from .corosync_state import Link, Votes, read_links, read_votes
from .fence_tests import FenceTest
from .member_files import CONF, pool_named, read_file
from .pool_problems import LINK, SILENT, Problem
from .pool_status import PoolStatus, read_status
from .waiting_vms import with_waiting

SECONDS = 20.0


@dataclasses.dataclass(frozen=True)
class PoolState:
    """The pool `pool` as `server` sees it; `status` is None when Pacemaker does not answer here, and `problems` then says why."""

    pool: str
    server: str
    status: Optional[PoolStatus]
    votes: Optional[Votes] = None
    links: tuple[Link, ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def is_quorate(self) -> bool:
        """Does this server belong to the part that may act?"""
        return self.status is not None and self.status.is_quorate


def pool_state(pool: str, server: str, status: Optional[PoolStatus], votes: Optional[Votes], links: tuple[Link, ...], silence: str = "") -> PoolState:
    """The state from what was told; `silence` is why Pacemaker tells nothing. A link to a member that is away is no problem of its own."""
    problems = list(status.problems if status is not None else ())
    if silence:
        remedy = f"On {server}: systemctl status corosync pacemaker"
        problems.append(Problem(SILENT, server, f"{server} can not tell how the pool is: {silence}", remedy, server))
    online = {name for name, state in (status.members if status is not None else {}).items() if state not in ("offline", "unclean")}
    for link in links:
        if not link.is_connected and link.member in online:
            text = f"heartbeat link {link.number} from {server} ({link.address}) to {link.member} is down"
            problems.append(Problem(LINK, f"{link.number} {link.member}", text, "Look at that network's cables, switch and interfaces", server))
    return PoolState(pool, server, status, votes, links, tuple(problems))


def told_of(state: PoolState, tests: Iterable[FenceTest] = ()) -> dict[str, Any]:
    """The state, and the last tests of fence devices, as plain data: as it is printed and reported."""
    status = state.status
    data: dict[str, Any] = {
        "pool": state.pool,
        "server": state.server,
        "quorate": state.is_quorate,
        "coordinator": status and status.coordinator,
        "votes": state.votes and {"expected": state.votes.expected, "total": state.votes.total, "quorum": state.votes.quorum},
        "members": dict(status.members) if status else {},
        "links": [{"link": one.number, "address": one.address, "member": one.member, "connected": one.is_connected} for one in state.links],
        "fence_devices": {name: list(servers) for name, servers in (status.devices if status else {}).items()},
        "fence_tests": [dataclasses.asdict(test) for test in tests],
        "vms": {name[len(VM) :]: list(servers) for name, servers in (status.vms if status else {}).items() if name.startswith(VM)},
        "problems": [{**dataclasses.asdict(problem), "key": problem.key} for problem in state.problems],
    }
    return data


def read_pool_state(conf_path: str = CONF) -> Optional[PoolState]:
    """How the pool of this server is; None when it is in no pool of ours. What does not answer is a problem in it, no error."""
    conf = read_file(conf_path)
    pool = pool_named(conf)
    if pool is None:
        return None
    votes: Optional[Votes] = None
    links: tuple[Link, ...] = ()
    status, silence = None, ""
    try:
        votes = ask_votes()
        links = read_links(_corosync("corosync-cfgtool", "-s"), known_node_ids(conf))
        status = read_status(SECONDS)
        status = with_waiting(status, SECONDS)
    except DomusError as error:
        silence = str(error)
    return pool_state(pool, os.uname().nodename, status, votes, links, silence)


def ask_votes() -> Votes:
    """What Corosync says of quorum and votes. Raises DriverError, Unreachable."""
    return read_votes(_corosync("corosync-quorumtool", "-s"))


def _corosync(*command: str) -> str:
    """What Corosync says. Its tools exit with 2 when a part of the pool is away: what they print counts then, too. Raises DriverError, Unreachable."""
    return ask(command, timeout=SECONDS, what="asking Corosync", answers=(0, 2))[1]
