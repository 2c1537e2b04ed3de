"""How a server that is off gets on again: the fence devices of its pool, asked by a member, or its network cards, by a magic packet."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Optional

from domus_core.errors import DomusError, NotFound, Unreachable
from domus_core.planning.policies import least_on_with_quorum

from ..store import server_pools, servers
from ..store.database import Store
from ..store.server_pools import Teller
from . import operations
from .older import is_too_old, unsupported
from .tools import Tools

# A device may take a minute, and a member asks one after the other.
DEVICE_SECONDS, PACKET_SECONDS = 200.0, 20.0
MOST_SENDERS = 4

Item = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Ways:
    """How to wake a server: what it is called in its clustered pool, and who of it is heard; its network cards, and who may send them a packet."""

    member: Optional[str]
    askers: tuple[str, ...]
    macs: tuple[str, ...]
    senders: tuple[str, ...]


def ways_to(store: Store, server: Mapping[str, Any]) -> Ways:
    """The ways to wake a server (its item), by what it told last."""
    told = (server["facts"] or {}).get("server_pool") or {}
    heard = [one for one in servers.all(store) if one["state"] in servers.CONNECTED and one["id"] != server["id"]]
    near = [one for one in heard if one["pool"] == server["pool"]] or heard
    askers = [one.id for one in _pool_of(store, str(told.get("pool") or "")) if one.heard and one.id != server["id"]]
    return Ways(told.get("server"), tuple(askers), macs_of(server), tuple(str(one["id"]) for one in near[:MOST_SENDERS]))


def macs_of(server: Mapping[str, Any]) -> tuple[str, ...]:
    """The addresses of the server's own network cards; where none is told to be one, of all that could be."""
    cards = [one for one in (server["facts"] or {}).get("interfaces") or () if one.get("own_mac") or one.get("mac")]
    chosen = [one for one in cards if one.get("kind") == "physical"] or [one for one in cards if one.get("kind") == "virtual"]
    return tuple(dict.fromkeys(str(one.get("own_mac") or one["mac"]) for one in chosen))


def wake(tools: Tools, server: Mapping[str, Any], say: Callable[[str], None]) -> bool:
    """Switch a server on by the first way that works; true when packets were sent, which may get lost: send them again.

    Raises NotFound when there is no way to it, Unreachable when none has worked, with what each said.
    """
    ways, problems = ways_to(tools.store, server), list[str]()
    for asker in ways.askers if ways.member else ():
        try:
            done = tools.agents.call(asker, "power_on", {"server": ways.member, "macs": []}, timeout=DEVICE_SECONDS)
        except DomusError as error:
            problems.append(str(unsupported(_name(tools.store, asker), "wake others") if is_too_old(error) else error))
            if error.code == "unreachable" or is_too_old(error):
                continue
            break
        say(f"{', '.join(one['device'] for one in done['devices'] if not one['problem'])} has switched it on")
        return False
    sent = send_packets(tools, ways, problems)
    if sent:
        say(f"magic packets for {', '.join(ways.macs)} were sent by {', '.join(sent)}")
        return True
    label, by_hand = f"server {server['name']}", "Switch it on by hand"
    if not problems:
        raise NotFound("there is no way to wake it: no fence device can, and no network card of it is known", object=label, remedy=by_hand)
    raise Unreachable(f"can not be woken: {'; '.join(problems)}", object=label, remedy=f"See domus pool show; or: {by_hand}")


def send_packets(tools: Tools, ways: Ways, problems: list[str]) -> list[str]:
    """Have packets sent; returns the names of the servers that did, and adds to the problems why others did not."""
    names = {str(one["id"]): str(one["name"]) for one in servers.all(tools.store)}

    def send(sender: str) -> Optional[str]:
        try:
            tools.agents.call(sender, "power_on", {"server": None, "macs": list(ways.macs)}, timeout=PACKET_SECONDS)
        except DomusError as error:
            name = names.get(sender, sender)
            return f"{name}: {unsupported(name, 'wake others') if is_too_old(error) else error}"
        return None

    answers = operations.on_each(ways.senders, send) if ways.macs else {}
    problems += [problem for problem in answers.values() if problem]
    return [names.get(sender, sender) for sender, problem in answers.items() if problem is None]


def seen_to_wake(store: Store, known: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """The servers (ids) of which there is proof that something could wake them: a fence device that answered for them at its last test, or a
    network card that is set to."""
    tested = set()
    for one in server_pools.all(store):
        passed = {str(test["server"]) for device in one["fence_devices"] for test in device["tests"] if not test["problem"]}
        tested |= {str(member["server_id"]) for member in one["members"] if member["member"] in passed}
    by_card = {str(one["id"]) for one in known if any(card.get("wakes") for card in (one["facts"] or {}).get("interfaces") or ())}
    return frozenset(tested | by_card)


def least_on(store: Store, known: Sequence[Mapping[str, Any]], spare: int) -> int:
    """How many of these servers must stay on so that the clustered pools that they are members of keep their quorum; 1 when they are of none."""
    ids = {str(one["id"]) for one in known}
    pools = [one for one in server_pools.all(store) if ids & {str(member["server_id"]) for member in one["members"]}]
    return max((least_on_with_quorum(len(one["members"]), spare, bool(one["vms"])) for one in pools), default=1)


def _name(store: Store, id: str) -> str:
    return str(servers.find(store, id)["name"])


def _pool_of(store: Store, name: str) -> list[Teller]:
    try:
        return server_pools.tellers_of(store, name)
    except NotFound:
        return []
