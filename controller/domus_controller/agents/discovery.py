"""What answers at an address: a free server, one of ours, or another manager's. Nothing is changed there, and no secret is sent."""

from __future__ import annotations

import contextlib
from typing import Any, Optional

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding
from domus_core.clients.agent import AgentClient
from domus_core.errors import NotFound, Unreachable

from ..security.authority import OWNER_URN, Authority, expires_at, identity, uris_of
from ..store import servers
from ..store.database import Store
from ..store.values import shown_time

PEEK_SECONDS = 10.0


def discover(store: Store, authority: Authority, address: str, port: int) -> dict[str, Any]:
    """Who answers there, with the fingerprint of the certificate that was shown on this very connection.

    A free server tells about itself; of one that has a manager only its certificate can be seen. Raises Unreachable.
    """
    with AgentClient.peek(address, port, timeout=PEEK_SECONDS) as contact:
        shown = x509.load_der_x509_certificate(contact.certificate)
        pem = shown.public_bytes(Encoding.PEM).decode()
        server_id = identity(pem, "server")
        if server_id is None:
            raise Unreachable(
                "something answers, but it is no Domus agent", object=contact.place, remedy="Is it the agent's port? domus-agent status, on the server"
            )
        told: dict[str, Any] = {"address": address, "port": port, "server": server_id, "fingerprint": contact.fingerprint}
        free = shown.issuer == shown.subject
        hello = contact.greet() if free else {}
    told.update({name: hello.get(name) for name in ("name", "version", "protocols", "host_uuid")})
    known = _known(store, server_id)
    ours = known is not None and not free and _signed_by(shown, authority)
    owners = [uri.removeprefix(OWNER_URN) for uri in uris_of(pem) if uri.startswith(OWNER_URN)]
    told.update(owned=not free, manager=store.manager_id if ours else next(iter(owners), None), ours=ours, known_as=known["name"] if known else None)
    if ours and known is not None:
        told.update(name=(known["facts"] or {}).get("hostname"), version=known["version"], host_uuid=(known["facts"] or {}).get("uuid"))
    return {**told, "certificate_ends_at": shown_time(expires_at(pem))}


def _known(store: Store, server_id: str) -> Optional[dict[str, Any]]:
    try:
        return servers.find(store, server_id)
    except NotFound:
        return None


def _signed_by(shown: x509.Certificate, authority: Authority) -> bool:
    for believed in x509.load_pem_x509_certificates(authority.servers_ca_pem.encode()):
        with contextlib.suppress(ValueError, TypeError, InvalidSignature):
            shown.verify_directly_issued_by(believed)
            return True
    return False
