"""The edge to Pacemaker: read the CIB, merge, and write what is different in one atomic step that nobody else's change can fall into."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

from ..errors import Busy, DriverError
from ..libvirt_driver.tools import run
from ..libvirt_driver.xml_fields import parse, serialize
from .cib import wanted_configuration
from .cib_merge import CibChange, merge_configuration
from .pool import Pool

SECONDS = 60.0
ATTEMPTS = 8
_MOVED_ON = "Update was older"


class Pacemaker:
    """The cluster that this server belongs to, or a CIB in a file."""

    def __init__(self, cib_file: Optional[str] = None) -> None:
        self._prefix = [] if cib_file is None else ["env", f"CIB_file={cib_file}"]

    def read(self) -> Any:
        """The CIB. Raises DriverError when the cluster does not run here, Unreachable."""
        return parse(self._run("reading the CIB", "cibadmin", "--query"))

    def plan(self, pool: Pool, node_ids: Mapping[str, int]) -> CibChange:
        """What would change."""
        return merge_configuration(self.read().find("configuration"), wanted_configuration(pool, node_ids))

    def apply(self, pool: Pool, node_ids: Mapping[str, int]) -> CibChange:
        """Make ours as the pool wants it. Raises Busy when others change the CIB all the time."""
        for dummy in range(ATTEMPTS):
            found = self.read()
            change = merge_configuration(found.find("configuration"), wanted_configuration(pool, node_ids))
            if not change.changes or self._write(found, change):
                self._tidy(change)
                return change
        raise Busy("the CIB was changed by somebody else each time", object=f"server_pool {pool.name}", remedy="Apply again")

    def _write(self, found: Any, change: CibChange) -> bool:
        """Patch the CIB from what was read to what is wanted; False when it has moved on since."""
        wanted = copy.deepcopy(found)
        wanted.replace(wanted.find("configuration"), change.configuration)
        wanted.set("epoch", str(int(wanted.get("epoch", "0")) + 1))
        wanted.set("num_updates", "0")
        with tempfile.TemporaryDirectory(prefix="domus-cib-") as folder:
            before, after, patch = (Path(folder) / name for name in ("before.xml", "after.xml", "patch.xml"))
            before.write_text(serialize(found), encoding="utf-8")
            after.write_text(serialize(wanted), encoding="utf-8")
            patch.write_text(_difference(before, after), encoding="utf-8")
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
    command = 'crm_diff --original "$0" --new "$1"; [ $? -le 1 ]'
    return run(["sh", "-c", command, str(before), str(after)], timeout=SECONDS, what="comparing the CIB")
