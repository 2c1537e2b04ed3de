"""The first contact: a free server becomes this manager's, and nobody in between learns its secret."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Optional

from domus_core.clients.agent import AgentClient
from domus_core.clients.wire import split_invitation
from domus_core.errors import Conflict, NotFound, Unreachable

from ..security.authority import Authority
from ..store import servers
from ..store.database import Store

PROTOCOL = 1


def take_over(
    store: Store, authority: Authority, url: str, name: Optional[str], address: str, port: int, secret: str, is_ours: Callable[[str], bool]
) -> dict[str, Any]:
    """Compare the fingerprint, sign the server's key, hand over the authorities; return its item.

    Without `name` it is what the manager before called it, or what it calls itself. One that has a manager asks for a signature (csr)
    only when root has opened it for a rescue.

    Raises InvalidSpec (not a secret), Unreachable, Conflict (another fingerprint, owned already, name in use), Unauthorized (wrong secret).
    """
    fingerprint, half = split_invitation(secret)
    with AgentClient.peek(address, port, fingerprint) as contact:
        hello = contact.call("hello")
        server_id, name = str(hello["server"]), name or str(hello.get("known_as") or hello["name"])
        label = f"server {name}"
        if not hello.get("csr"):
            raise Conflict("belongs to a manager already", object=label, value=hello.get("manager"), remedy="Have that one release it: domus-agent status")
        if PROTOCOL not in hello.get("protocols", ()):
            raise Conflict("speaks another version of the protocol", object=label, value=hello.get("protocols"), remedy="Upgrade the older side")
        issued = authority.issue_server(hello["csr"], server_id, [address])
        with _stored(store, {"id": server_id, "name": name, "address": address, "port": port, "serial": issued.serial}):
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
                )
            except Unreachable:  # the answer may have been lost on its way
                if not is_ours(server_id):
                    raise
    return servers.find(store, server_id)


@contextlib.contextmanager
def _stored(store: Store, server: dict[str, Any]) -> Iterator[None]:
    """The server is known before it is ours, since it reports at once; what goes wrong inside puts back what was there."""
    try:
        before = servers.find(store, server["id"])
        serial = servers.serial(store, server["id"])
    except NotFound:
        before, serial = None, None
    servers.add(store, server)
    try:
        yield
    except BaseException:
        if before is None:
            servers.remove(store, server["id"])
        else:
            servers.add(store, {**before, "serial": serial})
        raise
