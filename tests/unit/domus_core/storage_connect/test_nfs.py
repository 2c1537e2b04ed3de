"""How an NFS repository is mounted, and what is told when it can not be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from domus_core.errors import Conflict, DomusError
from domus_core.model.document import parse_document
from domus_core.model.repository import completed, directory_of
from domus_core.storage_connect import nfs
from domus_core.storage_connect.mounts import Mount
from domus_core.storage_connect.nfs import NfsMount, mount_options, source_of

from .fake_host import FakeHost

SOURCE = "nas1:/export/vms"


@pytest.fixture(autouse=True)
def nfs_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nfs.shutil, "which", lambda *arguments, **options: "/sbin/mount.nfs")


def repository(path: Any = None, **fields: Any) -> Any:
    where = {} if path is None else {"path": str(path)}
    entry = {"name": "nas", "nfs": {"server": "nas1", "export": "/export/vms", **fields}, **where}
    return completed(parse_document({"repositories": [entry]}).wanted("repository")["nas"])


def test_what_is_left_out_is_settled() -> None:
    spec = repository()
    assert (spec.path, spec.nfs.version, directory_of(spec)) == ("/var/lib/domus/repositories/nas", "4.2", "/var/lib/domus/repositories/nas")


@pytest.mark.parametrize(("given", "version"), [(4.2, "4.2"), ("4.1", "4.1"), (3, "3"), ("3", "3")])
def test_yaml_reads_versions_as_numbers(given: Any, version: str) -> None:
    assert repository(version=given).nfs.version == version


def test_options() -> None:
    assert mount_options(repository().nfs).startswith("vers=4.2,hard,nosuid,nodev,noexec,lookupcache=pos,")
    options = mount_options(repository(version="3", soft=True, timeo=50, retrans=3, nconnect=4, read_only=True).nfs).split(",")
    assert {"vers=3", "soft", "timeo=50", "retrans=3", "nconnect=4", "ro"} <= set(options) and not {"hard", "rw"} & set(options)


def test_an_ipv6_address_stands_in_brackets() -> None:
    assert source_of(repository(server="FD00::5").nfs) == "[fd00::5]:/export/vms"


def test_attached_and_detached(tmp_path: Path) -> None:
    host, spec = FakeHost(SOURCE), repository(tmp_path / "a/nas")
    plugin = NfsMount(host)
    assert plugin.is_attached(spec, host.mounts()) is False
    plugin.attach(spec)
    plugin.attach(spec)
    assert plugin.is_attached(spec, host.mounts()) is True and (tmp_path / "a/nas").is_dir()
    plugin.detach(spec, force=False)
    assert plugin.is_attached(spec, host.mounts()) is False and not (tmp_path / "a/nas").exists()


def test_taken_away_by_force_its_folder_stays_for_who_ends_what_waits_for_it(tmp_path: Path) -> None:
    host, spec = FakeHost(SOURCE), repository(tmp_path / "nas")
    plugin = NfsMount(host)
    plugin.attach(spec)
    plugin.detach(spec, force=True)
    assert plugin.is_attached(spec, host.mounts()) is False and (tmp_path / "nas").is_dir()
    plugin.detach(spec, force=True)
    assert not (tmp_path / "nas").exists(), "nobody waits for what was not mounted"


def test_something_else_is_mounted_there(tmp_path: Path) -> None:
    host = FakeHost(SOURCE)
    host.mounted.append(Mount(str(tmp_path), "other:/x", "nfs4"))
    with pytest.raises(Conflict, match="other:/x is mounted there"):
        NfsMount(host).attach(repository(tmp_path))


def test_the_server_may_have_another_name(tmp_path: Path) -> None:
    host = FakeHost(SOURCE)
    host.mounted.append(Mount(str(tmp_path), "192.0.2.5:/export/vms", "nfs4"))
    assert NfsMount(host).is_attached(repository(tmp_path), host.mounts()) is True


def test_files_are_not_covered_by_a_mount(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(Conflict, match="is not empty"):
        NfsMount(FakeHost(SOURCE)).attach(repository(tmp_path))


@pytest.mark.parametrize(("prepare", "code", "remedy"), [("down", "unreachable", ""), ("refused", "driver_error", "Export it to this server")])
def test_refusals_are_explained(prepare: str, code: str, remedy: str, tmp_path: Path) -> None:
    host = FakeHost() if prepare == "refused" else FakeHost(SOURCE)
    host.down = prepare == "down"
    with pytest.raises(DomusError) as caught:
        NfsMount(host).attach(repository(tmp_path / "nas"))
    assert caught.value.code == code and caught.value.remedy.startswith(remedy)


def test_version_3_is_not_for_ha() -> None:
    plugin = NfsMount(FakeHost())
    assert plugin.not_for_ha(repository()) is None
    assert "version 4" in str(plugin.not_for_ha(repository(version="3")))


@pytest.mark.parametrize("entry", [{"export": "/a b"}, {"export": "/a\\"}, {"server": "nas1:/x"}, {"server": "-o"}, {"version": "4"}])
def test_what_mount_would_read_otherwise_is_refused(entry: dict[str, Any]) -> None:
    with pytest.raises(DomusError):
        repository(**entry)


def test_the_mount_point_is_as_strict() -> None:
    with pytest.raises(DomusError, match="can not be mounted"):
        repository("/srv/a b")
