"""A member changes what its pool has of a VM: record, Pacemaker's configuration in a file, wishes told to the OCF agent."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import pytest
from domus_core.cluster import membership as part
from domus_core.cluster import wishes
from domus_core.cluster.cib import wanted_configuration
from domus_core.cluster.cib_vms import known_vms
from domus_core.cluster.fence_tests import FenceTest
from domus_core.cluster.libvirt_host import Settings
from domus_core.cluster.membership import Membership, fencing_refusal, read_membership, record_of
from domus_core.cluster.pacemaker import Pacemaker
from domus_core.cluster.pool_status import PoolStatus
from domus_core.cluster.records import PoolRecord
from domus_core.errors import Conflict, DomusError, Forbidden, Moved
from domus_core.libvirt_driver.xml_fields import etree, serialize
from domus_core.model.fields import make
from domus_core.model.ha import HaSpec
from domus_core.model.vm import VmSpec

from tests.unit.domus_core.cluster.pools import pool

HA = make(VmSpec, {"name": "web1", "memory": 1 << 30, "cpus": 1, "ha": make(HaSpec, {"enabled": True, "start_delay": 3, "on_shutdown": "restart"})})
PLAIN = make(VmSpec, {"name": "web1", "memory": 1 << 30, "cpus": 1})
KNOWN: dict[str, Any] = {"wanted": "running", "saved": False, "active": True}


@pytest.fixture
def member(tmp_path: Path) -> Membership:
    """srv1 of a pool of three, with quorum; Pacemaker's configuration is a file."""
    records = tmp_path / "records"
    records.mkdir()
    root = etree.Element("cib", {"crm_feature_set": "3.16.1", "validate-with": "pacemaker-3.9", "epoch": "1", "num_updates": "0", "admin_epoch": "0"})
    root.append(wanted_configuration(pool(3), {"srv1": 1, "srv2": 2, "srv3": 3}))
    etree.SubElement(root, "status")
    cib = tmp_path / "cib.xml"
    cib.write_text(serialize(root))
    status = PoolStatus(True, "srv1", {"srv1": "online", "srv2": "offline", "srv3": "unclean"}, {}, ())
    settings = Settings(str(records), pool="rack1", server="srv1", state=str(tmp_path / "state"))
    return Membership(settings, Pacemaker(str(cib)), lambda: status, lambda: True)


def record(member: Membership, spec: VmSpec = HA, generation: int = 1, **more: Any) -> PoolRecord:
    return record_of(member, "u1", "web1", "<domain/>", spec, generation, **{**KNOWN, **more})


def test_a_server_without_settings_is_in_no_pool(tmp_path: Path) -> None:
    assert read_membership(str(tmp_path / "none.json")) is None
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(DomusError, match="can not be read"):
        read_membership(str(tmp_path / "bad.json"))


def test_a_record_is_written_once_and_followed_by_pacemaker(member: Membership) -> None:
    assert member.save(record(member)) and not member.save(record(member))
    assert any("domus-vm-web1" in line for line in member.keep_up({"web1": True}))
    assert member.keep_up({"web1": True}) == () and member.keeps_up("web1")
    role = member.pacemaker.read().find(".//primitive[@id='domus-vm-web1']/meta_attributes/nvpair[@name='target-role']")
    assert role.get("value") == "Started"


def test_a_vm_that_loses_ha_is_let_go_and_one_that_is_deleted_is_forgotten(member: Membership) -> None:
    member.save(record(member))
    member.keep_up({"web1": False})
    member.save(record(member, PLAIN, 2))
    member.keep_up({}, dropped=["web1"])
    assert known_vms(member.pacemaker.read()) == set() and member.find("u1") is not None
    member.forget("u1", "web1")
    assert member.find("u1") is None
    member.forget("u1", "web1")


def test_a_vm_that_is_deleted_beside_another_does_not_come_back_into_pacemakers_hands(member: Membership) -> None:
    member.save(record(member))
    member.save(dataclasses.replace(record(member), uuid="u2", name="web2", specification={**record(member).specification, "name": "web2"}))
    member.keep_up({"web1": True})
    assert known_vms(member.pacemaker.read()) == {"web1"}, "web2's record is there still, and goes last"
    member.keep_up({}, dropped=["web1"])
    assert known_vms(member.pacemaker.read()) == set()
    member.keep_up({"web2": False})
    assert known_vms(member.pacemaker.read()) == {"web2"}


def test_without_quorum_nothing_is_written(member: Membership) -> None:
    lonely = dataclasses.replace(member, quorate=lambda: False)
    with pytest.raises(Forbidden):
        lonely.save(record(lonely))
    with pytest.raises(Forbidden):
        lonely.require_quorum("web1")
    assert lonely.refusal("/nowhere") == "this server has no quorum"


def test_where_an_ha_vm_ran_last_stays_in_its_record_while_it_is_off(member: Membership) -> None:
    member.save(dataclasses.replace(record(member), server="srv2", stop_timeout=9))
    told = record(member, active=False)
    assert (told.server, told.stop_timeout, told.on_shutdown, told.start_delay) == ("srv2", 9, "restart", 3)
    assert record(member, active=True).server == record(member, PLAIN, active=False).server == "srv1"
    assert record(member, active=False, saved=True).saved_on == "srv1"


@pytest.mark.parametrize(
    ("places", "server", "outcome"),
    [
        ((), "srv2", None),
        ((), "srv1", None),
        ((), "srv3", Conflict),
        (("srv2",), "srv2", Moved),
        ((), "gone", None),
    ],
)
def test_a_vm_is_taken_from_a_server_that_is_proven_to_be_off(member: Membership, places: tuple[str, ...], server: str, outcome: Any) -> None:
    member.save(dataclasses.replace(record(member), server=server))
    status = dataclasses.replace(member.status(), vms={"domus-vm-web1": places})
    asked = dataclasses.replace(member, status=lambda: status)
    found = asked.find_named("web1")
    assert found is not None and asked.find_named("u1") == found and asked.find_named("other") is None
    if outcome is None:
        asked.take(found)
    else:
        with pytest.raises(outcome):
            asked.take(found)
    assert asked.find("u1") == (dataclasses.replace(found, server="srv1") if outcome is None else found)


def test_a_vm_whose_memory_is_saved_elsewhere_is_not_taken(member: Membership) -> None:
    member.save(dataclasses.replace(record(member), server="srv2", saved_on="srv2"))
    with pytest.raises(Conflict, match="saved on srv2"):
        member.take(member.find_named("web1"))  # type: ignore[arg-type]


def test_no_ha_without_fence_devices_that_have_passed_their_test(member: Membership) -> None:
    cib = member.pacemaker.read()
    passed = [FenceTest(f"power-srv{number}", f"srv{number}", 1.0, "on") for number in (2, 3)]
    assert fencing_refusal(cib, "srv1", passed) is None
    assert fencing_refusal(cib, "srv1", passed[:1]) == "these fence devices have not passed a test: power-srv3 for srv3"
    failed = dataclasses.replace(passed[1], problem="no answer")
    assert "power-srv3" in str(fencing_refusal(cib, "srv1", [passed[0], failed]))
    for device in cib.findall(".//primitive[@id='domus-fence-power-srv1']"):
        device.getparent().remove(device)
    assert fencing_refusal(cib, "srv1", passed) == "no fence device can cut the power of srv1"
    trusting = dataclasses.replace(member, settings=dataclasses.replace(member.settings, untested_fencing=True))
    assert trusting.refusal("/nowhere") is None and member.refusal("/nowhere") is not None


def test_a_server_is_closed_where_the_pool_speaks_of_it_and_nowhere_else(member: Membership) -> None:
    def told() -> list[str]:
        return [pair.get("value") for pair in member.pacemaker.read().iterfind(".//node/instance_attributes/nvpair[@name='domus-closed']")]

    assert member.close(True) and told() == ["1", "0", "0"]
    assert member.close(True) and member.close(False) and told() == ["0", "0", "0"]
    assert not member.of("srv9").close(True) and told() == ["0", "0", "0"]


def test_who_stops_a_vm_says_so_until_pacemaker_has_heard(member: Membership, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    monkeypatch.setattr(part.pool_vms, "set_wanted", lambda *what: told.append((what[:2], wishes.is_stopping(member.settings.state, "u1"))))
    with member.ending("web1", "u1", 5):
        assert wishes.is_stopping(member.settings.state, "u1")
    assert told == [(("web1", "Stopped"), True)] and not wishes.is_stopping(member.settings.state, "u1")
    with pytest.raises(Conflict), member.ending("web1", "u1", 5):
        raise Conflict("its guest does not hear")
    assert len(told) == 1


def test_a_wish_is_for_one_server_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wish = wishes.Migration("srv2", "qemu+tls://srv2/system", ("LIVE",), {"bandwidth": 10})
    with wishes.migrating(str(tmp_path), "u1", wish, 60):
        assert wishes.wanted_migration(str(tmp_path), "u1", "srv2") == wish
        assert wishes.wanted_migration(str(tmp_path), "u1", "srv3") is None
        now = time.time()
        monkeypatch.setattr(wishes.time, "time", lambda: now + 61)
        assert wishes.wanted_migration(str(tmp_path), "u1", "srv2") is None
    (tmp_path / "u2.stopping").write_text(json.dumps([]))
    assert not wishes.is_stopping(str(tmp_path), "u2")
