"""The CIB of the pool that runs: read, merged with what is wanted, patched in one atomic write. What is pure about it is in cib_merge.py."""

from __future__ import annotations

import copy
import dataclasses
import os
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from ..errors import Conflict, DriverError
from ..libvirt_driver.tools import run
from ..libvirt_driver.xml_fields import etree
from .cib import wanted_configuration
from .cib_merge import CibChange, keep_vms, merge_configuration
from .pool import Pool

# Others write too; each attempt reads anew.
ATTEMPTS, PAUSE = 20, 0.5
SECONDS = 60.0
# crm_diff says 1 when the two differ.
DIFF = 'crm_diff --original "$1" --new "$2" || [ $? = 1 ]'


def read_cib() -> Any:
    """The element `cib` as Pacemaker has it. Raises DriverError, Unreachable."""
    text = run(["cibadmin", "--query"], timeout=SECONDS, what="reading Pacemaker's configuration")
    # Pacemaker indents what it prints; elements are compared as text.
    return etree.fromstring(text.encode(), etree.XMLParser(remove_blank_text=True, resolve_entities=False))


def apply_pool(pool: Pool, node_ids: Mapping[str, int], check: bool = False, keeps_vms: bool = False) -> CibChange:
    """Make ours in the running configuration as wanted; what is as wanted already is not written. `check`: only say what would change.

    `keeps_vms`: VMs, and what is said of servers, stay as they are there.

    Raises Conflict for a member that has never joined (Pacemaker would cut its power), DriverError, Unreachable.
    """
    for attempt in range(ATTEMPTS):
        cib = read_cib()
        _require_joined(cib, pool)
        wanted = wanted_configuration(pool, node_ids)
        if keeps_vms:
            keep_vms(cib.find("configuration"), wanted)
        change = merge_configuration(cib.find("configuration"), wanted)
        if check or not change.changes:
            break
        try:
            if _make_property_set(cib, wanted):
                continue
            _patch(cib, change.configuration)
            break
        except DriverError:
            if attempt == ATTEMPTS - 1:
                raise
            time.sleep(PAUSE)
    if not check:
        _clear(change)
    return change


def _require_joined(cib: Any, pool: Pool) -> None:
    known = {str(node.get("uname")) for node in cib.iterfind("configuration/nodes/node")}
    missing = sorted({member.name for member in pool.members} - known)
    if missing:
        raise Conflict("has never joined the pool", object=f"server_pool {pool.name}", field="servers", value=missing[0], remedy="domus-agent pool start on it")


def _make_property_set(cib: Any, wanted: Any) -> bool:
    """Make our set of properties when there is none yet, still empty: Pacemaker's controller hears of changes in a set, and not of a new one (2.1.5)."""
    identity = wanted.find("crm_config/cluster_property_set").get("id")
    configuration = copy.deepcopy(cib.find("configuration"))
    properties = configuration.find("crm_config")
    if any(one.get("id") == identity for one in properties):
        return False
    etree.SubElement(properties, "cluster_property_set", id=identity)
    _patch(cib, configuration)
    return True


def _patch(cib: Any, configuration: Any) -> None:
    """Refused when the configuration has been changed since it was read; results of operations meanwhile, which are in the CIB too, do not matter."""
    new = copy.deepcopy(cib)
    new.replace(new.find("configuration"), copy.deepcopy(configuration))
    new.set("epoch", str(int(cib.get("epoch", "0")) + 1))
    with tempfile.TemporaryDirectory(prefix="domus-cib-") as folder:
        paths = [os.path.join(folder, name) for name in ("found.xml", "wanted.xml")]
        for path, tree in zip(paths, (cib, new)):
            with open(path, "wb") as file:
                file.write(etree.tostring(tree))
        patch = etree.fromstring(run(["sh", "-c", DIFF, "crm_diff", *paths], timeout=SECONDS, what="comparing Pacemaker's configuration").encode())
    for version in patch.iterfind("version/*"):
        version.attrib.pop("num_updates", None)
    text = etree.tostring(patch)
    run(["cibadmin", "--patch", "--xml-pipe"], timeout=SECONDS, input=text, what="changing Pacemaker's configuration")


def _clear(change: CibChange) -> None:
    """Take nodes away that are no members any more, and the history of resources that are none: a VM whose HA was taken runs on."""
    for name in change.gone:
        run(["crm_node", "--force", "--remove", name], timeout=SECONDS, what=f"removing {name} from the pool")
    for resource in change.dropped:
        run(["crm_resource", "--refresh", "--resource", resource], timeout=SECONDS, what=f"clearing the history of {resource}")


def told(change: CibChange) -> dict[str, Any]:
    """The change as plain data."""
    fields = [field.name for field in dataclasses.fields(change) if field.name != "configuration"]
    return {name: list(getattr(change, name)) for name in fields}
