"""The commands of `python -m domus_core` that look at this server: snapshot and adopt. Neither changes anything."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any, Optional

from .documents import dump_document, read_document
from .libvirt_driver.adoption import adopt
from .libvirt_driver.driver import STATE_DIRECTORY, SYSTEM, open_driver
from .model.document import DEFAULT_SITE, Site, parse_document
from .snapshots import dump_snapshot


def run(name: str, arguments: list[str]) -> int:
    """Run the command; raises DomusError."""
    parser = argparse.ArgumentParser(prog=f"domus_core {name}", description=DESCRIPTIONS[name])
    parser.add_argument("--uri", default=SYSTEM, help="the libvirt connection (default: %(default)s)")
    parser.add_argument("--state-directory", default=STATE_DIRECTORY, help="where the server's own records are (default: %(default)s)")
    parser.add_argument("--site", default=DEFAULT_SITE, help="name of the site (default: %(default)s)")
    if name == "adopt":
        parser.add_argument("-o", "--output", choices=("yaml", "json"), default="yaml", help="how to write the document")
        parser.add_argument("names", nargs="*", metavar="VM", help="the VMs; none: all that Domus does not manage")
    else:
        parser.add_argument("document", nargs="?", help="a site document: the files and directories that it names are looked at as well")
    options = parser.parse_args(arguments)
    site = Site(options.site, {})
    if name == "snapshot" and options.document:
        site = parse_document(read_document(options.document))
    driver = open_driver(options.uri, options.state_directory)
    try:
        sys.stdout.write(dump_snapshot(driver.read(site)) if name == "snapshot" else _adopted(driver, options))
    finally:
        driver.close()
    return 0


DESCRIPTIONS = {
    "snapshot": "Save what is on this server, as JSON, to plan on later. Secrets are in it as salted digests only.",
    "adopt": "Write the document of VMs that ran before Domus came, with what it can not hold as comments. Changes nothing.",
}


def _adopted(driver: Any, options: argparse.Namespace) -> str:
    names: Optional[list[str]] = options.names or None
    adopted = adopt(driver, names, options.site)
    if options.output == "json":
        return json.dumps(adopted, indent=2) + "\n"
    left = [f"# not managed, stays as it is: vm {name}: {place}" for name, places in adopted["not_managed"].items() for place in places]
    return "\n".join([dump_document(adopted["document"]).rstrip("\n"), *left]) + "\n"
