"""Where `domus-manager rebuild` looks for servers: addresses, a range, an Ansible inventory, or a file with their secrets."""

from __future__ import annotations

import argparse
import dataclasses
import ipaddress
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

from domus_core.clients.wire import split_invitation
from domus_core.errors import DomusError, DriverError, InvalidSpec

DEFAULT_PORT = 8899
MOST_ADDRESSES = 4096
TITLE = "On a new machine, or after an old backup: take servers, VMs and their specifications back from the servers; VMs do not notice"
SECRETS = (
    "without the keys: a line `NAME ADDRESS FINGERPRINT:SECRET` for each server, the last as `domus-agent secret --rescue` says it there;"
    " with - as NAME it keeps the name that it has"
)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a server may be: what to call it if it does not say itself, and its secret (`fingerprint:secret`) if it is to be taken over."""

    address: str
    port: int
    name: Optional[str] = None
    secret: Optional[str] = dataclasses.field(default=None, repr=False)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--from-servers", nargs="+", metavar="ADDRESS", help="ask these servers: ADDRESS, ADDRESS:PORT or [IPV6]:PORT")
    where.add_argument("--inventory", type=Path, metavar="FILE", help="ask the hosts of an Ansible inventory")
    where.add_argument("--range", metavar="RANGE", help="ask every address of a network (192.0.2.0/24) or of a range (192.0.2.10-192.0.2.40)")
    where.add_argument("--secrets", type=Path, metavar="FILE", help=SECRETS)
    parser.add_argument("--group", default="all", help="with --inventory: the hosts of this group (default: %(default)s)")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="of agents, where none is said (default: %(default)s)")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table", help="how to print (default: %(default)s)")


def places_of(options: argparse.Namespace) -> list[Place]:
    """Where to look. Raises InvalidSpec, DriverError."""
    if options.from_servers:
        return [_place(text, options.port) for text in options.from_servers]
    if options.range:
        return [Place(address, options.port) for address in addresses_of(options.range)]
    if options.secrets:
        return list(_secrets(options.secrets, options.port))
    return list(_inventory(options.inventory, options.group, options.port))


def addresses_of(text: str) -> list[str]:
    """The addresses of a network or a range, without those of the network itself and of all. Raises InvalidSpec."""
    problem = InvalidSpec("is neither a network (192.0.2.0/24) nor a range (192.0.2.10-192.0.2.40)", field="range", value=text)
    try:
        if "-" in text:
            first, last = (ipaddress.ip_address(part.strip()) for part in text.split("-", 1))
            count = int(last) - int(first) + 1
            if first.version != last.version or count < 1:
                raise problem
            _check_count(count, text)
            return [str(first + number) for number in range(count)]
        network = ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        raise problem from None
    _check_count(network.num_addresses, text)
    return [str(address) for address in network.hosts()]


def _check_count(count: int, text: str) -> None:
    if count > MOST_ADDRESSES:
        raise InvalidSpec(f"has {count} addresses", field="range", value=text, remedy=f"At most {MOST_ADDRESSES} at once: take smaller ones")


def _place(text: str, port: int, **more: Any) -> Place:
    """ADDRESS, ADDRESS:PORT, an IPv6 address, or that in brackets with a port. Raises InvalidSpec."""
    address, given = text, ""
    if text.startswith("["):
        address, bracket, rest = text[1:].partition("]")
        given = rest[1:] if rest.startswith(":") else rest
        if not bracket or (rest and not rest.startswith(":")):
            raise InvalidSpec("is not an address", field="address", value=text)
    elif text.count(":") == 1:
        address, dummy, given = text.partition(":")
    if not address or (given and not (given.isdigit() and 0 < int(given) < 65536)):
        raise InvalidSpec("is not an address", field="address", value=text, remedy="ADDRESS, ADDRESS:PORT or [IPV6]:PORT")
    return Place(address, int(given) if given else port, **more)


def _secrets(path: Path, port: int) -> Iterator[Place]:
    for number, line in enumerate(_read(path).splitlines(), 1):
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        label = f"{path}, line {number}"
        if len(words) != 3:
            raise InvalidSpec("is not `NAME ADDRESS FINGERPRINT:SECRET`", object=label)
        try:
            split_invitation(words[2])
            yield _place(words[1], port, name=None if words[0] == "-" else words[0], secret=words[2])
        except DomusError as error:
            raise error.located(label) from None


def _inventory(path: Path, group: str, port: int) -> Iterator[Place]:
    """The hosts of an Ansible inventory, by their `ansible_host`. Raises InvalidSpec, DriverError."""
    program = Path(sys.executable).with_name("ansible-inventory")
    try:
        done = subprocess.run([str(program), "-i", str(path), "--list"], capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL)
        data = json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired, ValueError):
        raise DriverError("can not be read by ansible-inventory", object=f"inventory {path}", remedy=f"Try it: {program} -i {path} --list") from None
    variables = data.get("_meta", {}).get("hostvars", {})
    hosts = _hosts_of(data, group)
    if not hosts:
        raise InvalidSpec("has no host", object=f"inventory {path}", field="group", value=group)
    for host in hosts:
        yield _place(str(variables.get(host, {}).get("ansible_host", host)), port, name=host)


def _hosts_of(data: dict[str, Any], group: str) -> list[str]:
    """The hosts of a group and of the groups in it."""
    found: dict[str, None] = {}
    waiting, seen = [group], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        found.update(dict.fromkeys(data.get(name, {}).get("hosts", ())))
        waiting += data.get(name, {}).get("children", ())
    return sorted(found)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DriverError(f"can not be read: {error}", object=f"file {path}") from None
