"""`domus-agent pool manager`: the manager as a service of this server's pool; the playbook manager_ha works by it."""

from __future__ import annotations

import argparse
import time
from typing import Any, Callable

from domus_core.cluster.manager_group import GROUP, ManagerService, put_manager, stop_manager, take_manager
from domus_core.cluster.pacemaker import Pacemaker
from domus_core.cluster.pool_status import read_status
from domus_core.errors import InvalidSpec, Unreachable

from .config import AgentConfig
from .output import tell_changes

STOP_PATIENCE, PAUSE = 300.0, 1.0


def manager(config: AgentConfig, options: argparse.Namespace) -> int:
    """Have the pool run the manager, on one of the members that are named; or not any more."""
    pacemaker = Pacemaker()
    if options.remove:
        return tell_changes(_remove(pacemaker, options.check), options)
    if not options.address:
        raise InvalidSpec("is missing", object="manager", field="--address", remedy="Say which address is the manager's, or --remove")
    service = ManagerService(options.address, tuple(filter(None, options.members.split(","))), options.prefix_length, options.interface)
    return tell_changes(_edit(pacemaker, lambda found: put_manager(found, service), options.check), options)


def _edit(pacemaker: Pacemaker, edit: Callable[[Any], tuple[str, ...]], check: bool) -> list[str]:
    """The changes, made unless only asked for."""
    return list(edit(pacemaker.read().find("configuration")) if check else pacemaker.edit(edit, "the manager in the pool"))


def _remove(pacemaker: Pacemaker, check: bool) -> list[str]:
    """What Pacemaker forgets while it runs goes on: it is stopped before."""
    if not check:
        pacemaker.edit(stop_manager, "the manager in the pool")
        _wait_until_stopped()
    return _edit(pacemaker, take_manager, check)


def _wait_until_stopped() -> None:
    end = time.monotonic() + STOP_PATIENCE
    while any(servers for name, servers in read_status().vms.items() if name.startswith(f"{GROUP}-")):
        if time.monotonic() > end:
            raise Unreachable(f"Pacemaker has not stopped the manager within {STOP_PATIENCE:g} s", remedy="domus-agent pool status")
        time.sleep(PAUSE)


def add_options(parser: Any) -> None:
    """What it takes."""
    parser.add_argument("--address", metavar="ADDRESS", help="the IP address that goes with the manager, free in the servers' network")
    parser.add_argument("--members", default="", metavar="NAME,NAME", help="the members that may run it")
    parser.add_argument("--prefix-length", type=int, metavar="BITS", help="of the address' network (default: by the routes)")
    parser.add_argument("--interface", metavar="NAME", help="where the address is put (default: by the routes)")
    parser.add_argument("--remove", action="store_true", help="stop the manager, and have the pool forget it; its files stay")
