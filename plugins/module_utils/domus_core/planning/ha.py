"""Whether a VM may be kept up by its pool: told before anything is touched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Optional

from ..errors import Conflict
from ..model.ha import is_kept_up
from ..model.repository import is_shared
from .site_view import SiteView

NO_POOL = "this server is in no clustered pool"


def check_ha(view: SiteView, whole: Any, before: Optional[Any]) -> None:
    """`before` is the record that it has. Raises Conflict when its pool can not keep it up: no such pool, untested fencing, files on one server alone."""
    if not is_kept_up(whole):
        return
    facts = (view.snapshot.server.facts or {}).get("ha") or {}
    refusal = None if is_kept_up(before) else facts.get("refusal", NO_POOL)
    if refusal is not None:
        remedy = "Make the server a member of a clustered pool" if refusal == NO_POOL else "Mend that; domus pool fence-test tests fence devices"
        raise Conflict(f"it would be started on hope: {refusal}", field="ha.enabled", value=True, remedy=remedy)
    known = facts.get("servers") or ()
    for name in whole.ha.preferred_servers or ():
        if known and name not in known:
            raise Conflict("is not a server of the pool", field="ha.preferred_servers", value=name, remedy=f"Its servers: {', '.join(known)}")
    if whole.name in facts.get("unprotected", ()) and not is_kept_up(before):
        raise Conflict(
            "its disks are not locked, since it was started before there were locks", field="ha.enabled", value=True, remedy="Restart it, then apply again"
        )
    for field, repository in _repositories(view, whole):
        spec = view.future("repository", repository)
        if spec is not None and spec.nfs is not None and spec.nfs.version == "3":
            raise Conflict(f"lies in {repository}, on NFS version 3, whose locks do not fall with a server", field=field, remedy="Mount it with version 4")
        if spec is not None and not is_shared(spec):
            raise Conflict(
                f"lies in {repository}, which only this server has", field=field, remedy="Put it into a repository that all servers of the pool share"
            )


def _repositories(view: SiteView, whole: Any) -> Iterator[tuple[str, str]]:
    """The repositories that it needs wherever it starts, each with the field that says so."""
    for disk in whole.disks or ():
        if disk.file:
            yield f"disks[{disk.name}]", disk.file.split("/", 1)[0]
    for drive in whole.cdroms or ():
        iso = view.future("iso", drive.iso) if drive.iso else None
        if iso is not None and iso.image:
            yield f"cdroms[{drive.name}].iso", iso.image.split("/", 1)[0]
    for name in ("kernel", "initrd"):
        file = getattr(whole.kernel, name, None) if whole.kernel else None
        if file:
            yield f"kernel.{name}", file.split("/", 1)[0]
