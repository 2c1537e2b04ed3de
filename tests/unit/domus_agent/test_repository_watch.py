"""Shared repositories that go away and come back are told of, once each, and mounted again."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Callable

import pytest
from domus_agent.libvirt_events import Seen
from domus_agent.repository_watch import BACK, LOST, RepositoryWatch
from domus_core.libvirt_driver.locks import held, lock_file
from domus_core.libvirt_driver.registry import Registry
from domus_core.storage_connect import nfs
from domus_core.storage_connect.mounts import Mount
from domus_core.storage_connect.storage import Storage

from tests.unit.domus_core.storage_connect.fake_host import FakeHost

PATIENCE = 20.0
UUID = "11111111-2222-4333-8444-555555555555"


class Watched:
    """A watch over one repository, whose NFS server may be told to be away."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "nas"
        (self.path / "VirtualDisks").mkdir(parents=True)
        self.host = FakeHost("nas1:/export")
        self.host.mounted.append(Mount(str(self.path), "nas1:/export", "nfs4"))
        spec = {"name": "nas", "path": str(self.path), "nfs": {"server": "nas1", "export": "/export"}, "uuid": UUID}
        Registry(str(directory / "objects")).write("repository", "nas", spec)
        Registry(str(directory / "objects")).write("repository", "local", {"name": "local", "path": str(directory / "missing")})
        self.seen: list[Seen] = []
        self.late: list[str] = []
        self.looked_at: list[tuple[str, str]] = []
        self.watch = RepositoryWatch(str(directory), self.seen.append, self._look_at, self.late.append, Storage(self.host))

    def _look_at(self, targets: Iterable[tuple[str, str]]) -> None:
        self.looked_at += targets

    def away(self) -> None:
        """Nothing is mounted, and the server does not answer."""
        self.host.down, self.host.mounted = True, []


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def wait_for(question: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not question():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_lost_and_back_are_told_once(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nfs.shutil, "which", lambda *arguments, **options: "/sbin/mount.nfs")
    watched.watch.look()
    assert watched.seen == []
    watched.away()
    watched.watch.look()
    watched.watch.look()
    (lost,) = watched.seen
    assert (lost.kind, lost.name, lost.uuid, lost.severity) == (LOST, "nas", UUID, "error") and "is not mounted" in lost.data["problem"]
    watched.host.down = False
    os.rmdir(watched.path / "VirtualDisks")
    watched.watch._mounting.clear()  # as if a minute had gone by
    watched.watch.look()
    wait_for(lambda: len(watched.host.mounted) == 1)
    watched.watch.look()
    assert [seen.kind for seen in watched.seen] == [LOST, BACK]
    wait_for(lambda: watched.late == [str(watched.path)])


def test_one_that_is_being_taken_away_is_not_lost(watched: Watched, tmp_path: Path) -> None:
    watched.watch.look()
    with held(lock_file(str(tmp_path)), [("repository", "nas")], [], patience=1.0):
        watched.away()
        watched.watch.look()
    assert watched.seen == [] and watched.watch._mounting == {}
    measure = watched.watch._storage.measure_all

    def taken_away_meanwhile(*arguments: Any) -> Any:
        found = measure(*arguments)
        watched.watch._registry.remove("repository", "nas")
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watched.watch._storage, "measure_all", taken_away_meanwhile)
        watched.watch.look()
    assert watched.seen == []


def test_what_was_told_before_is_not_told_again(watched: Watched) -> None:
    watched.watch.recall([{"kind": "repository", "key": "nas", "measured": {"problem": "away"}}, {"kind": "vm", "key": "nas"}])
    watched.away()
    watched.watch.look()
    assert watched.seen == []


def test_it_is_not_mounted_again_all_the_time(watched: Watched) -> None:
    watched.away()
    for dummy in range(3):
        watched.watch.look()
    assert len(watched.watch._mounting) == 1


def test_a_new_repository_has_disks_already(watched: Watched) -> None:
    (watched.path / "VirtualDisks" / "a.img").touch()
    note = watched.watch._registry.read("repository", "nas")
    watched.watch._registry.remove("repository", "nas")
    watched.watch.look()
    assert note is not None
    watched.watch._registry.write("repository", "nas", note)
    watched.watch.look()
    assert watched.looked_at == [("virtual_disk", "nas/a")]


def test_disks_of_other_servers_are_looked_at(watched: Watched) -> None:
    disk = watched.path / "VirtualDisks" / "web1-root.qcow2"
    watched.watch.look()
    disk.touch()
    watched.watch.look()
    assert watched.looked_at == [("virtual_disk", "nas/web1-root")]
    disk.unlink()
    watched.watch.look()
    assert watched.looked_at == [("virtual_disk", "nas/web1-root")] * 2
