"""`domus-agent`: the agent itself, and commands for the server that work without it and without the manager."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn, Optional

from domus_core.errors import DomusError
from domus_core.model.kinds import BY_NAME
from domus_core.verbs import VERBS
from domus_core.version import VERSION

from . import commands, pool_commands
from .config import load_config
from .output import complain

USAGE, INTERRUPTED = 64, 130


class CommandLine(argparse.ArgumentParser):
    """A command line that ends with EX_USAGE (sysexits.h) when it is wrong: 2 says that a plan has something to change."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and end."""
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"error: {message}\n")


def main(arguments: Optional[list[str]] = None) -> int:
    """Do what the command line says; 0: done, or nothing to change, 2: a plan with something to change, 1: failed, 64: wrong usage."""
    options = parser().parse_args(arguments)
    try:
        code: int = options.run(load_config(), options)
        return code
    except DomusError as error:
        complain(error, options.output)
    except OSError as error:
        complain(DomusError(str(error.strerror), object=str(error.filename or "")), options.output)
    except KeyboardInterrupt:
        return INTERRUPTED
    return commands.FAILED


def parser() -> CommandLine:
    """The command line."""
    made = CommandLine(prog="domus-agent", description=__doc__)
    made.add_argument("--version", action="version", version=VERSION)
    subparsers = made.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, run: commands.Command, text: str) -> CommandLine:
        one = subparsers.add_parser(name, help=text, description=text)
        one.add_argument("-o", "--output", choices=("table", "json"), default="table", help="how to print (default: %(default)s)")
        one.set_defaults(run=run)
        return one

    add("serve", commands.serve, "Be the agent; systemd runs this.")
    add("status", commands.status, "Who this server is, whose it is, and how agent, libvirt and manager are.")
    add("secret", commands.secret, "The one-time secret with which a manager takes this server over.").add_argument(
        "--rescue", action="store_true", help="when its manager is lost for good: let another take it over, once and within an hour; VMs do not notice"
    )
    listing = add("list", commands.list_objects, "List the objects of this server.")
    listing.add_argument("kind", nargs="?", choices=tuple(BY_NAME), default="vm", help="their kind (default: %(default)s)")
    for verb in VERBS.values():
        _add_verb(add(verb.name, commands.verb, verb.doc))
    _add_document(add("plan", commands.plan_document, "Say what an apply would do; exit code 2 when that is something."))
    applying = add("apply", commands.apply_document, "Apply a document to this server; a manager that owns it is told.")
    _add_document(applying)
    applying.add_argument("--wait-for-address", type=float, default=0.0, metavar="SECONDS", help="how long VMs that are to run get to have an address")
    pool_text = "This server as a member of a clustered pool."
    pool_commands.add_actions(subparsers.add_parser("pool", help=pool_text, description=pool_text))
    add("doctor", commands.doctor, "Check what this server needs; exit code 1 when something fails.")
    return made


def _add_verb(one: argparse.ArgumentParser) -> None:
    one.add_argument("vms", nargs="+", metavar="VM", help="name or UUID")
    one.add_argument("--timeout", type=int, metavar="SECONDS", help="how long its guest gets to shut down")
    one.add_argument("--force", action="store_true", help="power it off when its guest does not shut down")


def _add_document(one: argparse.ArgumentParser) -> None:
    one.add_argument("-f", "--file", required=True, metavar="FILE", help="the site document, YAML or JSON; - is standard input")
    one.add_argument("--server", metavar="NAME", help="only what concerns the server of this name (default: the name that its manager gave it)")


if __name__ == "__main__":
    sys.exit(main())
