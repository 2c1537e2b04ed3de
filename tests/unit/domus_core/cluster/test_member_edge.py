"""What is pure of a pool's edge: documents read, the status told, files written twice, VMs kept by whoever does not speak of them."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from domus_core.cluster import member_files
from domus_core.cluster.cib import wanted_configuration
from domus_core.cluster.cib_merge import keep_vms, merge_configuration
from domus_core.cluster.member_files import wanted_files, write_files
from domus_core.cluster.pool_document import read_pool_document
from domus_core.cluster.pool_status import status_from
from domus_core.errors import InvalidSpec

UUID = "6d2a6a56-54d6-4a36-8d5b-0f8d3f4c0a01"
POOL = {
    "name": "pool1",
    "members": [{"name": name, "addresses": [f"192.0.2.{number}"], "memory": 2**32, "cpus": 8, "tags": ["ssd"]} for number, name in enumerate("abc", 1)],
    "devices": [{"name": "bmc", "agent": "fence_ipmilan", "servers": {"a": "1", "b": "2", "c": "3"}, "options": {"ip": "192.0.2.9"}}],
    "vms": [{"name": "web", "uuid": UUID, "memory": 2**30, "cpus": 1, "preferred_servers": ["b"], "priority": 2}],
}
DOCUMENT: dict[str, Any] = {"pool": POOL, "known_ids": {"b": 7}, "secrets": {"bmc": {"password": "it's $HOME"}}, "settings": {"records": "/srv/records"}}


def test_a_document_is_read_and_ids_are_kept() -> None:
    document = read_pool_document(DOCUMENT)
    assert dict(document.node_ids) == {"a": 8, "b": 7, "c": 9}
    assert document.pool.members[0].tags == frozenset({"ssd"})
    assert document.pool.vms[0].preferred_servers == ("b",)
    assert document.pool.devices[0].secrets == ("password",)
    assert not document.keeps_vms


def test_plugs_and_options_may_be_written_as_numbers() -> None:
    device = {"name": "pdu", "agent": "fence_apc", "servers": {"a": 4, "b": 5, "c": 6}, "options": {"ip": "192.0.2.9", "ipport": 161, "ssh": True}}
    document = read_pool_document({**DOCUMENT, "pool": {**POOL, "devices": [device]}, "secrets": {"pdu": {"password": 1234}}})
    (read,) = document.pool.devices
    assert (read.servers["a"], read.options["ipport"], read.options["ssh"], document.secrets["pdu"]["password"]) == ("4", "161", "true", "1234")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"pool": {**POOL, "tokens": 1}}, "server_pool.tokens"),
        ({"pool": {**POOL, "vms": [{"name": "web"}]}}, "vms.uuid"),
        ({"pool": {**POOL, "members": []}}, "servers"),
        ({"pool": None}, "pool"),
        ({"pool": {**POOL, "token": "abc"}}, "server_pool.token"),
        ({"pool": {**POOL, "members": "a"}}, "servers"),
        ({"pool": {**POOL, "members": [{"name": "a", "addresses": "192.0.2.1"}]}}, "servers.addresses"),
        ({"pool": {**POOL, "members": [{"name": "a", "addresses": ["192.0.2.1"], "memory": "4GiB"}]}}, "servers.memory"),
        ({"pool": {**POOL, "members": [{"name": "a", "addresses": ["192.0.2.1"], "evacuated": 1}]}}, "servers.evacuated"),
        ({"pool": {**POOL, "vms": [{"name": "web", "uuid": UUID, "memory": True, "cpus": 1}]}}, "vms.memory"),
        ({"pool": {**POOL, "devices": [{**POOL["devices"][0], "servers": ["a"]}]}}, "fencing.servers"),  # type: ignore[dict-item,index]
        ({"known_ids": {"b": "x"}}, "known_ids"),
        ({"secrets": {"bmc": "secret"}}, "secrets"),
        ({"authkey": "AAAA"}, "authkey"),
        ({"authkey": "no base64"}, "authkey"),
    ],
)
def test_what_can_not_be_is_refused_with_its_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidSpec) as raised:
        wanted_files(read_pool_document({**DOCUMENT, **change}))
    assert raised.value.field == field


def test_files_are_written_once_and_secrets_are_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = {"CONF": "corosync.conf", "KEY": "authkey", "SETTINGS": "pool.json", "FENCING": "fencing", "OCF_LINK": "ocf/vm"}
    for name, place in places.items():
        monkeypatch.setattr(member_files, name, str(tmp_path / place))
    monkeypatch.setattr(member_files, "secret_path", lambda device, option: str(tmp_path / "fencing" / f"{device}.{option}"))
    document = read_pool_document({**DOCUMENT, "authkey": base64.b64encode(bytes(128)).decode()})
    assert len(write_files(document, check=True)) == 5
    assert not (tmp_path / "corosync.conf").exists()
    assert len(write_files(document)) == 5
    assert write_files(document) == []
    secret = tmp_path / "fencing" / "bmc.password"
    assert secret.stat().st_mode & 0o7777 == 0o700 and (tmp_path / "authkey").stat().st_mode & 0o7777 == 0o400
    assert "it'\"'\"'s $HOME" in secret.read_text()
    assert write_files(read_pool_document({**DOCUMENT, "secrets": {}})) == [str(secret)]
    assert not secret.exists()


def test_who_does_not_speak_of_vms_keeps_them() -> None:
    document = read_pool_document(DOCUMENT)
    found = merge_configuration(wanted_configuration(document.pool, document.node_ids), wanted_configuration(document.pool, document.node_ids)).configuration
    silent = read_pool_document({**DOCUMENT, "pool": {name: value for name, value in POOL.items() if name != "vms"}})
    assert silent.keeps_vms
    wanted = wanted_configuration(silent.pool, silent.node_ids)
    assert merge_configuration(found, wanted).dropped == ("domus-vm-web",)
    keep_vms(found, wanted)
    change = merge_configuration(found, wanted)
    assert (change.changes, change.dropped) == ((), ())


def test_the_status_tells_what_an_operator_must_know() -> None:
    status = status_from(b"""<pacemaker-result><summary><current_dc name="b" with_quorum="true"/></summary>
      <nodes><node name="a" online="false" unclean="true"/><node name="b" online="true" standby="true"/><node name="c" online="true"/></nodes>
      <resources><resource id="domus-vm-web" blocked="true"><node name="b"/></resource></resources>
      <failures><failure op_key="domus-vm-my_web_migrate_to_0" node="b" exitstatus="error" exitreason="no way there"/></failures>
      <fence_history><fence_event action="reboot" target="a" status="failed" exit-reason="No route to host"/></fence_history></pacemaker-result>""")
    assert (status.is_quorate, status.coordinator) == (True, "b")
    assert status.members == {"a": "unclean", "b": "standby", "c": "online"}
    assert status.servers_of("web") == ("b",) and status.servers_of("other") == ()
    assert status.failed == ("domus-vm-my_web",)
    assert [alert.split(":")[0] for alert in status.alerts] == [
        "could not migrate VM my_web away from b, where it runs on",
        "could not cut the power of a (reboot)",
        "a is to be cut, and is not proven to be off",
        "web is blocked",
    ]
