"""The contract of every driver: what domus_core.driver promises, on memory, on libvirt's test driver and on real QEMU."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from domus_core.driver import Driver
from domus_core.engine import apply
from domus_core.errors import Busy, Conflict, Unsupported
from domus_core.fake_driver.driver import EMPTY, FakeDriver
from domus_core.model.document import key_of, parse_document
from domus_core.model.fields import LIVE, fields_of
from domus_core.model.kinds import BY_NAME, KINDS
from domus_core.model.snapshot import Found, ImageFile
from domus_core.model.vm_devices import CpuBaselineSpec
from domus_core.planning.comparison import compare, waiting
from domus_core.planning.reconcile import plan

from tests.integration.server_under_test import IMPATIENT, LAN, PREFIX, SMALL, SYSTEM, ServerUnderTest

VM = f"{PREFIX}-contract"
NEW = f"{PREFIX}-new"
FILES = {"main/Templates/small.qcow2": ImageFile("qcow2", 1 << 20), "main/ISOs/1.iso": ImageFile("raw", 1 << 16)}
DISK = {"name": "data", "repository": "main", "size": "1MiB"}
PLACE = {"name": "other", "path": "DIRECTORY/other"}

# For each kind an object, and then its changes, one after the other.
OBJECTS: dict[str, list[dict[str, Any]]] = {
    "server": [{"name": "srv2"}, {"name": "srv2", "description": "rack <1> & more"}],
    "network": [
        {"name": NEW, "mode": "isolated", "subnet": "198.18.255.0/29", "state": "inactive"},
        {"name": NEW, "dns": {"domain": "lan.example.org"}},
        {"name": NEW, "autostart": False},
    ],
    "repository": [PLACE, {"name": "other", "description": "slow"}],
    "server_pool": [{"name": "lab", "servers": ["srv1"], "clustered": False}, {"name": "lab", "servers": ["srv1", "srv2"]}, {"name": "lab", "token": 2000}],
    "template": [{"name": "t", "image": "main/small.qcow2"}, {"name": "t", "description": "small"}],
    "iso": [{"name": "i", "image": "main/1.iso"}, {"name": "i", "description": "first"}],
    "virtual_disk": [
        {"name": "d", "repository": "main", "size": "1MiB", "format": "raw"},
        {"name": "d", "repository": "main", "size": "2MiB"},
        {"name": "d", "repository": "main", "description": "shared", "shareable": True},
    ],
    "vm": [
        {"name": VM, **SMALL, "state": "stopped"},
        {"name": VM, "description": "web & more"},
        {"name": VM, "tags": ["a", "b"]},
        {"name": VM, "memory": "24MiB", "cpus": 2},
        {"name": VM, "disks": [DISK]},
        {"name": VM, "disks": [{"name": "data", "size": "2MiB"}], "cdroms": [{"name": "cd", "iso": "cd1"}]},
        {"name": VM, "cdroms": [{"name": "cd", "iso": ""}], "nics": [{"name": "eth0", "network": LAN}]},
        {"name": VM, "autostart": True},
        {"name": VM, "cloud_init": {"user_data": "#cloud-config"}},
        {"name": VM, "disks": [], "cdroms": [], "nics": [], "exact": True},
        {"name": VM, "autostart": False, "state": "running"},
        {"name": VM, "state": "paused"},
        {"name": VM, "state": "running"},
    ],
}
# What is changed in a running VM: what libvirt's test driver can not do live waits for a restart there.
WHILE_IT_RUNS: list[dict[str, Any]] = [
    {"description": "running"},
    {"tags": ["c"]},
    {"memory": "20MiB"},
    {"cpus": 2},
    {"disks": [DISK]},
    {"nics": [{"name": "eth0", "network": LAN}]},
    {"cdroms": [{"name": "cd", "iso": "cd2"}]},
    {"nics": [{"name": "eth0", "link": "down"}]},
    {"on_crash": "restart", "cpus_max": 4},
    {"autostart": True},
]


class FakeServer:
    """A server in memory, furnished like the real ones."""

    directory = "/srv"
    does_all_live = True

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self.driver = FakeDriver(dataclasses.replace(EMPTY, files=FILES))
        sections = {
            "repositories": [{"name": "main", "path": "/srv/main"}],
            "isos": [{"name": f"cd{number}", "image": "main/1.iso"} for number in (1, 2)],
            "networks": [{"name": LAN, "mode": "isolated"}],
        }
        assert not apply(parse_document(sections), self.driver).errors

    def close(self) -> None:
        """Nothing to let go of."""


SERVERS: dict[str, Any] = {"fake": FakeServer, "libvirt-test": lambda: ServerUnderTest("test:///default"), "libvirt-qemu": lambda: ServerUnderTest(SYSTEM)}


@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.libvirt if name == "libvirt-qemu" else ()) for name in SERVERS])
def furnished(request: pytest.FixtureRequest) -> Iterator[Any]:
    made = SERVERS[request.param]()
    yield made
    made.close()


@pytest.fixture
def server(furnished: Any) -> Iterator[Any]:
    yield furnished
    furnished.clear()


def document(kind: str, entry: dict[str, Any], server: Any) -> Any:
    entry = {name: value.replace("DIRECTORY", str(server.directory)) if name == "path" else value for name, value in entry.items()}
    return parse_document({"site": "paris", BY_NAME[kind].section: [{**entry, **(IMPATIENT if kind == "vm" else {})}]})


def carry_out(driver: Driver, site: Any) -> int:
    """Take the steps of a plan as the engine does, and return how many they were."""
    steps = plan(site, driver.read(site)).steps
    for step in steps:
        driver.carry_out(step, site.name)
    return len(steps)


def measured(found: Found | None) -> Any:
    """What two readings must agree on: the addresses are asked for only where one VM is read, the room of a disk is the file system's affair."""
    assert found is not None
    state = {name: value for name, value in dataclasses.asdict(found.state).items() if name not in ("addresses", "free", "allocated", "facts")}
    return found.spec, found.running, found.recorded, found.fingerprint, state


def test_every_kind_is_here() -> None:
    assert list(OBJECTS) == [kind.name for kind in KINDS]


@pytest.mark.parametrize("kind", OBJECTS)
def test_an_object_lives(kind: str, server: Any) -> None:
    driver: Driver = server.driver
    key = key_of(kind, document(kind, OBJECTS[kind][0], server).wanted(kind).popitem()[1])
    assert driver.read_one(kind, key) is None and driver.fingerprint(kind, key) == ""
    before = ""
    for entry in OBJECTS[kind]:
        site = document(kind, entry, server)
        assert carry_out(driver, site) > 0, f"nothing is planned for {entry}"
        assert plan(site, driver.read(site)).steps == ()
        found = driver.read_one(kind, key)
        assert found is not None and compare(site.wanted(kind)[key], found.spec, skip=frozenset({"state"})) == []
        assert measured(found) == measured(driver.read(site).find(kind, key))
        assert found.fingerprint == driver.fingerprint(kind, key) == driver.fingerprint(kind, key) != ""
        assert found.fingerprint != before, f"the fingerprint does not tell {entry}"
        before = found.fingerprint
    if not any(field.name == "state" for field in fields_of(BY_NAME[kind].spec)):
        return
    site = document(kind, {**OBJECTS[kind][0], "state": "absent"}, server)
    assert carry_out(driver, site) > 0
    assert driver.read_one(kind, key) is None and driver.fingerprint(kind, key) == "" and key not in driver.read(site).objects[kind]


def test_the_recorded_generation_counts_changes_of_what_is_asked_for(server: Any) -> None:
    driver: Driver = server.driver
    generations = []
    for entry in ({**SMALL, "state": "running"}, {"description": "x"}, {"state": "paused"}, {"cpus_max": 3}, {"state": "stopped"}):
        site = document("vm", {**entry, "name": VM}, server)
        carry_out(driver, site)
        found = driver.read_one("vm", VM)
        assert found is not None and found.state.managed and found.state.site == "paris"
        generations.append(found.state.generation)
    assert generations == [1, 2, 3, 4, 5]
    assert found.recorded.description == "x" and found.recorded.cpus_max == 3 and found.recorded.state == "stopped"


def test_what_runs_follows_or_waits(server: Any) -> None:
    driver: Driver = server.driver
    made = {"name": VM, **SMALL, "memory_max": "32MiB", "cpus": 1, "cpus_max": 3, "cdroms": [{"name": "cd", "iso": "cd1"}], "state": "running"}
    carry_out(driver, document("vm", made, server))
    expected: set[str] = set()
    for entry in WHILE_IT_RUNS:
        site = document("vm", {"name": VM, **entry}, server)
        changes = [change for step in plan(site, driver.read(site)).steps if step.kind == "vm" for change in step.changes]
        carry_out(driver, site)
        found = driver.read_one("vm", VM)
        assert changes and found is not None and found.running is not None
        assert compare(site.wanted("vm")[VM], found.spec) == [], "the definition is not what was asked"
        expected |= {change.field for change in changes if change.effect != LIVE}
        waits = set(waiting(found.spec, found.running))
        assert expected <= waits
        if server.does_all_live:
            assert waits == expected
    carry_out(driver, document("vm", {"name": VM, "state": "stopped"}, server))
    carry_out(driver, document("vm", {"name": VM, "state": "running"}, server))
    again = driver.read_one("vm", VM)
    assert again is not None and waiting(again.spec, again.running) == () and again.spec == found.spec


def test_reading_writes_nothing(server: Any) -> None:
    driver: Driver = server.driver
    carry_out(driver, document("vm", {"name": VM, **SMALL, "disks": [DISK], "state": "running"}, server))
    before = driver.fingerprint("vm", VM)
    site = document("vm", {"name": VM, "description": "planned only"}, server)
    first, second = driver.read(site), driver.read(site)
    assert plan(site, first) == plan(site, second) and driver.fingerprint("vm", VM) == before
    assert isinstance(driver.addresses(VM), tuple) and driver.addresses("nobody") == ()


@pytest.mark.parametrize("furnished", [name for name in SERVERS if name != "fake"], indirect=True)
def test_an_object_is_changed_by_one_at_a_time(server: Any) -> None:
    driver: Driver = server.driver

    def refused(changing: list[tuple[str, str]], using: list[tuple[str, str]]) -> bool:
        """Asked in a thread of its own, as another process would."""
        told: list[bool] = []

        def ask() -> None:
            try:
                with driver.locked(changing, using, patience=0):
                    told.append(False)
            except Busy as error:
                assert error.object in ("vm web1", "network lan")
                told.append(True)

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
        return told[0]

    with driver.locked([("vm", "web1")], [("network", "lan")], patience=0):
        assert refused([("vm", "web1")], []) and refused([], [("vm", "web1")]) and refused([("network", "lan")], [])
        assert not refused([("vm", "web2")], [("network", "lan")])
    assert not refused([("vm", "web1"), ("network", "lan")], [])


AMD = [CpuBaselineSpec("EPYC", "AMD", ("pku",)), CpuBaselineSpec("EPYC-Rome", "AMD", ("pku",), ("monitor",))]


def test_the_cpu_that_several_have_in_common(server: Any) -> None:
    if not server.does_all_live:  # libvirt's test driver has no hypervisor to ask
        with pytest.raises(Unsupported):
            server.driver.baseline_cpu(AMD)
        return
    one, both = server.driver.baseline_cpu(AMD[:1]), server.driver.baseline_cpu(AMD)
    assert (one.model, one.vendor) == ("EPYC", "AMD") and "pku" in one.require
    assert both.model == "EPYC" and "pku" in both.require and "monitor" in both.disable
    assert server.driver.baseline_cpu(AMD[::-1]) == both
    with pytest.raises(Conflict):
        server.driver.baseline_cpu([*AMD, CpuBaselineSpec("Nehalem", "Intel")])
