"""The edge to Pacemaker: read the CIB, merge, and write what is different in one atomic step that nobody else's change can fall into."""

from __future__ import annotations

import copy
import dataclasses
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable, Optional, TypeVar

from ..errors import Busy, Conflict, DriverError
from ..libvirt_driver.tools import ask, run
from ..libvirt_driver.xml_fields import etree, parse, serialize
from .cib import wanted_configuration
from .cib_merge import CibChange, keep_vms, merge_configuration
from .pool import Pool
from .watchdog import members_without

Done = TypeVar("Done")

SECONDS = 60.0
ATTEMPTS = 8
JOIN_SECONDS, PAUSE = 120.0, 1.0
_MOVED_ON = "Update was older"


class Pacemaker:
    """The cluster that this server belongs to, or a CIB in a file."""

    def __init__(self, cib_file: Optional[str] = None) -> None:
        self._prefix = [] if cib_file is None else ["env", f"CIB_file={cib_file}"]

    def read(self) -> Any:
        """The CIB. Raises DriverError when the cluster does not run here, Unreachable."""
        return parse(self._run("reading the CIB", "cibadmin", "--query"))

    def plan(self, pool: Pool, node_ids: Mapping[str, int], keeps_vms: bool = False) -> CibChange:
        """What would change; `keeps_vms`: VMs, and what is said of servers, stay as they are there."""
        return self._change(self.read(), pool, node_ids, keeps_vms)

    def apply(self, pool: Pool, node_ids: Mapping[str, int], keeps_vms: bool = False) -> CibChange:
        """Make ours as the pool wants it. Raises Busy when others change the CIB all the time, Conflict for a member that has never joined."""
        self._wait_until_joined(pool)

        def attempt(found: Any) -> Optional[CibChange]:
            change = self._change(found, pool, node_ids, keeps_vms)
            return None if change.changes and self._made_property_set(found, pool, node_ids) else self._put(found, change)

        return self._until_done(attempt, f"server_pool {pool.name}")

    def change(self, wanted_of: Callable[[Any], Any], what: str) -> CibChange:
        """Make ours as `wanted_of` says of the CIB that it is given. Raises Busy when others change the CIB all the time."""
        return self._until_done(lambda found: self._put(found, merge_configuration(found.find("configuration"), wanted_of(found))), what)

    def edit(self, edit: Callable[[Any], tuple[str, ...]], what: str) -> tuple[str, ...]:
        """Write the configuration that `edit` has changed in place; returns what it says has changed. Raises Busy as `change` does."""

        def attempt(found: Any) -> Optional[tuple[str, ...]]:
            configuration = copy.deepcopy(found.find("configuration"))
            changes = edit(configuration)
            return changes if not changes or self._write(found, configuration) else None

        return self._until_done(attempt, what)

    def _until_done(self, attempt: Callable[[Any], Optional[Done]], what: str) -> Done:
        """What the attempt returns for the CIB as it is; None: it has moved on, so that it is read, and tried, again. Raises Busy."""
        for dummy in range(ATTEMPTS):
            done = attempt(self.read())
            if done is not None:
                return done
        raise Busy("the CIB was changed by somebody else each time", object=what, remedy="Try again")

    def _put(self, found: Any, change: CibChange) -> Optional[CibChange]:
        """Write the change, and what goes with it; None when the CIB has moved on."""
        if change.changes and not self._write(found, change.configuration):
            return None
        self._tidy(change)
        return change

    def _change(self, found: Any, pool: Pool, node_ids: Mapping[str, int], keeps_vms: bool) -> CibChange:
        wanted = wanted_configuration(pool, node_ids)
        if keeps_vms:
            keep_vms(found.find("configuration"), wanted)
        return merge_configuration(found.find("configuration"), wanted)

    def _wait_until_joined(self, pool: Pool) -> None:
        """Pacemaker would cut the power of a member that it has never seen, and must not trust a watchdog that does not run; who has just been started is
        given its time."""
        end = time.monotonic() + JOIN_SECONDS
        while not self._prefix:
            found = self.read()
            known = {node.get("uname") for node in found.iterfind("configuration/nodes/node")}
            missing = sorted({member.name for member in pool.members} - known)
            bare = members_without(found, [member.name for member in pool.members], pool.watchdog)
            if not missing and not bare:
                return
            if time.monotonic() > end:
                first, what, field = (missing[0], "has never joined the pool", "servers") if missing else (bare[0], "has no watchdog that runs", "watchdog")
                raise Conflict(what, object=f"server_pool {pool.name}", field=field, value=first, remedy=f"On {first}: domus-agent pool start")
            time.sleep(PAUSE)

    def _made_property_set(self, found: Any, pool: Pool, node_ids: Mapping[str, int]) -> bool:
        """Make our set of properties where there is none, still empty: Pacemaker's controller hears of changes in a set, and not of a new one (2.1.5)."""
        identity = wanted_configuration(pool, node_ids).find("crm_config/cluster_property_set").get("id")
        configuration = copy.deepcopy(found.find("configuration"))
        properties = configuration.find("crm_config")
        if any(one.get("id") == identity for one in properties):
            return False
        etree.SubElement(properties, "cluster_property_set", id=identity)
        return self._write(found, configuration)

    def _write(self, found: Any, configuration: Any) -> bool:
        """Patch the CIB from what was read to what is wanted; False when its configuration has moved on since."""
        wanted = copy.deepcopy(found)
        wanted.replace(wanted.find("configuration"), copy.deepcopy(configuration))
        wanted.set("epoch", str(int(wanted.get("epoch", "0")) + 1))
        with tempfile.TemporaryDirectory(prefix="domus-cib-") as folder:
            before, after, patch = (Path(folder) / name for name in ("before.xml", "after.xml", "patch.xml"))
            before.write_text(serialize(found), encoding="utf-8")
            after.write_text(serialize(wanted), encoding="utf-8")
            patch.write_text(_without_updates(_difference(before, after)), encoding="utf-8")
            try:
                self._run("writing the CIB", "cibadmin", "--patch", "--xml-file", str(patch))
            except DriverError as error:
                if _MOVED_ON in str(error):
                    return False
                raise
        return True

    def _tidy(self, change: CibChange) -> None:
        """What a CIB alone can not say: members that left, and resources that are none of Pacemaker's business any more."""
        if self._prefix:
            return
        for name in change.gone:
            self._run(f"taking {name} out of the cluster", "crm_node", "--force", "--remove", name)
        for name in change.dropped:
            self._run(f"forgetting {name}", "crm_resource", "--refresh", "--resource", name, "--force")

    def _run(self, what: str, *command: str) -> str:
        return run([*self._prefix, *command], timeout=SECONDS, what=what)


def _difference(before: Path, after: Path) -> str:
    """The patch that leads from one to the other; crm_diff says 1 when there is a difference."""
    return ask(["crm_diff", "--original", str(before), "--new", str(after)], timeout=SECONDS, what="comparing the CIB", answers=(0, 1))[1]


def _without_updates(text: str) -> str:
    """The patch, for whatever results of operations have come meanwhile: they are in the CIB too, and come all the time."""
    patch = parse(text)
    for version in patch.iterfind("version/*"):
        version.attrib.pop("num_updates", None)
    return serialize(patch)


def told(change: CibChange) -> dict[str, Any]:
    """The change as plain data."""
    fields = [field.name for field in dataclasses.fields(change) if field.name != "configuration"]
    return {name: list(getattr(change, name)) for name in fields}
