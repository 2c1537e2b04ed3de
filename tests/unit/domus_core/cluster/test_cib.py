"""What is written into the CIB, that others' words in it stay, and that it is written at once or not at all."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path
from typing import Any

import pytest
from domus_core.cluster.cib import wanted_configuration
from domus_core.cluster.cib_merge import merge_configuration
from domus_core.cluster.corosync import assign_node_ids
from domus_core.cluster.pacemaker import Pacemaker
from domus_core.cluster.pool import FenceDevice, Pool, QuorumDevice, check_pool, fencing_problems
from lxml import etree

from tests.unit.domus_core.cluster.pools import GIB, member, pool, vm

EMPTY = "<configuration><crm_config/><nodes/><resources/><constraints/></configuration>"
HEAD = '<cib crm_feature_set="3.16.1" validate-with="pacemaker-3.9" admin_epoch="0" epoch="5" num_updates="3">'


def ids_of(one: Pool) -> dict[str, int]:
    return assign_node_ids([server.name for server in one.members], {})


def configured(one: Pool, found: Any = None) -> Any:
    return merge_configuration(etree.fromstring(EMPTY) if found is None else found, wanted_configuration(one, ids_of(one)))


def values(configuration: Any, path: str) -> dict[str, str]:
    return {pair.get("name"): pair.get("value") for pair in configuration.iterfind(f"{path}/nvpair")}


def test_every_id_is_given_once_whatever_the_names() -> None:
    """Names that look like the ends of other ids."""
    names = ["a", "a-meta", "a.b", "a-b", "meta", "4-a", "a-target-role", "a-1-a"]
    vms = [vm(name, priority=1, server_tags=frozenset(("x", "x-a")), start_after=("a",) if name != "a" else ()) for name in names]
    servers = tuple(dataclasses.replace(member(number), name=name, tags=frozenset(("x", "x-a"))) for number, name in enumerate(names, 1))
    one = pool(members=servers, vms=tuple(vms))
    found = [element.get("id") for element in wanted_configuration(one, ids_of(one)).iter() if element.get("id")]
    assert len(found) == len(set(found))


def test_secrets_stay_out_of_the_cib() -> None:
    device = FenceDevice("bmc1", "fence_ipmilan", {"srv1": ""}, {"ip": "192.0.2.9", "username": "admin"}, secrets=("password",))
    text = etree.tostring(wanted_configuration(pool(devices=(device,)), ids_of(pool()))).decode()
    assert 'name="password_script" value="/etc/domus/fencing/bmc1.password"' in text
    assert 'name="password"' not in text


def test_what_no_simulation_shows_is_written() -> None:
    """Pacemaker's controller, not its scheduler, heeds these."""
    told = values(wanted_configuration(pool(), ids_of(pool())), "crm_config/cluster_property_set")
    assert (told["start-failure-is-fatal"], told["stonith-enabled"], told["startup-fencing"]) == ("false", "true", "true")


def test_a_pair_is_delayed_and_nobody_else() -> None:
    def delays(one: Pool) -> tuple[list[str], str]:
        tree = wanted_configuration(one, ids_of(one))
        of_devices = [pair.get("value") for pair in tree.iter("nvpair") if pair.get("name") == "pcmk_delay_base"]
        return of_devices, values(tree, "crm_config/cluster_property_set")["priority-fencing-delay"]

    assert delays(pool(2)) == (["5s"], "10s")
    assert delays(pool(3)) == ([], "0s")
    assert delays(pool(2, quorum_device=QuorumDevice("qnetd"))) == ([], "0s")


def test_levels_stand_only_where_several_devices_cut_a_server() -> None:
    devices = (FenceDevice("bmc1", "a", {"srv1": ""}), FenceDevice("pdu", "b", {"srv1": "1", "srv2": "2"}, level=2))
    levels = wanted_configuration(pool(devices=devices), ids_of(pool())).find("fencing-topology")
    assert [(one.get("target"), one.get("index"), one.get("devices")) for one in levels] == [
        ("srv1", "1", "domus-fence-bmc1"),
        ("srv1", "2", "domus-fence-pdu"),
    ]


def test_applying_twice_changes_nothing() -> None:
    one = pool(3, vm("web1", priority=3, anti_affinity=frozenset("x")), vm("web2", preferred_servers=("srv2",)))
    first = configured(one)
    assert first.changes and not first.foreign
    assert configured(one, first.configuration).changes == ()


def test_what_may_change_never_restarts_a_vm() -> None:
    first = configured(pool(3, vm("web1")))
    changed = vm("web1", memory=9 * GIB, cpus=9, priority=9, stop_timeout=9, restart_limit=9, restart_window=9, start_delay=9, anti_affinity=frozenset("x"))
    second = configured(pool(3, changed, lock_patience=90), first.configuration)
    assert second.changes and second.restarted == ()
    renamed = dataclasses.replace(vm("web1"), uuid="another")
    assert configured(pool(3, renamed), first.configuration).restarted == ("domus-vm-web1",)


def test_others_words_stay_and_are_told() -> None:
    found = configured(pool(3, vm("web1"))).configuration
    found.find("resources").insert(0, etree.fromstring('<primitive id="ip" class="ocf" provider="heartbeat" type="IPaddr2"/>'))
    meta = found.find("resources/primitive[@id='domus-vm-web1']/meta_attributes")
    etree.SubElement(meta, "nvpair", id="domus-meta-web1-is-managed", name="is-managed", value="false")
    etree.SubElement(found.find("nodes/node"), "instance_attributes", id="nodes-1").append(etree.fromstring('<nvpair id="nodes-1-x" name="x" value="1"/>'))
    change = configured(pool(3, vm("web1")), found)
    assert change.changes == ()
    assert set(change.foreign) == {"resources ip", "in domus-vm-web1: is-managed=false", "in srv1: x=1"}
    assert [one.get("id") for one in change.configuration.find("resources")][0] == "ip"


def test_a_target_role_that_somebody_set_is_not_undone() -> None:
    found = configured(pool(3, vm("web1"))).configuration
    found.find(".//nvpair[@name='target-role']").set("value", "Stopped")
    assert configured(pool(3, vm("web1", wanted=None)), found).changes == ()
    assert configured(pool(3, vm("web1")), found).changes == ("~ resources domus-vm-web1",)


def test_what_is_gone_is_taken_away_and_told() -> None:
    first = configured(pool(3, vm("web1"), vm("web2", start_after=("web1",))))
    second = configured(pool(2, vm("web2")), first.configuration)
    assert second.gone == ("srv3",) and second.dropped == ("domus-fence-power-srv3", "domus-vm-web1")
    text = etree.tostring(second.configuration).decode()
    assert "web1" not in text and "domus-room-srv3" not in text


def test_a_server_that_is_full_already_keeps_its_vms() -> None:
    one = pool(members=(member(1, memory=GIB, cpus=1), member(2)), vms=(vm("web1", memory=3 * GIB, cpus=4, server="srv1"),))
    room = values(wanted_configuration(one, ids_of(one)), "nodes/node[@uname='srv1']/utilization")
    assert room == {"memory": str(3 * 1024), "cpus": "4"}


@pytest.mark.parametrize(
    ("broken", "field"),
    [
        (pool(0, members=()), "servers"),
        (pool(members=(member(1), dataclasses.replace(member(2), addresses=()))), "heartbeat"),
        (pool(members=(member(1), dataclasses.replace(member(2), addresses=("192.0.2.1",)))), "heartbeat"),
        (pool(devices=(FenceDevice("x", "a", {"srv9": ""}),)), "fencing[x].servers"),
        (pool(devices=(FenceDevice("x", "a", {"srv1": ""}, {"password": "p"}, ("password",)),)), "fencing[x].options"),
        (pool(devices=(FenceDevice("x", "a", {"srv1": "a;srv2:b"}),)), "fencing[x].servers"),
        (pool(3, vm("a", start_after=("b",)), vm("b", start_after=("a",))), "vms.ha.start_after"),
        (pool(3, vm("a", start_after=("zzz",))), "vms[a].ha.start_after"),
        (pool(3, vm("a", preferred_servers=("zzz",))), "vms[a].ha.preferred_servers"),
    ],
)
def test_a_pool_that_contradicts_itself(broken: Pool, field: str) -> None:
    assert check_pool(pool()) == []
    assert [problem.field for problem in check_pool(broken)][:1] == [field]


def test_no_ha_without_a_tested_device_for_each_server() -> None:
    names = [device.name for device in pool().devices]
    assert fencing_problems(pool(), names) == []
    assert len(fencing_problems(pool(), names[1:])) == 1
    assert len(fencing_problems(pool(devices=pool().devices[1:]), names)) == 1


def test_pacemaker_takes_it_and_it_is_written_at_once(tmp_path: Path) -> None:
    file = tmp_path / "cib.xml"
    file.write_text(f"{HEAD}{EMPTY}<status/></cib>", encoding="utf-8")
    pacemaker, one = Pacemaker(str(file)), pool(3, vm("web1", priority=3, server_tags=frozenset("x"), start_after=()), vm("web2", anti_affinity=frozenset("x")))
    assert pacemaker.apply(one, ids_of(one)).changes
    assert pacemaker.apply(one, ids_of(one)).changes == ()
    checked = subprocess.run(["crm_verify", "--xml-file", str(file), "-V"], capture_output=True, text=True, check=False)
    assert "error" not in checked.stderr, checked.stderr


def test_a_change_of_somebody_else_meanwhile_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "cib.xml"
    file.write_text(f"{HEAD}{EMPTY}<status/></cib>", encoding="utf-8")
    pacemaker, one = Pacemaker(str(file)), pool(3, vm("web1"))
    read, reads = Pacemaker.read, []

    def read_and_meddle(self: Pacemaker) -> Any:
        found = read(self)
        reads.append(found)
        if len(reads) == 1:
            command = ["cibadmin", "--create", "--scope", "resources", "--xml-text", '<primitive id="ip" class="ocf" provider="heartbeat" type="IPaddr2"/>']
            subprocess.run(command, env={"CIB_file": str(file), "PATH": "/usr/sbin:/usr/bin"}, check=True)
        return found

    monkeypatch.setattr(Pacemaker, "read", read_and_meddle)
    change = pacemaker.apply(one, ids_of(one))
    # Refused, then our set of properties, still empty, then all of it.
    assert len(reads) == 3 and change.foreign == ("resources ip",)
    assert {"ip", "domus-vm-web1"} <= {element.get("id") for element in read(pacemaker).iterfind("configuration/resources/*")}
