"""When Pacemaker's scheduler is asked about a VM that is down; what it says then is tested in tests/scenarios/pools."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from domus_core.cluster import waiting_vms
from domus_core.cluster.pool_problems import Problem
from domus_core.cluster.pool_status import PoolStatus, status_from
from domus_core.cluster.waiting_vms import with_waiting

SAMPLES = Path(__file__).parent / "samples"
SIMULATED = """<r><cluster_status><nodes><node name="h1" online="true"/><node name="h2" online="false"/></nodes>
<resources><resource resource_agent="stonith:fence_x"/></resources></cluster_status><utilizations>{}
<capacity node="h1" comment="Remaining"><memory>3</memory><domus-apart-a:b>0</domus-apart-a:b></capacity></utilizations></r>"""
DOWN = PoolStatus(True, "h1", {"h1": "online"}, {}, (), down=("vm0",))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    programs: list[str] = []

    def run(argv: list[str], **dummy: Any) -> str:
        programs.append(argv[0])
        return (SAMPLES / "cib.xml").read_text() if argv[0] == "cibadmin" else SIMULATED.format("")

    monkeypatch.setattr(waiting_vms, "run", run)
    waiting_vms._simulated.cache_clear()
    return programs


def test_a_vm_without_a_place_is_told_and_the_same_configuration_is_looked_at_once(asked: list[str]) -> None:
    (problem,) = with_waiting(DOWN).problems
    assert (problem.kind, problem.about) == ("vm_waits", "vm0") and "h1: has 3 MiB left; h2: is away" in problem.text
    assert with_waiting(DOWN).problems == (problem,)
    assert asked == ["cibadmin", "crm_simulate", "cibadmin"]


def test_who_is_about_to_be_started_does_not_wait(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_vms, "_simulated", lambda cib, timeout: SIMULATED.format('<utilization resource="domus-vm-vm0" node="h1"/>').encode())
    assert with_waiting(DOWN) == DOWN


@pytest.mark.parametrize(
    "status",
    [
        status_from((SAMPLES / "healthy-crm_mon.xml").read_bytes()),
        dataclasses.replace(DOWN, is_quorate=False),
        dataclasses.replace(DOWN, problems=(Problem("action_failed", "vm0", "could not start", "mend it"),)),
    ],
    ids=["all run", "no quorum", "its start failed"],
)
def test_what_is_told_already_is_not_looked_into(status: PoolStatus, asked: list[str]) -> None:
    assert with_waiting(status) == status and asked == []
