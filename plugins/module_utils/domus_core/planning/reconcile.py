"""Plan a whole document: what it can not do it refuses before anything is touched."""

from __future__ import annotations

import dataclasses
from typing import Any, Callable, Optional

from ..errors import Conflict, DomusError, InvalidSpec, Refused
from ..model.document import Site
from ..model.fields import LIVE, given, make, merge
from ..model.identity import derived_uuid
from ..model.kind import is_absent
from ..model.kinds import KINDS
from ..model.repository import TEMPLATES
from ..model.snapshot import Found, Snapshot
from .comparison import compare, creation, deletion
from .disks import plan_virtual_disk
from .repositories import plan_repository, with_storage
from .server_pools import plan_server_pool
from .site_view import SiteView, guard_unused
from .steps import CREATE, DELETE, START, STOP, UPDATE, Change, Step, step
from .vms import plan_vm


@dataclasses.dataclass(frozen=True)
class Plan:
    """Steps in the order in which they must be taken; those of one object stand together within their phase."""

    site: str
    steps: tuple[Step, ...]

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON-able data, secrets masked."""
        return {"site": self.site, "steps": [one.as_dict() for one in self.steps]}


def plan(site: Site, snapshot: Snapshot) -> Plan:
    """Return the steps that turn the snapshot into the site. Raises Refused, or the one error, when anything can not be done."""
    view = SiteView(site, snapshot)
    steps: list[Step] = []
    problems: list[DomusError] = []
    for kind in KINDS:
        for key, wanted in site.wanted(kind.name).items():
            try:
                steps += with_storage(_PLANNERS[kind.name], view, kind.name, wanted, snapshot.find(kind.name, key))
            except DomusError as error:
                problems.append(error.located(f"{kind.name} {key}"))
    if problems:
        raise Refused(problems) if len(problems) > 1 else problems[0]
    return Plan(site.name, tuple(_ordered(steps)))


def _ordered(steps: list[Step]) -> list[Step]:
    """Deletions first, users before what they use (but for what goes first); then the rest, what is used before its users. A step twice is one step."""
    rank = {kind.name: position for position, kind in enumerate(KINDS)}
    deleted = {(one.kind, one.key) for one in steps if one.action == DELETE}
    leaving = [one for one in steps if (one.kind, one.key) in deleted]
    staying = [one for one in steps if (one.kind, one.key) not in deleted]
    ordered = sorted(leaving, key=lambda one: (not one.goes_first, -rank[one.kind])) + sorted(staying, key=lambda one: rank[one.kind])
    return list({(one.action, one.kind, one.key): one for one in ordered}.values())


def _plan_simple(kind: str, check: Callable[[SiteView, Any], None]) -> Callable[[SiteView, Any, Optional[Found]], list[Step]]:
    """The planner of a kind that is just there or not: server, template, ISO."""

    def plan_one(view: SiteView, wanted: Any, found: Optional[Found]) -> list[Step]:
        if is_absent(wanted):
            guard_unused(view, kind, wanted.name)
            return [step(DELETE, kind, found.spec, reason="it is to be absent", changes=deletion())] if found else []
        if found is None:
            check(view, wanted)
            spec = make(type(wanted), {name: value for name, value in given(wanted).items() if name != "state"})
            return [step(CREATE, kind, spec, changes=creation(spec), reason="it does not exist")]
        changes = compare(wanted, found.spec)
        return [step(UPDATE, kind, merge(found.spec, wanted), changes=tuple(changes), reason="it differs")] if changes else []

    return plan_one


def _check_nothing(view: SiteView, wanted: Any) -> None:
    """Nothing else is needed for it."""


def _check_image(folder: str) -> Callable[[SiteView, Any], None]:
    def check(view: SiteView, wanted: Any) -> None:
        if wanted.image is None:
            raise Conflict("is missing", field="image", remedy="Say which file it is: repository/file")
        view.image(wanted.image, "image", folder)

    return check


def _plan_network(view: SiteView, wanted: Any, found: Optional[Found]) -> list[Step]:
    uuid = found.state.uuid if found else derived_uuid(view.site.name, "network", wanted.name)
    if is_absent(wanted):
        return _delete_network(view, wanted, found, uuid)
    if found is None:
        values = {"mode": "nat", "autostart": True, **given(wanted)}
        state = values.pop("state", "active")
        spec = make(type(wanted), values)
        _refuse(spec)
        if spec.subnet is None and spec.mode in ("nat", "routed"):
            raise InvalidSpec("is missing", field="subnet", remedy=f"Mode {spec.mode} needs the subnet of the network")
        steps = [step(CREATE, "network", spec, changes=creation(spec), reason="it does not exist", uuid=uuid)]
        return steps + ([step(START, "network", spec, reason="it is to be active", uuid=uuid)] if state == "active" else [])
    _refuse_other_mode(wanted, found.spec)
    changes = compare(wanted, found.spec, skip=frozenset({"state"}))
    whole = merge(_with_new_subnet(wanted, found.spec), wanted)
    _refuse(whole)
    steps = [step(UPDATE, "network", whole, changes=tuple(changes), reason="it differs", uuid=uuid)] if changes else []
    # An apply that was broken off between making and starting it must be completed by the next one.
    state = wanted.state or ("active" if found.state.made_by_domus else None)
    was = "active" if found.state.active else "inactive"
    if state not in (None, was):
        action = START if state == "active" else STOP
        steps.append(step(action, "network", whole, reason=f"it is to be {state}", uuid=uuid, changes=(Change("state", was, state, LIVE),)))
    if steps and not found.state.made_by_domus and not wanted.adopted:
        raise Conflict("exists and was not made by Domus", field="name", value=wanted.name, remedy="To let Domus manage it, write adopted: true")
    return steps


def _refuse_other_mode(wanted: Any, found: Any) -> None:
    if wanted.mode is not None and found.mode is not None and "bridge" in (wanted.mode, found.mode) and wanted.mode != found.mode:
        raise Conflict(
            f"a network of mode {found.mode} can not become one of mode {wanted.mode}",
            field="mode",
            value=wanted.mode,
            remedy="Delete it and make it again, or make another",
        )


def _with_new_subnet(wanted: Any, found: Any) -> Any:
    """What is found, without the gateway of a subnet that it is to leave."""
    if wanted.subnet in (None, found.subnet) or wanted.gateway is not None:
        return found
    return make(type(found), {name: value for name, value in given(found).items() if name != "gateway"})


def _delete_network(view: SiteView, wanted: Any, found: Optional[Found], uuid: str) -> list[Step]:
    guard_unused(view, "network", wanted.name)
    if found is None:
        return []
    if not found.state.made_by_domus and not wanted.adopted:
        raise Conflict(
            "was not made by Domus, so Domus does not delete it", field="state", value="absent", remedy="To let Domus delete it, write adopted: true"
        )
    return [step(DELETE, "network", found.spec, reason="it is to be absent", uuid=uuid, changes=deletion())]


def _refuse(spec: Any) -> None:
    problems = spec.check()
    if problems:
        raise problems[0]


_PLANNERS: dict[str, Callable[[SiteView, Any, Optional[Found]], list[Step]]] = {
    "server": _plan_simple("server", _check_nothing),
    "network": _plan_network,
    "repository": plan_repository,
    "server_pool": plan_server_pool,
    "template": _plan_simple("template", _check_image(TEMPLATES)),
    "iso": _plan_simple("iso", _check_image("ISOs")),
    "virtual_disk": plan_virtual_disk,
    "vm": plan_vm,
}
