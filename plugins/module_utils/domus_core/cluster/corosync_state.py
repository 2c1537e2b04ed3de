"""What Corosync tells of itself (`corosync-quorumtool -s`, `corosync-cfgtool -s`): votes, and whether each link to each member stands. Pure."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

_LINK = re.compile(r"LINK ID (\d+)")
_ADDRESS = re.compile(r"addr\s*=\s*(\S+)")
_PEER = re.compile(r"nodeid:\s*(\d+):\s*(\S+)")
_FIGURE = re.compile(r"^(Expected votes|Total votes|Quorum|Quorate):\s+(\w+)", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Votes:
    """`quorum` of the `expected` votes are needed; this server sees `total`."""

    expected: int
    total: int
    quorum: int
    is_quorate: bool


@dataclasses.dataclass(frozen=True)
class Link:
    """One heartbeat link of this server (at its `address`) to another member."""

    number: int
    address: str
    member: str
    is_connected: bool


def read_votes(text: str) -> Votes:
    """The votes in the output of `corosync-quorumtool -s`; what it does not tell is 0."""
    told = dict(_FIGURE.findall(text))
    expected, total, quorum = (int(told[name]) if told.get(name, "").isdigit() else 0 for name in ("Expected votes", "Total votes", "Quorum"))
    return Votes(expected, total, quorum, told.get("Quorate") == "Yes")


def read_links(text: str, names: Mapping[str, int]) -> tuple[Link, ...]:
    """The links in the output of `corosync-cfgtool -s`; `names` has each member's node id. A member of no name is called by its id."""
    called = {str(number): name for name, number in names.items()}
    links: list[Link] = []
    number, address = 0, ""
    for line in map(str.strip, text.splitlines()):
        if head := _LINK.match(line):
            number, address = int(head[1]), ""
        elif found := _ADDRESS.match(line):
            address = found[1]
        elif (peer := _PEER.match(line)) and peer[2] != "localhost":
            links.append(Link(number, address, called.get(peer[1], peer[1]), peer[2] == "connected"))
    return tuple(links)
