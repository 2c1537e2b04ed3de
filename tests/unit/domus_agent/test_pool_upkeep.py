"""How what is defined on a server stands to the records of its pool."""

from __future__ import annotations

from typing import Any

import pytest
from domus_agent.pool_upkeep import LEFT, NEW, OLD, SAME, standing, starts_with_server
from domus_core.cluster.records import PoolRecord
from domus_core.model.fields import make
from domus_core.model.ha import HaSpec
from domus_core.model.snapshot import Found
from domus_core.model.vm import VmSpec, VmState


def found(state: str = "stopped", generation: int = 3, wanted: str | None = None, **asked: Any) -> Found:
    spec = make(VmSpec, {"name": "web1", **({"state": wanted} if wanted else {}), **asked})
    return Found(spec, VmState("u1", state, managed=True, generation=generation), recorded=spec)


def record(server: str | None = "srv1", generation: int = 3, **more: Any) -> PoolRecord:
    return PoolRecord("u1", "web1", "<domain/>", {}, generation, server, **more)


@pytest.mark.parametrize(
    ("what", "known", "places", "stands"),
    [
        (found(), None, (), NEW),
        (found(), record(), (), SAME),
        (found(), record(None), (), SAME),
        (found(generation=4), record(), (), NEW),
        (found(generation=2), record(), (), OLD),
        (found(), record("srv2"), (), LEFT),
        (found(generation=4), record("srv2"), (), LEFT),
        (found(), record(), ("srv2",), LEFT),
        (found(), record(), ("srv1",), SAME),
        (found("suspended"), record("srv2", saved_on="srv1"), (), SAME),
        (found("running"), None, (), NEW),
        (found("running"), record("srv2"), ("srv2",), NEW),
        (found("paused"), record(), (), SAME),
        (found("running", 2), record("srv1"), (), OLD),
        (found("running", 4), record("srv1"), (), NEW),
    ],
)
def test_what_runs_here_is_ours_what_another_has_is_let_go(what: Found, known: PoolRecord | None, places: tuple[str, ...], stands: str) -> None:
    assert standing(what, known, "srv1", places) == stands


@pytest.mark.parametrize(
    ("what", "known", "starts"),
    [
        (found(autostart=True), record(), True),
        (found(autostart=True, wanted="running"), record(), True),
        (found(autostart=True, wanted="stopped"), record(), False),
        (found(autostart=True), record("srv2"), False),
        (found(autostart=True), None, False),
        (found(), record(), False),
        (found("suspended", autostart=True), record(), False),
        (found(autostart=True, ha=make(HaSpec, {"enabled": True})), record(), False),
    ],
)
def test_what_starts_with_its_server_is_what_its_record_still_gives_to_it(what: Found, known: PoolRecord | None, starts: bool) -> None:
    assert starts_with_server(what, known, "srv1") is starts
