"""What a manager that was lost knew, taken back from its servers: who they are, what is on them, and that they are ours.

Nothing that a server has is changed, but where it tells its news, and (by its console secret) whose it is. A second run finds what is there.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Optional

from cryptography import x509
from domus_core.clients.agent import AgentClient, Shown
from domus_core.errors import DomusError, Forbidden, NotFound, Unreachable

from ..config import ManagerConfig
from ..rebuild_places import Place
from ..security.authority import Authority
from ..store import events, objects, server_states, servers, trust
from ..store.database import Connection, Store
from .notes import maintenance_of, pool_of
from .pool import Agents

ADDED, UPDATED, KNOWN, TAKEN_OVER = "added", "updated", "known", "taken over"
SILENT, FREE, FOREIGN, REVOKED, FAILED = "silent", "free", "foreign", "revoked", "failed"
#: what came back
OURS = (ADDED, UPDATED, KNOWN, TAKEN_OVER)
AT_ONCE = 32
INVENTORY_SECONDS = 60.0
SERVER_URN, OWNER_URN = "urn:domus:server:", "urn:domus:owner:"
#: what no server knows
NOT_RESTORED = (
    "users, passwords and API tokens",
    "jobs, their output and their audit",
    "what was asked for, and by whom: specifications are those that each VM has recorded",
    "plans, events and statistics of the past",
)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of one place; `objects` are numbers by kind."""

    address: str
    port: int
    result: str
    name: Optional[str] = None
    server: Optional[str] = None
    objects: dict[str, int] = dataclasses.field(default_factory=dict)
    note: Optional[str] = None
    remedy: Optional[str] = None


class Rebuild:
    """Asks places whether they are servers of this manager, and notes those that are."""

    def __init__(self, store: Store, authority: Authority, config: ManagerConfig, timeout: float = 10.0) -> None:
        self._store, self._authority, self._config, self._timeout = store, authority, config, timeout
        self._agents = Agents(store, authority, config)
        self._seen: dict[str, Place] = {}

    def run(self, places: Sequence[Place], told: Callable[[Outcome], None] = lambda outcome: None) -> list[Outcome]:
        """Ask all places; `told` hears of each as it is done; whatever fails is an outcome."""
        found: list[Outcome] = []
        with ThreadPoolExecutor(min(AT_ONCE, len(places) or 1)) as pool:
            for outcome in pool.map(self._ask, places):
                found.append(outcome)
                told(outcome)
        return found

    def _ask(self, place: Place) -> Outcome:
        try:
            shown = self._agents.who_answers(place.address, place.port, self._timeout)
        except Unreachable as error:
            return self._other(place, error)
        server_id = shown.server_id
        gone = trust.row(self._store, server_id)
        if gone is not None and gone["gone_at"] is not None:
            if place.secret is not None:
                return self._take_over(place)
            remedy = "If it is to come back: `domus-agent secret --rescue` on the server, then rebuild --secrets"
            return _outcome(place, REVOKED, server=server_id, note="this manager has revoked its certificate, or forgotten it", remedy=remedy)
        try:
            return self._ours(place, shown)
        except Forbidden:
            note = f"it obeys a manager with our authority, but with another id than {self._store.manager_id}"
            remedy = "Import the keys of that manager, its id comes with them: domus-manager authority import"
            return _outcome(place, FOREIGN, server=server_id, note=note, remedy=remedy)
        except DomusError as error:
            return _outcome(place, FAILED, server=server_id, note=str(error), remedy=error.remedy)

    def _ours(self, place: Place, shown: Shown) -> Outcome:
        """A server whose manager we are: note it, tell it where we are, take over what it has."""
        server_id = shown.server_id
        first = self._seen.setdefault(server_id, place)
        if first != place:
            return _outcome(place, KNOWN, server=server_id, note=f"the same server answers at {first.address}:{first.port}, which is noted")
        with contextlib.closing(self._agents.at(place.address, place.port, server_id)) as agent:
            hello = agent.request("hello", {}, self._timeout)
            before = _row(self._store, server_id)
            name = str(hello.get("known_as") or (before or {}).get("name") or place.name or hello["name"])
            server = {"id": server_id, "name": name, "address": place.address, "port": place.port, "serial": shown.serial}
            if before != server:
                servers.add(self._store, server)
                trust.note(self._store, server_id, ends_at=shown.ends_at, **({} if before else {"pool": pool_of(hello)}))
                if before is None:
                    self._restore_maintenance(server_id, hello)
                self._tell(server_id, {"name": name, "address": place.address, "known": before is not None})
            note = self._readdress(agent)
            counted = self._take_inventory(server_id, agent)
        result = ADDED if before is None else KNOWN if before == server else UPDATED
        return _outcome(place, result, name=name, server=server_id, objects=counted, note=note)

    def _other(self, place: Place, error: Unreachable) -> Outcome:
        """Somebody else's server, a free one, or nobody: look at the certificate that is shown, which proves nothing but explains much."""
        try:
            with AgentClient.peek(place.address, place.port, timeout=self._timeout) as contact:
                shown = x509.load_der_x509_certificate(contact.certificate)
        except (DomusError, ValueError):
            return _outcome(place, SILENT, note=error.message, remedy=error.remedy)
        server_id, owner = _named(shown, SERVER_URN), _named(shown, OWNER_URN)
        if place.secret is not None:
            return self._take_over(place)
        if server_id is None:
            return _outcome(place, SILENT, note="what answers there is no Domus agent", remedy="Is the address right?")
        if shown.issuer == shown.subject:
            return _outcome(place, FREE, server=server_id, note="it has no manager", remedy="Take it over: domus server add NAME ADDRESS")
        note = f"it belongs to {f'the manager {owner}' if owner else 'another manager'}: its certificate is not of our authority"
        remedy = "If that manager is lost for good: `domus-agent secret --rescue` on the server, then rebuild --secrets"
        return _outcome(place, FOREIGN, server=server_id, note=note, remedy=remedy)

    def _take_over(self, place: Place) -> Outcome:
        try:
            server = self._agents.take_over(place.name, place.address, place.port, place.secret or "")
        except DomusError as error:
            return _outcome(place, FAILED, name=place.name, note=str(error), remedy=error.remedy)
        self._tell(server["id"], {"name": server["name"], "address": place.address, "rescued": True})
        made = {"name": server["name"], "server": server["id"]}
        try:
            with contextlib.closing(self._agents.at(place.address, place.port, server["id"])) as agent:
                return _outcome(place, TAKEN_OVER, objects=self._take_inventory(server["id"], agent), **made)
        except DomusError as error:
            return _outcome(place, TAKEN_OVER, note=f"what is on it is not known yet: {error}", **made)

    def _restore_maintenance(self, server_id: str, hello: Mapping[str, Any]) -> None:
        """A server that was in maintenance mode is so still: somebody may be at work on it."""
        reason = maintenance_of(hello)
        if reason is not None:
            server_states.set_maintenance(self._store, server_id, True, reason, "rebuild")

    def _readdress(self, agent: AgentClient) -> Optional[str]:
        """Have the server tell its news to this manager's address; what is to be said of that."""
        parameters = {"url": self._config.url, "callback_authority": self._authority.web_ca_pem}
        try:
            changed = agent.request("readdress", parameters, self._timeout)["changed"]
        except NotFound:
            return f"its agent is too old to be told another address: it reports here only if {self._config.url} is the address of before"
        return f"it reports to {self._config.url} now" if changed else None

    def _take_inventory(self, server_id: str, agent: AgentClient) -> dict[str, int]:
        since = objects.latest_sequence(self._store)
        found = agent.request("inventory", {}, INVENTORY_SECONDS)
        objects.replace_all(self._store, server_id, found["objects"], since)
        return dict(collections.Counter(one["kind"] for one in found["objects"]))

    def _tell(self, server_id: str, data: dict[str, Any]) -> None:
        event = {"at": self._store.now(), "kind": "server.rebuilt", "severity": "info", "server_id": server_id, "object": None, "data": data, "operation": None}

        def change(connection: Connection) -> int:
            return events.add(connection, event)

        self._store.write(change)


def _row(store: Store, server_id: str) -> Optional[dict[str, Any]]:
    """What is on record of a server, as `servers.add` takes it."""
    found = store.row("SELECT id, name, address, port, serial FROM servers WHERE id = ?", (server_id,))
    return None if found is None else dict(found)


def _named(certificate: x509.Certificate, prefix: str) -> Optional[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return None
    found = [uri[len(prefix) :] for uri in names.get_values_for_type(x509.UniformResourceIdentifier) if uri.startswith(prefix)]
    return found[0] if len(found) == 1 else None


def _outcome(place: Place, result: str, **more: Any) -> Outcome:
    return Outcome(place.address, place.port, result, **more)
