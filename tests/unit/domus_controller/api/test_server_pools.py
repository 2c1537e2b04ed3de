"""Clustered pools through the API: from what a server's agent told with its facts."""

from __future__ import annotations

import json

from tests.unit.domus_controller.api.fakes import SERVER, Manager
from tests.unit.domus_controller.store.test_server_pools import told


def tell(manager: Manager, pool: object) -> None:
    facts = json.dumps({"server_pool": pool})
    manager.store.write(lambda connection: connection.execute("INSERT OR REPLACE INTO server_facts VALUES (?, NULL, ?)", (SERVER, facts)).rowcount)


def test_pools_are_listed_and_shown(manager: Manager) -> None:
    assert manager.get("/api/v1/server-pools") == {"items": []}
    tell(manager, told("a"))
    (pool,) = manager.get("/api/v1/server-pools")["items"]
    assert pool == manager.get("/api/v1/server-pools/pool1") and pool["members"][0]["server"] == "srv1"
    missing = manager.call("GET", "/api/v1/server-pools/pool2")
    assert missing.status_code == 404 and "pool1" in missing.json["remedy"]
    tell(manager, None)
    assert manager.get("/api/v1/server-pools") == {"items": []}
