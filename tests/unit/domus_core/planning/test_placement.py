"""Placement: never over capacity, no rule broken, always the same, and a refusal only where no permitted server has room."""

from __future__ import annotations

import dataclasses
import random

import pytest
from domus_core.errors import NoCapacity
from domus_core.model.document import parse_document
from domus_core.model.server import ServerSpec
from domus_core.planning.capacity import Demand, Server, cpus_to_promise, demand_of, memory_to_promise, needs_of
from domus_core.planning.placement import IN_MAINTENANCE, Placement, Planner, choose_destination, largest_first, place_all, rule_broken, separated_from
from hypothesis import given
from hypothesis import strategies as st

GIB = 1 << 30


def server(name: str, **more: object) -> Server:
    """A server with room for 8 GiB and 16 vCPUs, unless a test says otherwise."""
    return Server(**{"id": f"id-{name}", "name": name, "memory": 8 * GIB, "cpus": 16, **more})  # type: ignore[arg-type]


def demand(name: str = "a", gib: float = 1, **more: object) -> Demand:
    """A VM that needs so much memory."""
    return Demand(**{"name": name, "memory": int(gib * GIB), **more})  # type: ignore[arg-type]


def where(vms: list[Demand], servers: list[Server]) -> dict[str, str]:
    """Where each VM goes; all of them must."""
    placed = place_all(vms, servers)
    assert all(isinstance(one, Placement) for one in placed.values()), placed
    return {name: one.server for name, one in placed.items() if isinstance(one, Placement)}


def refused(vm: Demand, servers: list[Server]) -> str:
    """Why a VM goes nowhere."""
    error = place_all([vm], servers)[vm.name]
    assert isinstance(error, NoCapacity) and error.code == "no_capacity" and error.remedy
    return error.message


def test_the_least_full_server_is_chosen_and_of_equals_the_first_by_name() -> None:
    servers = [server("srv2"), server("srv1"), server("srv3", vms=(demand("there", 2),))]
    assert where([demand()], servers) == {"a": "id-srv1"}
    assert where([demand()], [server("srv1", vms=(demand("there", 0.5),)), *servers[:1], servers[2]]) == {"a": "id-srv2"}
    busy = server("srv1", vms=(demand("many", 0.5, cpus=12),))
    assert where([demand()], [busy, server("srv2", vms=(demand("there", 4),))]) == {"a": "id-srv2"}, "vCPUs count as memory does"


def test_a_batch_spreads_and_its_order_does_not_matter() -> None:
    vms = [demand(f"vm{number}", 1 + number % 3, anti_affinity=frozenset({"g"} if number < 3 else ())) for number in range(8)]
    servers = [server(f"srv{number}") for number in range(3)]
    found = where(vms, servers)
    assert {found[f"vm{number}"] for number in range(3)} == {"id-srv0", "id-srv1", "id-srv2"}
    assert found == where(vms[::-1], servers[::-1])


def test_every_server_says_why_not() -> None:
    servers = [
        server("srv1", memory=int(3.25 * GIB)),
        server("srv2"),
        server("srv3", closed=IN_MAINTENANCE, tags=frozenset({"ssd"})),
        server("srv4", memory=None, tags=frozenset({"ssd"})),
        server("srv5", vms=(demand("b", 1, anti_affinity=frozenset({"db"})),), tags=frozenset({"ssd"})),
        server("srv6", cpus=1, tags=frozenset({"ssd"})),
    ]
    servers[0] = dataclasses.replace(servers[0], tags=frozenset({"ssd"}))
    vm = demand("a", 4, cpus=2, server_tags=frozenset({"ssd"}), anti_affinity=frozenset({"db"}))
    assert refused(vm, servers) == (
        "no server can take it: srv1: 3.2 GiB of memory free, 4 GiB needed; srv2: lacks tag ssd; srv3: is in maintenance; "
        "srv4: has not told how much memory it has; srv5: has vm b of anti-affinity group db; srv6: 1 vCPUs free, 2 needed"
    )
    assert "srv1: is of CPU group old" in refused(demand(cpu_group="new"), [server("srv1", cpu_group="old")])
    assert "srv1: has no network lan and no template t" in refused(demand(needs=frozenset({("template", "t"), ("network", "lan")})), [server("srv1")])
    assert "there is no server" in refused(demand(), [])
    many = refused(demand(gib=9), [server(f"srv{number:03}") for number in range(200)])
    assert many == "no server can take it: srv000, srv001, srv002 and 197 more: 8 GiB of memory free, 9 GiB needed"


@pytest.mark.parametrize(
    ("free", "needed", "told"), [(8 * GIB - 1, 8 * GIB, "7.9 GiB of memory free, 8 GiB"), (GIB - 1, GIB + 1, "1023.9 MiB of memory free, 1.1 GiB")]
)
def test_what_is_free_never_looks_as_large_as_what_is_needed(free: int, needed: int, told: str) -> None:
    assert told in refused(Demand("a", memory=needed), [server("srv1", memory=free)])


def test_what_a_server_may_promise() -> None:
    spec = ServerSpec(name="srv1", memory_reserve=2 * GIB, memory_factor=1.5, cpu_ratio=2.0)
    assert memory_to_promise(10 * GIB, spec) == 12 * GIB
    assert memory_to_promise(GIB, spec) == 0
    assert memory_to_promise(100 * GIB, None) == 100 * GIB - 502 * (1 << 20) - int(100 * GIB * 0.0205)
    assert (cpus_to_promise(4, spec), cpus_to_promise(4, None)) == (8, 16)


def test_what_a_vm_needs() -> None:
    vm = {"name": "a", "cpu_topology": {"sockets": 1, "cores": 2, "threads": 2}, "memory_max": "2GiB"}
    vm |= {"server_tags": ["ssd"], "anti_affinity": ["db"], "cpu_group": "g"}
    vm |= {"disks": [{"name": "r", "template": "t"}, {"name": "s", "repository": "main"}, {"name": "u", "image": "other/i.qcow2"}]}
    vm |= {"nics": [{"name": "n", "network": "lan"}], "cdroms": [{"name": "c", "iso": "i"}], "kernel": {"kernel": "boot/k"}}
    spec = parse_document({"vms": [vm]}).wanted("vm")["a"]
    needs = frozenset(needs_of(spec))
    assert needs == {("template", "t"), ("repository", "main"), ("repository", "other"), ("network", "lan"), ("iso", "i"), ("repository", "boot")}
    assert demand_of(spec, needs) == Demand("a", 4, 2 * GIB, frozenset({"ssd"}), frozenset({"db"}), "g", needs)


def test_a_vm_that_must_leave_goes_only_where_its_cpu_is_and_room_is_not_promised() -> None:
    servers = [server("srv1", cpu_group="new"), server("srv2", cpu_group="old"), server("srv3", cpu_group="new"), server("srv4", cpu_group="new")]
    promised = {"id-srv3": [demand("b", 8)]}
    assert choose_destination(demand(), servers, "id-srv1", promised).server == "id-srv4"
    with pytest.raises(NoCapacity) as raised:
        choose_destination(demand(gib=9), servers, "id-srv1", promised)
    assert "srv1: it is there now; srv2: is of CPU group old, not new" in raised.value.message


TAGS = st.frozensets(st.sampled_from(["ssd", "gpu"]), max_size=2)
GROUPS = st.frozensets(st.sampled_from(["db", "web"]), max_size=2)
NEEDS = st.frozensets(st.sampled_from([("network", "lan"), ("repository", "main")]), max_size=2)
CPU_GROUP = st.sampled_from([None, "old", "new"])
DEMANDS = st.builds(
    Demand,
    name=st.sampled_from([f"vm{number}" for number in range(30)]),
    cpus=st.integers(1, 8),
    memory=st.integers(1, 8).map(lambda number: number * GIB // 2),
    server_tags=st.frozensets(st.sampled_from(["ssd", "gpu"]), max_size=1),
    anti_affinity=GROUPS,
    cpu_group=CPU_GROUP,
    needs=NEEDS,
)
SERVERS = st.builds(
    Server,
    id=st.sampled_from([f"id{number}" for number in range(8)]),
    name=st.sampled_from(["a", "b", "c", "d"]),
    closed=st.sampled_from([None, None, None, IN_MAINTENANCE]),
    memory=st.one_of(st.none(), st.integers(0, 24).map(lambda number: number * GIB // 2)),
    cpus=st.one_of(st.none(), st.integers(0, 32)),
    tags=TAGS,
    cpu_group=CPU_GROUP,
    offers=st.one_of(NEEDS, st.just(frozenset({("network", "lan"), ("repository", "main")}))),
    vms=st.lists(st.builds(Demand, name=st.sampled_from(["x", "y"]), cpus=st.integers(1, 4), memory=st.just(GIB), anti_affinity=GROUPS), max_size=2).map(tuple),
)


@given(
    vms=st.lists(DEMANDS, max_size=30, unique_by=lambda one: one.name),
    servers=st.lists(SERVERS, max_size=8, unique_by=lambda one: one.id),
    shuffled=st.randoms(use_true_random=False),
)
def test_no_rule_is_broken_and_nobody_is_refused_who_could_be_placed(vms: list[Demand], servers: list[Server], shuffled: random.Random) -> None:
    placed = place_all(vms, servers)
    assert placed.keys() == {vm.name for vm in vms}
    now = {one.id: one for one in servers}

    def fits(vm: Demand, on: Server) -> bool:
        """May it go there now? The rules once more, said in the plainest way."""
        rules = on.closed is None and vm.server_tags <= on.tags and vm.cpu_group in (None, on.cpu_group) and vm.needs <= on.offers
        apart = not any(vm.anti_affinity & other.anti_affinity for other in on.vms)
        memory = on.memory is not None and sum(one.memory for one in on.vms) + vm.memory <= on.memory
        return rules and apart and memory and on.cpus is not None and sum(one.cpus for one in on.vms) + vm.cpus <= on.cpus

    for vm in sorted(vms, key=largest_first):
        home = placed[vm.name]
        if isinstance(home, Placement):
            assert fits(vm, now[home.server]) and rule_broken(vm, now[home.server]) is None and separated_from(vm, now[home.server]) is None
            now[home.server] = dataclasses.replace(now[home.server], vms=(*now[home.server].vms, vm))
        else:
            assert not any(fits(vm, one) for one in now.values())
            assert all(one.name in home.message for one in servers[:1]) and home.remedy
    shuffled.shuffle(vms)
    shuffled.shuffle(servers)
    again = place_all(vms, servers)
    assert {name: str(one) for name, one in again.items()} == {name: str(one) for name, one in placed.items()}


@given(vm=DEMANDS, servers=st.lists(SERVERS, max_size=8, unique_by=lambda one: one.id))
def test_the_reasons_are_those_of_the_choice(vm: Demand, servers: list[Server]) -> None:
    reasons = Planner(servers).reasons(vm)
    found = place_all([vm], servers)[vm.name]
    assert reasons.keys() == {one.id for one in servers}
    assert (None in reasons.values()) == isinstance(found, Placement)
