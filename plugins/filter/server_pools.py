"""Filters about the server pools of a site document, for the playbook `server_pools`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Callable, Optional

from ansible.errors import AnsibleFilterError

from ..module_utils.domus_core.cluster.pool import Watchdog
from ..module_utils.domus_core.cluster.pool_of import ServerFacts, device_of, pool_of, secrets_of
from ..module_utils.domus_core.errors import DomusError
from ..module_utils.domus_core.model.document import Site, parse_document
from ..module_utils.domus_core.model.fields import given, make
from ..module_utils.domus_core.model.kind import is_absent
from ..module_utils.domus_core.model.repository import directory_of
from ..module_utils.domus_core.model.server_pool import has_quorum_device, has_watchdog, is_clustered

Variables = dict[str, Any]


def pool_variables(document: Any, server: str) -> Variables:
    """The variables of the role server_pool for a server of the inventory, from the document; nothing when it is to be in no clustered pool."""
    site = _parsed(document)
    for pool in site.wanted("server_pool").values():
        if not is_absent(pool) and is_clustered(pool) and server in (pool.servers or ()):
            return _variables(site, pool)
    return {}


def _variables(site: Site, pool: Any) -> Variables:
    repository = site.wanted("repository").get(pool.file_system)
    if repository is None:
        raise AnsibleFilterError(f"server_pool {pool.name} file_system: repository {pool.file_system} must be in the same document")
    secrets: dict[str, dict[str, str]] = {}
    for (device, option), secret in secrets_of(pool).items():
        secrets.setdefault(device, {})[option] = secret.reveal()
    devices = [device_of(device) for device in pool.fencing or ()]
    variables: Variables = {
        "server_pool_name": pool.name,
        "server_pool_file_system": directory_of(repository),
        "server_pool_devices": [
            {"name": one.name, "agent": one.agent, "servers": dict(one.servers), "options": dict(one.options), "level": one.level} for one in devices
        ],
        "server_pool_secrets": secrets,
    }
    variables |= {f"server_pool_{name}": value for name, value in given(pool).items() if name in ("token", "start_policy")}
    if has_quorum_device(pool):
        variables["server_pool_quorum_device"] = {name: value for name, value in given(pool.quorum_device).items() if name != "state"}
    if has_watchdog(pool):
        variables["server_pool_watchdog"] = {name: value for name, value in given(pool.watchdog).items() if name != "state"} or {"timeout": Watchdog().timeout}
    return variables


def pool_addresses(document: Any, server: str, addresses: Iterable[str], address: str) -> list[str]:
    """A server's address on each heartbeat network of its pool, of all that it has; `address` where the document names no networks."""
    for pool in _parsed(document).wanted("server_pool").values():
        if server in (pool.servers or ()):
            alone = _only(pool, server)
            try:
                return list(pool_of(alone, {server: ServerFacts(tuple(addresses), 0, 0, address=address)}).members[0].addresses)
            except DomusError as error:
                raise AnsibleFilterError(str(error)) from None
    return []


def _only(pool: Any, server: str) -> Any:
    """The pool as if it had no other server."""
    return make(type(pool), {**given(pool), "servers": (server,), "fencing": ()})


def pool_repositories(document: Any) -> list[Variables]:
    """The entries of the repositories that are file systems of clustered pools, as they are written."""
    site = _parsed(document)
    used: set[Optional[str]] = {pool.file_system for pool in site.wanted("server_pool").values() if not is_absent(pool) and is_clustered(pool)}
    return [entry for entry in document.get("repositories") or () if entry.get("name") in used]


def _parsed(document: Any) -> Site:
    try:
        return parse_document(document)
    except DomusError as error:
        raise AnsibleFilterError(f"the site document: {error}") from None


class FilterModule:
    """Ansible asks for the filters by this name."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters by name."""
        return {"pool_variables": pool_variables, "pool_addresses": pool_addresses, "pool_repositories": pool_repositories}
