"""The first contact: a free server becomes this manager's, and nobody in between learns its secret."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Optional

from domus_core.clients.agent import AgentClient
from domus_core.clients.wire import split_invitation
from domus_core.errors import Conflict, NotFound, Unreachable

from ..security.authority import Authority
from ..store import server_states, servers, trust
from ..store.database import Store
from . import notes
from .trust import Trust

PROTOCOL = 1


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Which server is to be taken over, and as what; `replace` buries the one that had its name (it was reinstalled)."""

    name: Optional[str]
    address: str
    port: int
    pool: Optional[str] = None
    replace: bool = False


def take_over(store: Store, authority: Authority, given: Trust, url: str, wanted: Wanted, secret: str, is_ours: Callable[[str], bool]) -> dict[str, Any]:
    """Compare the fingerprint, sign the server's keys, hand over the authorities; return its item.

    Without a name it is what the manager before called it, or what it calls itself; the pool is that of before likewise. One that has a
    manager asks for a signature (csr) only when root has opened it for a rescue.

    Raises InvalidSpec (not a secret), Unreachable, Conflict (another fingerprint, owned already, name or host UUID in use), Unauthorized (wrong secret).
    """
    fingerprint, half = split_invitation(secret)
    with AgentClient.peek(wanted.address, wanted.port, fingerprint) as contact:
        hello = contact.call("hello")
        server_id = str(hello["server"])
        name = wanted.name or str(hello.get("known_as") or hello["name"])
        pool = wanted.pool or notes.pool_of(hello)
        wanted = dataclasses.replace(wanted, name=name)
        _check(store, hello, wanted)
        issued = authority.issue_server(hello["csr"], server_id, [wanted.address], store.manager_id)
        server = {"id": server_id, "name": name, "address": wanted.address, "port": wanted.port, "serial": issued.serial}
        with _stored(store, server, wanted.replace) as replaced:
            trust.note(store, server_id, pool=pool, ends_at=issued.not_after, next_serial=None)
            papers = given.papers({**server, "hostname": hello.get("name")}, hello.get("libvirt_csr"), pool)
            try:
                contact.call(
                    "take_over",
                    secret=half,
                    manager=store.manager_id,
                    url=url,
                    authority=authority.servers_ca_pem,
                    callback_authority=authority.web_ca_pem,
                    certificate=issued.pem,
                    name=name,
                    **({} if papers is None else {"libvirt": papers}),
                )
            except Unreachable:  # the answer may have been lost on its way
                if not is_ours(server_id):
                    raise
    reason = notes.maintenance_of(hello)
    if reason is not None:  # somebody may be at work on it
        server_states.set_maintenance(store, server_id, True, reason, "rescue")
    if replaced is not None:
        given.revoke(replaced)
        servers.remove(store, replaced)
    return servers.find(store, server_id)


def _check(store: Store, hello: dict[str, Any], wanted: Wanted) -> None:
    """Raise Conflict unless this server can be ours under that name."""
    label = f"server {wanted.name}"
    if not hello.get("csr"):
        raise Conflict("belongs to a manager already", object=label, value=hello.get("manager"), remedy="Have that one release it: domus-agent status")
    if PROTOCOL not in hello.get("protocols", ()):
        raise Conflict("speaks another version of the protocol", object=label, value=hello.get("protocols"), remedy="Upgrade the older side")
    host = hello.get("host_uuid")
    other = servers.same_host(store, host, str(hello["server"])) if host else None
    if other is not None and not (wanted.replace and other["name"] == wanted.name):
        raise Conflict(
            f"has the same host UUID as server {other['name']}: libvirt takes the two for one, and refuses to migrate between them",
            object=label,
            field="host_uuid",
            value=host,
            remedy="Give it one of its own: host_uuid in /etc/libvirt/libvirtd.conf (uuidgen), restart libvirtd and domus-agent."
            f" If it is {other['name']}, reinstalled: domus server add {other['name']} ADDRESS --replace",
        )


@contextlib.contextmanager
def _stored(store: Store, server: dict[str, Any], replace: bool) -> Iterator[Optional[str]]:
    """The server is known before it is ours, since it reports at once; what goes wrong inside puts back what was there.

    Yields the id of the server whose name it takes, which is renamed meanwhile.
    """
    replaced = _make_room(store, server) if replace else None
    try:
        before = servers.find(store, server["id"])
        serial = servers.serial(store, server["id"])
    except NotFound:
        before, serial = None, None
    try:
        servers.add(store, server)
        yield None if replaced is None else str(replaced["id"])
    except BaseException:
        if before is None:
            with contextlib.suppress(NotFound):
                servers.remove(store, server["id"])
        else:
            servers.add(store, {**before, "serial": serial})
        if replaced is not None:
            servers.set_name(store, replaced["id"], replaced["name"])
        raise


def _make_room(store: Store, server: dict[str, Any]) -> Optional[dict[str, Any]]:
    """Rename the server that has the name; return it as it was, None when no other has it. Raises Conflict when it works still."""
    try:
        found = servers.find(store, server["name"])
    except NotFound:
        return None
    if found["id"] == server["id"]:
        return None
    if found["state"] in servers.CONNECTED:
        raise Conflict(
            "works still, so that it was not reinstalled",
            object=f"server {found['name']}",
            field="state",
            value=found["state"],
            remedy="Choose another name, or release it: domus server remove",
        )
    servers.set_name(store, found["id"], f"{found['name']}-replaced-{found['id'][:8]}")
    return found
