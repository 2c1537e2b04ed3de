"""A thousand pools from a seed, each with something that happens to it: rules that must hold in all of them."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import pytest
from domus_core.cluster.pool import CURRENT, FenceDevice, HaVm, Member, Pool
from domus_core.model.quantities import UNITS

from tests.support.pool_simulation import Simulation, may_run, room_left

GIB = UNITS["GiB"]
BLOCKS, IN_A_BLOCK = 20, 50
EVENTS = ("lost", "lost", "lost", "crashed", "evacuated", "changed", "started")
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("block", range(BLOCKS))
def test_rules_hold(block: int, tmp_path: Path) -> None:
    for seed in range(block * IN_A_BLOCK, (block + 1) * IN_A_BLOCK):
        chance = random.Random(seed)
        pool, places = make_pool(chance)
        cluster = Simulation(tmp_path, pool)
        cluster.show_running(places)
        event = chance.choice(EVENTS)
        touched = happen(event, cluster, places, chance, quick=seed % 10 != 0)
        told = f"seed {seed}, {event} {touched}: {places} -> {cluster.places()}"
        assert_rules(cluster, told)
        assert_all_up(cluster, told)
        assert_undisturbed(cluster, places, touched, told)


def make_pool(chance: random.Random) -> tuple[Pool, dict[str, str]]:
    """A pool of two to six servers, and where its VMs run: by the rules, within their room, some of them off."""
    members = tuple(_member(number, chance) for number in range(1, chance.randint(2, 6) + 1))
    names = [f"vm{number}" for number in range(chance.randint(1, 12))]
    vms = tuple(_vm(name, names, members, chance) for name in names)
    devices = tuple(FenceDevice(f"power-{member.name}", "fence_test", {member.name: ""}) for member in members)
    pool = Pool("rack1", members, devices, vms, start_policy=chance.choice(("best", CURRENT)))
    places: dict[str, str] = {}
    for vm in pool.vms:
        left = room_left(pool, places)
        fits = [one for one in left if vm.memory <= left[one][0] and vm.cpus <= left[one][1] and may_run(vm, one, pool, places)]
        if fits and chance.random() < 0.9:
            places[vm.name] = chance.choice(fits)
    vms = tuple(dataclasses.replace(vm, server=places.get(vm.name), wanted=vm.name in places) for vm in pool.vms)
    return dataclasses.replace(pool, vms=vms), places


def _member(number: int, chance: random.Random) -> Member:
    return Member(
        f"srv{number}",
        addresses=(f"192.0.2.{number}",),
        memory=chance.randint(4, 32) * GIB,
        cpus=chance.randint(4, 32),
        tags=frozenset(tag for tag in ("ssd", "dmz") if chance.random() < 0.6),
        cpu_group=chance.choice((None, "old", "new")),
    )


def _vm(name: str, names: list[str], members: tuple[Member, ...], chance: random.Random) -> HaVm:
    before = names[: names.index(name)]
    return HaVm(
        name,
        f"uuid-of-{name}",
        memory=chance.randint(1, 8) * GIB,
        cpus=chance.randint(1, 4),
        priority=chance.choice((0, 0, 1, 10, 100)),
        start_after=tuple(chance.sample(before, min(len(before), 1))) if chance.random() < 0.2 else (),
        preferred_servers=tuple(member.name for member in chance.sample(members, 2)) if chance.random() < 0.3 else (),
        anti_affinity=frozenset(group for group in ("db", "web") if chance.random() < 0.2),
        server_tags=frozenset(tag for tag in ("ssd", "dmz") if chance.random() < 0.15),
        cpu_group=chance.choice((None, None, None, "old", "new")),
    )


def happen(event: str, cluster: Simulation, places: dict[str, str], chance: random.Random, *, quick: bool = False) -> str:
    """Let it happen; returns to which server or VM."""
    servers, running = [member.name for member in cluster.pool.members], sorted(places)
    if event in ("lost", "evacuated") or not running:
        server = chance.choice(servers)
        if event == "evacuated":
            _configure(cluster, members=tuple(dataclasses.replace(one, evacuated=one.name == server) for one in cluster.pool.members))
        cluster.settle(*([] if event == "evacuated" else [f"--node-fail={server}"]), quick=quick)
        return server
    vm = chance.choice(running)
    if event == "crashed":
        cluster.settle(f"--op-inject=domus-vm-{vm}_monitor_10000@{places[vm]}=7", quick=quick)
    elif event == "changed":
        changed = {"memory": chance.randint(1, 40) * GIB, "priority": 50, "anti_affinity": frozenset(("db", "new")), "preferred_servers": (servers[0],)}
        _configure(cluster, vms=tuple(dataclasses.replace(one, **changed) if one.name == vm else one for one in cluster.pool.vms))
        cluster.settle(quick=quick)
    else:
        _configure(cluster, vms=tuple(dataclasses.replace(one, wanted=True) for one in cluster.pool.vms))
        cluster.settle(quick=quick)
    return vm


def _configure(cluster: Simulation, **changes: Any) -> None:
    """Apply a changed pool; where its VMs run is known from their history."""
    cluster.configure(dataclasses.replace(cluster.pool, **changes))


def assert_rules(cluster: Simulation, told: str) -> None:
    """Each VM is where it may be; no server holds more than it has, but for what ran there already."""
    places = cluster.places()
    grown = {vm.name for vm in cluster.pool.vms if "new" in vm.anti_affinity}
    for vm in cluster.pool.vms:
        if vm.name in places and vm.name not in grown:
            others = {name: server for name, server in places.items() if name not in grown}
            assert may_run(vm, places[vm.name], cluster.pool, others), f"{vm.name} may not be there; {told}"
    for server, (memory, cpus) in room_left(cluster.pool, {name: server for name, server in places.items() if name not in grown}).items():
        assert memory >= 0 and cpus >= 0, f"{server} is overfull; {told}"


def assert_all_up(cluster: Simulation, told: str) -> None:
    """No VM that is to run is off while a server that may take it has room."""
    places = cluster.places()
    left = room_left(cluster.pool, places)
    for vm in cluster.pool.vms:
        if vm.wanted and vm.name not in places:
            able = [one for one in cluster.online() if vm.memory <= left[one][0] and vm.cpus <= left[one][1] and may_run(vm, one, cluster.pool, places)]
            assert not able, f"{vm.name} is off though {able} could take it; {told}"


def assert_undisturbed(cluster: Simulation, before: dict[str, str], touched: str, told: str) -> None:
    """Whoever ran, and on no server that went, runs on without anything having been done to it."""
    for vm, server in before.items():
        if touched not in (vm, server):
            assert cluster.word(vm, True) == "untouched", f"{vm} was {cluster.word(vm, True)}; {told}"
