"""Every scenario of a pool: where its VMs are in the end, by Pacemaker's own scheduler, and that applying again changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from domus_core.cluster.cib import vm_id

from tests.scenarios.pools.harness import devices_watch_others, load_scenario, play, pool_of, scenario_files, waiting_vms
from tests.support.pool_simulation import Simulation

FILES = {path.stem: path for path in scenario_files()}


def test_there_are_enough() -> None:
    assert len(FILES) >= 60


@pytest.mark.parametrize("path", FILES.values(), ids=FILES.keys())
def test_scenario(path: Path, tmp_path: Path) -> None:
    scenario = load_scenario(path)
    assert scenario.keys() - {"about", "servers", "vms", "pool", "devices", "events", "fenced", "waiting", "blocked", "foreign", "dropped"} == {"expected"}
    acts, told = play(scenario, tmp_path)
    cluster = acts.cluster
    assert told == scenario["expected"]
    assert cluster.fenced() == scenario.get("fenced", [])
    assert cluster.blocked() == {vm_id(name) for name in scenario.get("blocked", [])}
    assert devices_watch_others(cluster)
    _assert_starts_after_fencing(cluster)
    _assert_start_order(cluster)
    assert sorted(waiting_vms(cluster)) == scenario.get("waiting", [])
    if cluster.last_change is not None:
        assert list(cluster.last_change.dropped) == [vm_id(name) for name in scenario.get("dropped", [])]
    again = cluster.configure(pool_of(acts.data))
    assert again.changes == () and again.restarted == ()
    assert list(again.foreign) == scenario.get("foreign", [])


def _assert_starts_after_fencing(cluster: Simulation) -> None:
    """What ran on a server that is cut starts elsewhere only when that has been done."""
    fenced = [position for position, (op, dummy, where) in enumerate(cluster.actions) if op in ("reboot", "off")]
    moved = {resource for op, resource, dummy in cluster.actions if op == "start" and resource.startswith("domus-vm-")}
    for position, (op, resource, dummy) in enumerate(cluster.actions):
        if op == "start" and resource in moved and fenced:
            assert position > min(fenced), f"{resource} starts before the power was cut"


def _assert_start_order(cluster: Simulation) -> None:
    """Who starts after another does so."""
    starts = {resource: position for position, (op, resource, dummy) in reversed(list(enumerate(cluster.actions))) if op == "start"}
    for vm in cluster.pool.vms:
        for first in vm.start_after:
            if vm_id(vm.name) in starts and vm_id(first) in starts:
                assert starts[vm_id(first)] < starts[vm_id(vm.name)], f"{vm.name} starts before {first}"
