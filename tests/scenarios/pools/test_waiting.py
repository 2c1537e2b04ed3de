"""A VM that is to run, and that no server may take, is told of with the reason of each server."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scenarios.pools.harness import FOLDER, load_scenario, play, waiting_vms

NEEDS = "waits for a server that may take it, with {} MiB of memory and 1 vCPUs left"
TOLD = {
    "server-lost-no-room": f"VM big {NEEDS.format(8192)}: srv1: is away; srv2, srv3: has 2048 MiB left",
    "apart-no-server-left": f"VM db1 {NEEDS.format(1024)}: srv1: is away; srv2: has a VM that it must not be together with",
    "closed-no-room": f"VM web1 {NEEDS.format(4096)}: srv1: is away; srv2: takes no VMs now; srv3: has 3072 MiB left",
    "tags-nowhere": f"VM web1 {NEEDS.format(1024)}: srv1: is away; srv2, srv3: may not run it: a rule forbids it, or it failed there",
    "no-device": "VM web1 waits: the pool has no fence device, and without one Pacemaker starts nothing",
}


@pytest.mark.parametrize("name", TOLD)
def test_why_it_waits_is_told(name: str, tmp_path: Path) -> None:
    acts, dummy = play(load_scenario(FOLDER / f"{name}.yml"), tmp_path)
    assert list(waiting_vms(acts.cluster).values()) == [TOLD[name]]


def test_vcpus_may_be_what_is_lacking(tmp_path: Path) -> None:
    acts, dummy = play(load_scenario(FOLDER / "no-room-in-cpus-only.yml"), tmp_path)
    assert waiting_vms(acts.cluster)["web1"].endswith("srv2: has 2 vCPUs left")
