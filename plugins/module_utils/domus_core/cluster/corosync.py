"""corosync.conf: written from a pool, read back for its node ids; see corosync.conf(5) and votequorum(5)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Union

from .pool import Pool

MARK = "# Written by Domus"
Section = dict[str, Any]
Value = Union[str, int, Section]


def assign_node_ids(names: Iterable[str], known: Mapping[str, int]) -> dict[str, int]:
    """A number for each member: who has one keeps it, who is new gets the highest plus one; what a member leaves behind is given to nobody meanwhile."""
    highest = max(known.values(), default=0)
    given: dict[str, int] = {}
    for name in names:
        if name not in known:
            highest += 1
        given[name] = known.get(name, highest)
    return given


def corosync_conf(pool: Pool, node_ids: Mapping[str, int]) -> str:
    """The file for all members, the same on each of them."""
    sections: Section = {
        "totem": {
            "version": 2,
            "cluster_name": pool.name,
            "transport": "knet",
            "crypto_cipher": "aes256",
            "crypto_hash": "sha256",
            "token": pool.token,
            **{f"interface{number}": {"linknumber": number} for number in range(len(pool.members[0].addresses))},
        },
        "nodelist": {f"node{node_ids[member.name]}": _node(member.name, member.addresses, node_ids) for member in _by_id(pool, node_ids)},
        "quorum": _quorum(pool),
        "logging": {"to_logfile": "no", "to_syslog": "yes", "timestamp": "on"},
    }
    return f"{MARK} for all servers of this pool; changes made here are overwritten.\n" + "".join(_render(sections))


def _by_id(pool: Pool, node_ids: Mapping[str, int]) -> list[Any]:
    return sorted(pool.members, key=lambda member: node_ids[member.name])


def _node(name: str, addresses: tuple[str, ...], node_ids: Mapping[str, int]) -> Section:
    return {"name": name, "nodeid": node_ids[name], **{f"ring{number}_addr": address for number, address in enumerate(addresses)}}


def _quorum(pool: Pool) -> Section:
    """Two members are a case of their own: each alone has quorum, and waits for the other when it starts. A quorum device is the other way."""
    quorum: Section = {"provider": "corosync_votequorum"}
    if pool.quorum_device is not None:
        device = pool.quorum_device
        net = {"host": device.host, "algorithm": device.algorithm, "tls": "on"}
        quorum["device"] = {"model": "net", "votes": 1 if device.algorithm == "ffsplit" else max(1, len(pool.members) - 1), "net": net}
    elif len(pool.members) == 2:
        quorum.update(two_node=1, wait_for_all=1)
    return quorum


def _render(section: Section, depth: int = 0) -> Iterable[str]:
    """Sections of one name get a number in our tables, and lose it here."""
    for name, value in section.items():
        if isinstance(value, dict):
            title = re.sub(r"^(interface|node)\d+$", r"\1", name)
            yield f"{'    ' * depth}{title} {{\n"
            yield from _render(value, depth + 1)
            yield f"{'    ' * depth}}}\n"
        else:
            yield f"{'    ' * depth}{name}: {value}\n"


def read_conf(text: str) -> list[tuple[str, str]]:
    """The settings of a corosync.conf as (path, value); sections of one name are told apart by their number: `nodelist.node.2.name`."""
    settings: list[tuple[str, str]] = []
    path: list[str] = []
    counts: dict[str, int] = {}
    for line in map(str.strip, text.splitlines()):
        if line.endswith("{") and not line.startswith("#"):
            title = ".".join([*path, line[:-1].strip()])
            counts[title] = counts.get(title, 0) + 1
            path += [line[:-1].strip(), str(counts[title])]
        elif line == "}":
            del path[-2:]
        elif ":" in line and not line.startswith("#"):
            key, value = line.split(":", 1)
            settings.append((".".join([*path, key.strip()]), value.strip()))
    return settings


def known_node_ids(text: str) -> dict[str, int]:
    """Which member has which number in a corosync.conf; one that can not be read has none."""
    nodes: dict[str, dict[str, str]] = {}
    for path, value in read_conf(text):
        section, dummy, key = path.rpartition(".")
        if ".node." in section:
            nodes.setdefault(section, {})[key] = value
    return {node["name"]: int(node["nodeid"]) for node in nodes.values() if "name" in node and node.get("nodeid", "").isdigit()}
