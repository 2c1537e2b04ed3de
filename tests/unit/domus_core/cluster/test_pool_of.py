"""From a document to a pool: links by subnet, room without what others need, secrets apart."""

from __future__ import annotations

from typing import Any

import pytest
from domus_core.cluster.cib import wanted_configuration
from domus_core.cluster.pool import Watchdog, check_pool
from domus_core.cluster.pool_of import ServerFacts, ha_vm_of, pool_of, secrets_of
from domus_core.errors import Conflict, DomusError
from domus_core.model.fields import fields_of, parse_spec, plain, public_fields
from domus_core.model.ha import HaSpec
from domus_core.model.quantities import UNITS
from domus_core.model.server_pool import ServerPoolSpec
from domus_core.model.vm import VmSpec
from domus_core.planning.capacity import Demand
from lxml import etree

GIB = UNITS["GiB"]
DOCUMENT: dict[str, Any] = {
    "name": "rack1",
    "description": "the rack at the door",
    "servers": ["srv1", "srv2"],
    "clustered": True,
    "heartbeat": [{"name": "lan", "subnet": "192.0.2.0/24"}, {"name": "storage", "subnet": "198.51.100.0/24"}],
    "token": 1500,
    "file_system": "rack1-pool",
    "fencing": [
        {
            "name": "pdu",
            "agent": "fence_apc_snmp",
            "level": 2,
            "servers": [{"name": "srv1", "plug": "1"}, {"name": "srv2", "plug": "2"}],
            "options": [{"name": "ip", "value": "192.0.2.110"}, {"name": "password", "secret": "s3cret"}],
        }
    ],
    "quorum_device": {"host": "quorum.example.org", "algorithm": "ffsplit"},
    "watchdog": {"timeout": 40, "state": "present"},
    "untested_fencing": False,
    "start_policy": "current",
    "policy": {"mode": "drs", "spare_servers": 1},
    "state": "present",
}
HA = {
    "enabled": True,
    "priority": 5,
    "start_after": ["db1"],
    "start_delay": 10,
    "restart_limit": 4,
    "restart_window": 900,
    "preferred_servers": ["srv2"],
    "start_policy": "best",
    "on_shutdown": "restart",
}
FACTS = {
    "srv1": ServerFacts(("192.0.2.1", "198.51.100.1", "203.0.113.1"), 16 * GIB, 32, others=(Demand("x", cpus=2, memory=GIB),)),
    "srv2": ServerFacts(("198.51.100.2", "192.0.2.2"), 16 * GIB, 32),
}


def parsed(spec: type, data: Any) -> Any:
    problems: list[DomusError] = []
    made = parse_spec(spec, data, problems)
    assert problems == []
    return made


def refused(data: Any) -> list[str]:
    problems: list[DomusError] = []
    parse_spec(ServerPoolSpec, data, problems)
    return [problem.field for problem in problems]


def test_the_document_gives_every_field() -> None:
    assert DOCUMENT.keys() == {field.name for field in public_fields(ServerPoolSpec)}
    assert HA.keys() == {field.name for field in fields_of(HaSpec)}


def test_a_pool() -> None:
    made = pool_of(parsed(ServerPoolSpec, DOCUMENT), FACTS, lease=90)
    assert check_pool(made) == []
    assert [member.addresses for member in made.members] == [("192.0.2.1", "198.51.100.1"), ("192.0.2.2", "198.51.100.2")]
    assert (made.members[0].memory, made.members[0].cpus) == (15 * GIB, 30)
    assert (made.token, made.start_policy, made.lock_patience) == (1500, "current", 110)
    assert made.watchdog == Watchdog(40)
    device = made.devices[0]
    assert (device.servers, device.options, device.secrets, device.level) == ({"srv1": "1", "srv2": "2"}, {"ip": "192.0.2.110"}, ("password",), 2)


def test_secrets_are_kept_apart_and_masked() -> None:
    spec = parsed(ServerPoolSpec, DOCUMENT)
    assert list(secrets_of(spec)) == [("pdu", "password")]
    tree = wanted_configuration(pool_of(spec, FACTS), {"srv1": 1, "srv2": 2})
    for text in (str(plain(spec)), str(pool_of(spec, FACTS)), repr(spec), etree.tostring(tree).decode()):
        assert "s3cret" not in text


def test_a_server_without_its_address() -> None:
    for addresses in (("192.0.2.1",), ("192.0.2.1", "198.51.100.1", "198.51.100.7")):
        with pytest.raises(Conflict) as told:
            pool_of(parsed(ServerPoolSpec, DOCUMENT), {**FACTS, "srv1": ServerFacts(addresses, GIB, 1)})
        assert told.value.field == "heartbeat[storage]"


def test_of_several_addresses_the_one_that_is_known_or_where_its_manager_reaches_it() -> None:
    addresses = ("192.0.2.1", "192.0.2.100", "198.51.100.9", "198.51.100.1")
    for more in ({"known": ("192.0.2.1", "198.51.100.1")}, {"known": ("192.0.2.77", "198.51.100.1"), "address": "192.0.2.1"}):
        pool = pool_of(parsed(ServerPoolSpec, DOCUMENT), {**FACTS, "srv1": ServerFacts(addresses, GIB, 1, **more)})
        assert pool.members[0].addresses == ("192.0.2.1", "198.51.100.1")


def test_a_vm() -> None:
    spec = parsed(VmSpec, {"name": "web1", "memory": "2GiB", "cpus": 2, "anti_affinity": ["web"], "server_tags": ["ssd"], "stop_timeout": 5})
    made = ha_vm_of(spec, parsed(HaSpec, HA), "uuid", server="srv1", wanted=True)
    assert (made.memory, made.cpus, made.priority, made.start_after, made.stop_timeout) == (2 * GIB, 2, 5, ("db1",), 5)
    assert (made.restart_limit, made.restart_window, made.preferred_servers, made.start_delay) == (4, 900, ("srv2",), 10)
    assert made.anti_affinity == {"web"} and made.server_tags == {"ssd"}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"clustered": False}, "heartbeat"),
        ({"servers": ["srv1"]}, "fencing[pdu].servers"),
        ({"fencing": [{**DOCUMENT["fencing"][0], "agent": "/bin/sh"}]}, "fencing[pdu].agent"),
        ({"fencing": [{**DOCUMENT["fencing"][0], "options": [{"name": "ip"}]}]}, "fencing[pdu].options[ip].value"),
        ({"fencing": [{**DOCUMENT["fencing"][0], "servers": [{"name": "srv1", "plug": "1;srv2:9"}]}]}, "fencing[pdu].servers[srv1].plug"),
        ({"token": 10}, "token"),
        ({"watchdog": {"timeout": 4}}, "watchdog.timeout"),
        ({"clustered": False, "heartbeat": [], "fencing": [], "quorum_device": None}, "watchdog"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], field: str) -> None:
    assert refused({**DOCUMENT, **changes})[:1] == [field]
