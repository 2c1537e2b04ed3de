"""From a site document to the variables of the role server_pool: what the playbook `server_pools` works by."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from plugins.filter.server_pools import FilterModule

NFS = {"server": "nas1", "export": "/fs", "lookup_cache": "none"}
POOL: dict[str, Any] = {
    "name": "rack1",
    "servers": ["srv1", "srv2"],
    "file_system": "fs",
    "token": 2000,
    "heartbeat": [{"name": "lan", "subnet": "192.0.2.0/24"}, {"name": "storage", "subnet": "198.51.100.0/24"}],
    "fencing": [
        {
            "name": "bmc",
            "agent": "fence_ipmilan",
            "servers": [{"name": "srv1", "plug": "4"}, {"name": "srv2"}],
            "options": [{"name": "ip", "value": "192.0.2.9"}, {"name": "password", "secret": "{{ no_template }}"}],
        }
    ],
    "quorum_device": {"host": "quorum.example.org"},
}
DOCUMENT: dict[str, Any] = {
    "repositories": [{"name": "fs", "nfs": NFS}, {"name": "main", "path": "/srv/main"}],
    "server_pools": [POOL, {"name": "lab", "servers": ["srv3"], "clustered": False}],
}


@pytest.fixture
def filters() -> dict[str, Any]:
    return FilterModule().filters()


def test_the_variables_of_a_server(filters: dict[str, Any]) -> None:
    assert filters["pool_variables"](DOCUMENT, "srv2") == {
        "server_pool_name": "rack1",
        "server_pool_file_system": "/var/lib/domus/repositories/fs",
        "server_pool_devices": [{"name": "bmc", "agent": "fence_ipmilan", "servers": {"srv1": "4", "srv2": ""}, "options": {"ip": "192.0.2.9"}, "level": 1}],
        "server_pool_secrets": {"bmc": {"password": "{{ no_template }}"}},
        "server_pool_token": 2000,
        "server_pool_quorum_device": {"host": "quorum.example.org"},
    }
    assert filters["pool_variables"](DOCUMENT, "srv3") == filters["pool_variables"](DOCUMENT, "srv9") == {}


def test_the_addresses_of_a_server(filters: dict[str, Any]) -> None:
    told = ["203.0.113.1", "198.51.100.1", "192.0.2.1"]
    assert filters["pool_addresses"](DOCUMENT, "srv1", told, "203.0.113.1") == ["192.0.2.1", "198.51.100.1"]
    alone = {**DOCUMENT, "server_pools": [{**POOL, "heartbeat": None}]}
    assert filters["pool_addresses"](alone, "srv1", told, "203.0.113.1") == ["203.0.113.1"]
    assert filters["pool_addresses"](DOCUMENT, "srv1", ["192.0.2.99", *told], "192.0.2.1") == ["192.0.2.1", "198.51.100.1"]
    with pytest.raises(AnsibleFilterError, match="no address in 198"):
        filters["pool_addresses"](DOCUMENT, "srv1", told[2:], "")


def test_only_the_file_systems_of_pools_are_attached_before(filters: dict[str, Any]) -> None:
    assert filters["pool_repositories"](DOCUMENT) == [{"name": "fs", "nfs": NFS}]
    assert filters["pool_repositories"]({"repositories": DOCUMENT["repositories"]}) == []


def test_a_document_that_lacks_the_file_system_is_refused(filters: dict[str, Any]) -> None:
    with pytest.raises(AnsibleFilterError, match="repository fs must be in the same document"):
        filters["pool_variables"]({"server_pools": [POOL]}, "srv1")
    with pytest.raises(AnsibleFilterError, match="is not a known key"):
        filters["pool_variables"]({"server_pools": [{**POOL, "tokens": 1}]}, "srv1")
