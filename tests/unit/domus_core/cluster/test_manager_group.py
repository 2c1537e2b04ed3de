"""The manager as a service of a pool, in Pacemaker's own file format."""

from __future__ import annotations

import copy
import subprocess
from pathlib import Path
from typing import Any

import pytest
from domus_core.cluster.manager_group import GROUP, PLACE, ManagerService, put_manager, stop_manager, take_manager
from domus_core.cluster.pacemaker import Pacemaker
from domus_core.errors import Conflict, InvalidSpec
from domus_core.libvirt_driver.xml_fields import canonical

from tests.unit.domus_core.cluster.pools import pool, vm
from tests.unit.domus_core.cluster.test_cib import EMPTY, HEAD, ids_of

ONE = pool(3, vm("web1"))
NAMES = tuple(sorted(member.name for member in ONE.members))
SERVICE = ManagerService("192.0.2.7", NAMES[:2])


@pytest.fixture
def pacemaker(tmp_path: Path) -> Pacemaker:
    """The CIB of a pool, in a file."""
    file = tmp_path / "cib.xml"
    file.write_text(f"{HEAD}{EMPTY}<status/></cib>", encoding="utf-8")
    made = Pacemaker(str(file))
    made.apply(ONE, ids_of(ONE))
    return made


def put(pacemaker: Pacemaker, service: ManagerService = SERVICE) -> tuple[str, ...]:
    return pacemaker.edit(lambda found: put_manager(found, service), "test")


def configuration(pacemaker: Pacemaker) -> Any:
    return pacemaker.read().find("configuration")


def test_pacemaker_takes_it_and_twice_is_once(pacemaker: Pacemaker, tmp_path: Path) -> None:
    assert put(pacemaker) == (f"+ resources {GROUP}", f"+ constraints {PLACE}")
    assert put(pacemaker) == ()
    checked = subprocess.run(["crm_verify", "--xml-file", str(tmp_path / "cib.xml"), "-V"], capture_output=True, text=True, check=False)
    assert "error" not in checked.stderr, checked.stderr


def test_the_pools_document_leaves_it_alone_and_it_is_no_strangers(pacemaker: Pacemaker) -> None:
    put(pacemaker)
    before = {one.get("id"): canonical(one) for one in configuration(pacemaker).iter() if (one.get("id") or "").startswith(GROUP)}
    larger = pool(3, vm("web1"), vm("web2"))
    change = pacemaker.apply(larger, ids_of(larger))
    after = {one.get("id"): canonical(one) for one in configuration(pacemaker).iter() if (one.get("id") or "").startswith(GROUP)}
    assert change.changes and change.foreign == () and before == after


def test_no_failed_stop_cuts_a_server(pacemaker: Pacemaker) -> None:
    put(pacemaker)
    parts = list(configuration(pacemaker).iterfind(f"resources/group[@id='{GROUP}']/primitive"))
    assert [part.get("type") for part in parts] == ["IPaddr2", "domus-runner", "domus-manager", "domus-nginx", "domus-backup.timer"]
    assert {part.find("operations/op[@name='stop']").get("on-fail") for part in parts} == {"block"}


@pytest.mark.parametrize("lost", NAMES)
def test_it_runs_on_its_members_only_and_moves_when_one_dies(pacemaker: Pacemaker, tmp_path: Path, lost: str) -> None:
    """Pacemaker's own scheduler says where."""
    put(pacemaker)
    command = ["crm_simulate", "--simulate", "--quorum=true", f"--xml-file={tmp_path / 'cib.xml'}", *(f"--node-up={name}" for name in NAMES if name != lost)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    started = {line.split()[-1] for line in told.splitlines() if line.strip().startswith(f"* {GROUP}-") and "Started" in line}
    assert len(started) == 1 and started <= set(NAMES[:2]) - {lost}, told


def test_another_address_is_a_change_and_what_somebody_told_pacemaker_stays(pacemaker: Pacemaker) -> None:
    put(pacemaker)
    command = ["crm_resource", "--resource", GROUP, "--meta", "--set-parameter", "is-managed", "--parameter-value", "false"]
    pacemaker._run("test", *command)
    assert put(pacemaker) == ()
    assert put(pacemaker, ManagerService("192.0.2.8", NAMES, 24, "br0")) == (f"~ resources {GROUP}", f"~ constraints {PLACE}")
    values = {pair.get("name"): pair.get("value") for pair in configuration(pacemaker).iterfind(f"resources/group[@id='{GROUP}']//nvpair")}
    assert values["is-managed"] == "false" and (values["ip"], values["cidr_netmask"], values["nic"]) == ("192.0.2.8", "24", "br0")


def test_it_is_stopped_before_it_is_taken_out(pacemaker: Pacemaker) -> None:
    before = canonical(configuration(pacemaker))
    put(pacemaker)
    assert pacemaker.edit(stop_manager, "test") == (f"~ resources {GROUP}",) and pacemaker.edit(stop_manager, "test") == ()
    role = configuration(pacemaker).find(f"resources/group[@id='{GROUP}']/meta_attributes/nvpair[@name='target-role']")
    assert role.get("value") == "Stopped"
    assert len(pacemaker.edit(take_manager, "test")) == 2 and pacemaker.edit(take_manager, "test") == ()
    assert canonical(configuration(pacemaker)) == before


def test_a_stranger_is_refused(pacemaker: Pacemaker) -> None:
    found = configuration(pacemaker)
    before = canonical(copy.deepcopy(found))
    with pytest.raises(Conflict, match="no member"):
        put_manager(found, ManagerService("192.0.2.7", (NAMES[0], "other")))
    assert canonical(found) == before


@pytest.mark.parametrize(
    ("values", "field"), [(("name", NAMES), "address"), (("192.0.2.7", NAMES[:1]), "members"), (("192.0.2.7", NAMES, 33), "prefix_length")]
)
def test_what_can_not_be_is_refused_with_its_field(values: tuple[Any, ...], field: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        ManagerService(*values)
    assert refused.value.field == field
