"""What is made ready for a VM that comes, and what is told of one that went."""

from __future__ import annotations

import base64
import dataclasses
import types
from pathlib import Path
from typing import Any

import libvirt
import pytest
from domus_core.errors import Cancelled, Conflict, DriverError, InvalidSpec
from domus_core.libvirt_driver import migration as move
from domus_core.libvirt_driver import migration_arrival as arrival
from domus_core.libvirt_driver import migration_sight as sight
from domus_core.libvirt_driver.migration_facts import INCOMING
from domus_core.libvirt_driver.places import Places
from domus_core.libvirt_driver.registry import Registry
from domus_core.model.migration import MovingDisk, MovingVm
from domus_core.model.repository import RepositorySpec
from domus_core.planning import migration as planning
from domus_core.planning.migration import MigrationPlan, settle

UUID = "0e3f5a9c-0000-4000-8000-000000000001"
NOTE = {"owner": UUID, "spec": {"name": "web1-root", "repository": "main"}}


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A server with one repository, where no VM is."""
    places = Places({"main": RepositorySpec("main", path=str(tmp_path / "main"))})
    (tmp_path / "main" / "VirtualDisks").mkdir(parents=True)
    monkeypatch.setattr(sight, "look", lambda *dummy, **more: planning.ABSENT)
    return types.SimpleNamespace(
        registry=Registry(str(tmp_path / "state" / "objects")), known_places=lambda: places, state_directory=str(tmp_path / "state"), connection=None
    )


def vm_of(driver: Any) -> MovingVm:
    path = driver.known_places().path("main/VirtualDisks/web1-root.img")
    disk = MovingDisk("root", "vda", path, "main/VirtualDisks/web1-root.img", "raw", "main", 1 << 20, note=NOTE)
    return MovingVm("web1", UUID, "running", disks=(disk,))


def receive(driver: Any, vm: MovingVm, contents: dict[str, str]) -> None:
    arrival.receive(driver, vm, MigrationPlan("live", ("vda",)), contents, operation="op", source_uri="qemu+tls://a/system", offer={})


def files(tmp_path: Path) -> list[str]:
    return sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())


def test_what_is_made_ready_goes_again_when_the_vm_does_not_come(driver: Any, tmp_path: Path) -> None:
    seed = str(tmp_path / "state" / "cloud-init" / "web1-cloud-init-0.iso")
    receive(driver, vm_of(driver), {seed: base64.b64encode(b"secret").decode()})
    assert files(tmp_path) == [
        "main/.domus/virtual_disk/web1-root.json",
        "main/VirtualDisks/web1-root.img",
        f"state/cloud-init/{Path(seed).name}",
        f"state/objects/{INCOMING}/{UUID}.json",
    ]
    assert Path(seed).stat().st_mode & 0o777 == 0o600
    assert "secret" not in Path(tmp_path / "state" / "objects" / INCOMING / f"{UUID}.json").read_text()
    arrival.discard(driver, UUID)
    assert files(tmp_path) == []


def test_what_is_there_is_neither_overwritten_nor_discarded(driver: Any, tmp_path: Path) -> None:
    vm = vm_of(driver)
    Path(vm.disks[0].path).write_text("somebody else's")
    with pytest.raises(Conflict):
        receive(driver, vm, {})
    assert files(tmp_path) == ["main/VirtualDisks/web1-root.img"]
    assert Path(vm.disks[0].path).read_text() == "somebody else's"


@pytest.mark.parametrize("place", ["/etc/cron.d/x", "/srv/../etc/x", "main/VirtualDisks/../../x"])
def test_what_comes_along_goes_only_where_such_files_belong(driver: Any, tmp_path: Path, place: str) -> None:
    path = place if place.startswith("/") else str(tmp_path / "main" / "VirtualDisks" / ".." / "x")
    with pytest.raises(InvalidSpec):
        receive(driver, vm_of(driver), {path: ""})
    assert files(tmp_path) == []


def test_nothing_is_discarded_while_the_vm_is_here(driver: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    receive(driver, vm_of(driver), {})
    monkeypatch.setattr(sight, "look", lambda *dummy, **more: planning.RUNS)
    with pytest.raises(Conflict):
        arrival.discard(driver, UUID)
    assert "main/VirtualDisks/web1-root.img" in files(tmp_path)


def test_an_error_tells_where_the_vm_is() -> None:
    stays = move.Outcome(settle(planning.RUNS, planning.ABSENT), DriverError("internal error"))
    error = move.explain(stays, "web1", "srv1", "srv2")
    assert error is not None and "it is on srv1 as before" in str(error) and "internal error" in str(error)
    aborted = dataclasses.replace(stays, error=DriverError("operation aborted: migration out job: canceled by client"))
    assert isinstance(move.explain(aborted, "web1", "srv1", "srv2"), Cancelled)
    unknown = move.explain(move.Outcome(settle(planning.HALTED, planning.SILENT)), "web1", "srv1", "srv2")
    assert unknown is not None and "not known" in str(unknown)
    assert move.explain(move.Outcome(settle(planning.ABSENT, planning.RUNS), DriverError("lost")), "web1", "srv1", "srv2") is None


class Standing:
    """A domain at the source that runs, in a server where it is sent away."""

    def __init__(self) -> None:
        self.runs, self.told = True, list[str]()

    def lookupByUUIDString(self, dummy: str) -> Standing:
        return self

    def state(self) -> tuple[int, int]:
        return (1 if self.runs else 3), 0

    def suspend(self) -> None:
        self.runs = False
        self.told.append("suspend")

    def resume(self) -> None:
        self.runs = True
        self.told.append("resume")

    def isActive(self) -> bool:
        return True

    def isPersistent(self) -> bool:
        return True

    def XMLDesc(self, dummy: int) -> str:
        return "<domain/>"

    def destroy(self) -> None:
        self.told.append("destroy")

    def undefineFlags(self, dummy: int) -> None:
        self.told.append("undefine")


@pytest.mark.parametrize(
    ("answers", "actions", "owner"),
    [
        ([planning.ABSENT], ["suspend", "resume"], planning.SOURCE),
        ([planning.DEFINED], ["suspend", "resume"], planning.SOURCE),  # its libvirt ended what had not gone on
        ([planning.RUNS], ["suspend", "destroy", "undefine"], planning.DESTINATION),
        ([planning.SILENT], ["suspend"], planning.UNKNOWN),
        ([planning.SILENT, planning.ABSENT], ["suspend", "resume"], planning.SOURCE),
        ([planning.SILENT, planning.DEFINED], ["suspend", "destroy", "undefine"], planning.DESTINATION),  # it ran there, and lost its power
        ([planning.ARRIVING, planning.ABSENT], ["suspend", "resume"], planning.SOURCE),
        ([planning.ARRIVING, planning.DEFINED], ["suspend", "resume"], planning.SOURCE),
    ],
)
def test_what_was_handed_over_stands_before_anybody_is_asked(
    driver: Any, monkeypatch: pytest.MonkeyPatch, answers: list[str], actions: list[str], owner: str
) -> None:
    driver.connection = domain = Standing()
    monkeypatch.setattr(sight, "look", lambda *dummy, **more: planning.RUNS if domain.runs else planning.HALTED)
    verdict = None
    for answer in answers:

        def there(*dummy: Any, answer: str = answer, **more: Any) -> str:
            assert not domain.runs
            return answer

        monkeypatch.setattr(sight, "look_there", there)
        record = driver.registry.read(move.OUTGOING, UUID) or _outgoing(driver)
        verdict = move.settle_outgoing(driver, record)
    assert verdict is not None
    assert (domain.told, verdict.owner) == (actions, owner)


def test_who_resumes_what_is_held_has_decided(driver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.connection = domain = Standing()
    monkeypatch.setattr(sight, "look", lambda *dummy, **more: planning.RUNS if domain.runs else planning.HALTED)
    monkeypatch.setattr(sight, "look_there", lambda *dummy, **more: planning.SILENT)
    move.settle_outgoing(driver, _outgoing(driver))
    domain.resume()
    assert move.settle_outgoing(driver, driver.registry.read(move.OUTGOING, UUID)).owner == planning.SOURCE
    assert domain.told == ["suspend", "resume"]


def _outgoing(driver: Any) -> dict[str, Any]:
    record = {"vm": dataclasses.asdict(vm_of(driver)), "plan": MigrationPlan("live", ()).as_dict(), "peer": {"uri": "qemu+tls://b/system"}, "halted": True}
    driver.registry.write(move.OUTGOING, UUID, record)
    return record


def test_addresses() -> None:
    assert move.uri_for("qemu+tls://{address}/system", "fd00::1") == "qemu+tls://[fd00::1]/system"
    assert move.data_uri("fd00::1") == "tcp://[fd00::1]"
    assert move.is_encrypted("qemu+tls://a/system") and not move.is_encrypted("qemu+tcp://a/system")


def test_progress_for_people() -> None:
    stats = {"data_total": 200 << 20, "data_remaining": 50 << 20, "memory_bps": 10 << 20, "memory_iteration": 3, "downtime": 42}
    assert move._described(stats) == "75% (50 MiB left of 200 MiB, 10 MiB/s, pass 3, expected downtime 42 ms)"


@pytest.mark.parametrize("repository", [None, "local", "shared"])
def test_uefi_variables_that_the_other_server_has_too_are_not_deleted_with_the_definition(repository: Any, driver: Any, tmp_path: Path) -> None:
    repositories = {name: RepositorySpec(name, path=str(tmp_path / name), shared=name == "shared") for name in ("local", "shared")}
    driver.known_places = lambda: Places(repositories)
    path = f"{tmp_path}/{repository}/VirtualDisks/{UUID}_VARS.fd" if repository else "/var/lib/libvirt/qemu/nvram/web1_VARS.fd"
    flags: list[int] = []
    domain = types.SimpleNamespace(isActive=lambda: False, isPersistent=lambda: True, undefineFlags=flags.append)
    domain.XMLDesc = lambda dummy: f"<domain><os firmware='efi'><nvram>{path}</nvram></os></domain>"
    driver.connection = types.SimpleNamespace(lookupByUUIDString=lambda uuid: domain)
    arrival.drop(driver, UUID)
    kept, deleted = (bool(flags[0] & flag) for flag in (libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM, libvirt.VIR_DOMAIN_UNDEFINE_NVRAM))
    assert (kept, deleted) == (repository == "shared", repository != "shared")
