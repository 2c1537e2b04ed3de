"""A member of a clustered pool, for the driver: what it is told, what is not as it was written, and what one that leaves and one that comes wait for."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
from domus_core.cluster import member, member_files, member_services, member_sight, member_steps, outside
from domus_core.cluster.member import ServerPools
from domus_core.cluster.member_files import write_files
from domus_core.cluster.pool_document import as_data, read_pool_document
from domus_core.cluster.pool_of import member_document
from domus_core.cluster.pool_status import PoolStatus
from domus_core.engine import apply
from domus_core.errors import Conflict, DomusError, DriverError
from domus_core.fake_driver.driver import EMPTY, FakeDriver
from domus_core.libvirt_driver.registry import Registry
from domus_core.model.document import parse_document
from domus_core.model.fields import restore
from domus_core.model.server_pool import ServerPoolSpec
from domus_core.planning.reconcile import plan

OWN = os.uname().nodename
KEY = base64.b64encode(bytes(range(200))).decode()
MEMBERS = [
    {"name": "srv1", "host": OWN, "node_id": 1, "addresses": ["192.0.2.1"], "memory": "8GiB", "cpus": 8, "tags": ["ssd"], "cpu_group": "x"},
    {"name": "srv2", "host": "h2", "node_id": 2, "addresses": ["192.0.2.2"], "memory": "8GiB", "cpus": 8},
]
POOL: dict[str, Any] = {
    "name": "rack1",
    "servers": ["srv1", "srv2"],
    "file_system": "fs",
    "fencing": [
        {
            "name": "bmc",
            "agent": "fence_ipmilan",
            "servers": [{"name": "srv1", "plug": "4"}, {"name": "srv2"}],
            "options": [{"name": "ip", "value": "192.0.2.9"}, {"name": "password", "secret": "it's $HOME"}],
        }
    ],
    "cluster": {"members": MEMBERS, "authkey": KEY},
}


class FakeHost:
    """A server whose pool file system tells its lease."""

    told: int | None = 90

    def lease(self, path: str) -> int | None:
        return self.told


class Room:
    """A server with files of its own, and services that run or not."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        places = {"CONF": "corosync.conf", "KEY": "authkey", "SETTINGS": "pool.json", "FENCING": "fencing", "OCF_LINK": "ocf/vm"}
        for name, place in places.items():
            for module in (member_files, member_sight, member_steps, member_services):
                if hasattr(module, name):
                    monkeypatch.setattr(module, name, str(folder / place))
        for module in (member_files, member_sight):
            monkeypatch.setattr(module, "secret_path", lambda device, option: str(folder / "fencing" / f"{device}.{option}"))
        monkeypatch.setattr(member_steps, "LOCK", str(folder / "lock"))
        self.active = {"corosync.service", "pacemaker.service"}
        self.differences: tuple[str, ...] = ()
        self.actions: list[tuple[str, Any]] = []
        self.fails: DomusError | None = None
        for module in (member_sight, member_services, member_steps):
            monkeypatch.setattr(module, "is_active", lambda unit: unit in self.active)
        monkeypatch.setattr(member_sight, "works_by_its_file", lambda: True)
        monkeypatch.setattr(member_sight, "_differences", lambda pool, ids: iter(self.differences))
        monkeypatch.setattr(member, "read_pool_state", lambda: None)
        monkeypatch.setattr(member, "pool_action", self.act)
        self.folder = folder
        self.registry = Registry(str(folder / "objects"))
        self.registry.write("repository", "fs", {"name": "fs", "path": str(folder / "fs"), "shared": True})
        self.host = FakeHost()
        self.pools = ServerPools(self.registry, self.host)  # type: ignore[arg-type]

    def act(self, action: str, data: Any = None, **more: Any) -> dict[str, Any]:
        """What `domus-agent pool` does: its files, and no services."""
        self.actions.append((action, data))
        if self.fails is not None:
            raise self.fails
        if action == "leave":
            return {"changes": member_files.remove_files()}
        told = json.loads(json.dumps(data))
        told.pop("applies")
        return {"changes": write_files(read_pool_document(told))}

    def apply(self, *pools: dict[str, Any]) -> list[str]:
        """Plan with what is found here, and take the steps; what changed."""
        site = parse_document({"repositories": [{"name": "fs", "path": str(self.folder / "fs"), "shared": True}], "server_pools": list(pools)})
        snapshot = dataclasses.replace(EMPTY, objects={"server_pool": self.pools.read_all(site)})
        steps = [step for step in plan(site, snapshot).steps if step.kind == "server_pool"]
        for step in steps:
            self.pools.carry_out(step)
        return [change.field if isinstance(change.before, str) is False else f"{change.field}: {change.before}" for step in steps for change in step.changes]


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Room:
    return Room(tmp_path, monkeypatch)


def test_a_member_is_made_and_the_second_time_nothing_is_done(room: Room) -> None:
    assert "servers" in room.apply(POOL)
    ((action, data),) = room.actions
    assert action == "realize" and data["applies"] is True
    settings = {"lock_patience": 110.0, "records": f"{room.folder}/fs/records", "hosts": {"srv1": OWN, "srv2": "h2"}}
    assert data["settings"] == settings
    assert data["pool"]["devices"][0]["servers"] == {OWN: "4", "h2": "srv2"}, "a plug is the server's name in the document"
    assert data["secrets"] == {"bmc": {"password": "it's $HOME"}} and "vms" not in data["pool"]
    assert room.apply(POOL) == [] and len(room.actions) == 1


def test_what_is_kept_holds_no_secret_and_is_roots(room: Room) -> None:
    room.apply(POOL)
    file = room.folder / "objects" / "server_pool" / "rack1.json"
    assert "HOME" not in file.read_text() and KEY not in file.read_text() and file.stat().st_mode & 0o7777 == 0o600
    assert restore(ServerPoolSpec, json.loads(file.read_text())).cluster.members[1].host == "h2"  # type: ignore[union-attr,index]


def test_secrets_that_a_document_leaves_out_stay_where_they_are(room: Room) -> None:
    room.apply(POOL)
    cluster = {name: value for name, value in POOL["cluster"].items() if name != "authkey"}
    assert room.apply({"name": "rack1", "token": 5000, "cluster": cluster}) == ["token"]
    assert room.actions[-1][1]["secrets"] == {"bmc": {"password": None}}
    assert "it'\"'\"'s $HOME" in (room.folder / "fencing" / "bmc.password").read_text()
    assert base64.b64encode((room.folder / "authkey").read_bytes()).decode() == KEY


@pytest.mark.parametrize(
    ("harm", "word"),
    [
        (lambda room: (room.folder / "corosync.conf").write_text("# Written by Domus\ntotem {\n  cluster_name: rack1\n}\n"), "corosync.conf"),
        (lambda room: (room.folder / "authkey").unlink(), "authkey is not the pool's key"),
        (lambda room: (room.folder / "fencing" / "bmc.password").write_text("#!/bin/sh\nprintf '%s\\n' other\n"), "bmc.password does not hold the secret"),
        (lambda room: (room.folder / "fencing" / "bmc.password").unlink(), "bmc.password does not hold the secret"),
        (lambda room: (room.folder / "pool.json").write_text("{}"), "pool.json"),
        (lambda room: (room.folder / "ocf" / "vm").unlink(), "ocf/vm does not lead"),
        (lambda room: room.active.discard("pacemaker.service"), "pacemaker.service does not run"),
        (lambda room: setattr(room, "differences", ("Pacemaker's configuration is another: + x",)), "is another"),
    ],
)
def test_what_is_not_as_it_was_written_is_seen_and_mended(room: Room, harm: Any, word: str) -> None:
    room.apply(POOL)
    harm(room)
    (told,) = room.apply(POOL)
    assert told.startswith("cluster: ") and word in told
    room.active, room.differences = {"corosync.service", "pacemaker.service"}, ()
    assert room.apply(POOL) == []


def test_settings_of_others_stay_and_a_lease_that_is_not_told_changes_nothing(room: Room) -> None:
    room.apply(POOL)
    settings = json.loads((room.folder / "pool.json").read_text())
    (room.folder / "pool.json").write_text(json.dumps({**settings, "unsafe_migration": True}))
    room.host.told = None
    assert room.apply(POOL) == []
    room.host.told = 30
    assert room.apply(POOL)
    assert json.loads((room.folder / "pool.json").read_text()) == {**settings, "lock_patience": 50.0, "unsafe_migration": True}


def test_only_the_first_member_speaks_to_pacemaker(room: Room) -> None:
    turned = {**POOL, "servers": ["srv2", "srv1"], "cluster": {**POOL["cluster"], "members": MEMBERS[::-1]}}
    room.apply(turned)
    room.differences = ("Pacemaker's configuration is another: + x",)
    assert room.actions[-1][1]["applies"] is False and room.apply(turned) == []


def test_a_member_that_failed_on_the_way_is_known_and_completed(room: Room) -> None:
    room.fails = Conflict("srv9 has not left the pool yet")
    with pytest.raises(Conflict):
        room.apply(POOL)
    room.fails = None
    assert any("corosync.conf is not as it was written" in told for told in room.apply(POOL))
    assert room.apply(POOL) == []


def test_a_server_that_leaves_gives_everything_back(room: Room) -> None:
    room.apply(POOL)
    assert room.apply({"name": "rack1", "state": "absent"}) == ["state: present"]
    assert room.actions[-1][0] == "leave" and room.pools.read_all(None) == {} and not (room.folder / "authkey").exists()


def test_a_pool_without_a_cluster_is_only_written_down(room: Room) -> None:
    wanted = {"name": "lab", "servers": ["srv1"], "clustered": False}
    assert room.apply(wanted) and room.apply(wanted) == []
    assert room.apply({"name": "lab", "state": "absent"}) and room.actions == []


def test_a_cluster_that_a_role_has_made_is_seen(room: Room) -> None:
    room.apply(POOL)
    room.registry.remove("server_pool", "rack1")
    (found,) = room.pools.read_all(None).values()
    assert (found.spec.name, found.state.registered) == ("rack1", False)
    assert member_sight.membership() == {"pool": "rack1", "node_ids": {OWN: 1, "h2": 2}, "authkey": KEY}


def test_a_server_of_no_pool_has_no_membership(room: Room) -> None:
    assert set(member_sight.membership().values()) == {None} and room.pools.read_all(None) == {}


def test_what_a_server_lacks(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member_sight.shutil, "which", lambda name, path: None if name in ("pacemakerd", "fence_ipmilan") else f"/usr/sbin/{name}")
    for name in ("QEMU_CONF", "LOCKD_CONF"):
        monkeypatch.setattr(member_sight, name, str(room.folder / name))
    site = parse_document({"server_pools": [POOL]})
    lacking = room.pools.lacking(site)["rack1"]
    assert lacking[:2] == ("the program pacemakerd", "the program fence_ipmilan") and f"{room.folder}/fs/lockspace" in lacking[2]
    (room.folder / "QEMU_CONF").write_text('# lock_manager = "sanlock"\nlock_manager = "lockd"\n')
    (room.folder / "LOCKD_CONF").write_text(f'auto_disk_leases = 1\nfile_lockspace_dir = "{room.folder}/fs/lockspace"\n')
    assert room.pools.lacking(site)["rack1"] == ("the program pacemakerd", "the program fence_ipmilan")
    with pytest.raises(DomusError, match="lacks the program pacemakerd"):
        shared = parse_document({"repositories": [{"name": "fs", "path": "/srv/fs", "shared": True}], "server_pools": [POOL]})
        apply(shared, FakeDriver(dataclasses.replace(EMPTY, lacks={"rack1": lacking})), check=True)


def status(**members: str) -> PoolStatus:
    return PoolStatus(True, OWN, members, {}, ())


def spec() -> Any:
    return parse_document({"server_pools": [POOL]}).wanted("server_pool")["rack1"]


def test_those_that_stay_wait_until_whoever_leaves_has_left(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    room.apply(POOL)
    alone = dataclasses.replace(member_document(spec(), {}), node_ids={OWN: 1})
    assert member_steps.leaving(alone) == ("h2",) and member_steps.leaving(member_document(spec(), {})) == ()
    seen = [status(h2="online"), status(h2="unclean"), DriverError("Pacemaker does not answer"), status(h2="offline")]
    slept: list[float] = []

    def read() -> PoolStatus:
        one = seen.pop(0)
        if isinstance(one, Exception):
            raise one
        return one

    monkeypatch.setattr(member_steps, "read_status", read)
    monkeypatch.setattr(member_steps.time, "sleep", slept.append)
    member_steps.wait_until_left(("h2",))
    assert seen == [] and len(slept) == 3


@pytest.mark.parametrize("state", ["online", "unclean", "pending", "standby"])
def test_who_has_not_left_is_never_taken_out(room: Room, monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    monkeypatch.setattr(member_steps, "read_status", lambda: status(h2=state))
    monkeypatch.setattr(member_steps, "LEAVE_SECONDS", 0.0)
    with pytest.raises(Conflict) as told:
        member_steps.wait_until_left(("h2",))
    assert f"h2 ({state})" in told.value.message and told.value.remedy
    room.active.clear()
    member_steps.wait_until_left(("h2",))  # a member whose cluster does not run can not know, and takes nobody out of it


def test_a_member_goes_its_way_in_order(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    class Change:
        changes, gone = ("+ nodes 2",), ("h3",)

    class FakePacemaker:
        def apply(self, *asked: Any) -> Any:
            order.append("apply")
            assert asked[2] is True, "VMs stay as they are"
            return Change

    monkeypatch.setattr(member_steps, "wait_until_left", lambda names: order.append("wait"))
    monkeypatch.setattr(member_steps, "leave_packaged", lambda: order.append("packaged") or [])
    monkeypatch.setattr(member_steps, "write_files", lambda document: order.append("write") or ["file"])
    monkeypatch.setattr(member_steps, "start_member", lambda: order.append("start") or ["Corosync started"])
    monkeypatch.setattr(member_steps, "Pacemaker", FakePacemaker)
    document = member_document(spec(), {"records": str(room.folder / "fs" / "records")})
    assert member_steps.realize(document, True) == ["file", "Corosync started", "+ nodes 2", "h3 taken out"]
    assert order == ["wait", "packaged", "write", "start", "apply"]
    assert (room.folder / "fs" / "lockspace").stat().st_mode & 0o7777 == 0o700
    member_steps.realize(document, False)
    assert order[5:] == ["wait", "packaged", "write", "start"]


def test_a_document_is_the_same_after_its_way_to_the_member(room: Room) -> None:
    document = member_document(spec(), {"records": "/x"})
    assert read_pool_document(json.loads(json.dumps(as_data(document)))) == dataclasses.replace(
        document, pool=dataclasses.replace(document.pool, devices=tuple(dataclasses.replace(one, secrets=("password",)) for one in document.pool.devices))
    )


def test_the_error_of_the_other_process_is_told_as_it_was() -> None:
    said = json.dumps(Conflict("HA VMs run here: web1", object="server h1", remedy="Evacuate it").as_dict())
    error = outside.told_error(DriverError(f"domus-agent pool leave failed: {said}"))
    assert isinstance(error, Conflict) and (error.message, error.object, error.remedy) == ("HA VMs run here: web1", "server h1", "Evacuate it")
    plain = DriverError("domus-agent pool leave failed: no {such} thing")
    assert outside.told_error(plain) is plain


def test_what_is_done_outside_is_told_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "domus-agent"
    script.write_text('#!/bin/sh\n[ "$2" = realize ] || { echo \'{"code": "busy", "message": "no"}\' >&2; exit 1; }\ncat\n')
    script.chmod(0o755)
    monkeypatch.setattr(outside, "has_systemd", lambda: False)
    assert outside.pool_action("realize", data={"a": "secret"}, timeout=10, agent=str(script)) == {"a": "secret"}
    with pytest.raises(DomusError) as told:
        outside.pool_action("leave", timeout=10, agent=str(script))
    assert (told.value.code, told.value.message) == ("busy", "no")
