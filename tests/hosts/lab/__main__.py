"""Test hosts by hand: `python -m tests.hosts.lab up 3`; see `make help` and tests/hosts/README.md."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time

from . import image
from .commands import LabError
from .lab import Lab, hint, lab_name


def main() -> int:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.hosts.lab", description=__doc__)
    parser.add_argument("--lab", help="the lab's name (default: LAB, or one that belongs to this checkout)")
    parser.add_argument("--for", dest="purpose", help="a lab beside the default one, for this purpose")
    verbs = parser.add_subparsers(dest="verb", required=True)
    up = verbs.add_parser("up", help="boot hosts h1, h2..., those that are not there yet")
    up.add_argument("count", type=int, nargs="?", default=3)
    up.add_argument("--machine", action="store_true", help="with a kernel of their own: QEMU machines m1, m2...")
    verbs.add_parser("images", help="make the base images that are missing")
    create = verbs.add_parser("create", help='a new lab with hosts as JSON tells: {"h1": {}, "m1": {"kind": "machine"}}; prints its directory')
    create.add_argument("hosts", type=json.loads)
    verbs.add_parser("down", help="remove the lab with all its hosts")
    verbs.add_parser("list", help="what there is")
    shell = verbs.add_parser("shell", help="log in by SSH, or run a command")
    shell.add_argument("host")
    shell.add_argument("command", nargs=argparse.REMAINDER)
    for verb, text in (("power-on", "switch a host on"), ("power-off", "switch a host off, hard")):
        verbs.add_parser(verb, help=text).add_argument("host")
    arguments = parser.parse_args()
    try:
        return _do(Lab(arguments.lab or lab_name(arguments.purpose)), arguments)
    except LabError as error:
        print(f"hosts: {error}", file=sys.stderr)
        return 1


def _do(lab: Lab, arguments: argparse.Namespace) -> int:
    if arguments.verb in ("up", "down", "create"):
        lab.claim()
    if arguments.verb == "up":
        _up(lab, arguments.count, arguments.machine)
    elif arguments.verb == "images":
        image.container_tree()
        image.machine_image()
    elif arguments.verb == "create":
        lab.destroy()
        lab.up().boot(*[lab.add(name, **traits) for name, traits in arguments.hosts.items()])
        print(lab.directory)
    elif arguments.verb == "down":
        lab.destroy()
        print(f"hosts: lab {lab.name} is gone")
    elif arguments.verb == "list":
        _list(lab)
    elif arguments.verb == "power-on":
        lab.host(arguments.host).power_on()
    elif arguments.verb == "power-off":
        lab.host(arguments.host).power_off()
    else:
        command = [*lab.host(arguments.host).ssh(), *arguments.command]
        os.execvp(command[0], command)
    return 0


def _up(lab: Lab, count: int, machine: bool) -> None:
    begun = time.monotonic()
    lab.up()
    letter, kind = ("m", "machine") if machine else ("h", "container")
    known = {host.name for host in lab.hosts()}
    names = [f"{letter}{number}" for number in range(1, count + 1)]
    hosts = [lab.host(name) if name in known else lab.add(name, kind=kind) for name in names]
    lab.boot(*(host for host in hosts if not host.is_running))
    _list(lab)
    print(f"hosts: up after {time.monotonic() - begun:.0f} s. {hint(lab.name, names[0])}")


def _list(lab: Lab) -> None:
    print(f"lab {lab.name}: network {lab.network.subnet}, bridge {lab.network.name}, shared folder {lab.shared} (in the hosts: /srv/shared)")
    print(f"  ssh -F {lab.ssh_config} HOST    ansible-playbook -i {lab.inventory} ...")
    for host in lab.hosts():
        print(f"  {host.name:10} {host.traits.kind:10} {host.address:15} {'on' if host.is_running else 'off'}")


if __name__ == "__main__":
    raise SystemExit(main())
