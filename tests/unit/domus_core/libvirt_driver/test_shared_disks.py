"""Virtual disks in a repository that several servers see: each of them here has a registry of its own, on the same directory."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Optional

import pytest
from domus_core.description import identity
from domus_core.errors import Busy, Conflict, DomusError
from domus_core.libvirt_driver import image_files, virtual_disk
from domus_core.libvirt_driver.places import Places
from domus_core.libvirt_driver.registry import Registry
from domus_core.model.document import parse_document
from domus_core.planning.steps import CREATE, DELETE, Step
from domus_core.storage_connect.mounts import Mount
from domus_core.storage_connect.reach import NotAnswering
from domus_core.storage_connect.storage import Storage

from tests.unit.domus_core.storage_connect.fake_host import FakeHost

UUID = "11111111-2222-4333-8444-555555555555"
SERVERS = ("5c1b5e8e-0000-4000-8000-000000000001", "5c1b5e8e-0000-4000-8000-000000000002")


class Server:
    """One server that mounts the repository."""

    def __init__(self, directory: Path, number: int) -> None:
        root = directory / "nas"
        for folder in ("VirtualDisks", ".domus"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        entry = {"name": "nas", "path": str(root), "nfs": {"server": "nas1", "export": "/export"}}
        self.host = FakeHost("nas1:/export")
        self.host.mounted.append(Mount(str(root), "nas1:/export", "nfs4"))
        self.registry = Registry(str(directory / f"server{number}"))
        self.places = Places(parse_document({"repositories": [entry]}).wanted("repository"), Storage(self.host), {"nas": UUID})

    def take(self, action: str, owner: Optional[str] = None, size: str = "1MiB") -> Optional[DomusError]:
        """Make or delete the disk; the error, or None."""
        spec = parse_document({"virtual_disks": [{"name": "d", "repository": "nas", "size": size, "format": "raw"}]}).wanted("virtual_disk")["nas/d"]
        try:
            virtual_disk.carry_out(None, self.registry, self.places, Step(action, "virtual_disk", "nas/d", spec, uuid=owner))
        except DomusError as error:
            return error
        return None

    def found(self) -> Any:
        """The disk as this server sees it."""
        return virtual_disk.read_virtual_disk(self.places, "nas/d")


@pytest.fixture
def servers(tmp_path: Path) -> list[Server]:
    return [Server(tmp_path, number) for number in range(4)]


def test_one_object_for_all(servers: list[Server]) -> None:
    assert servers[0].take(CREATE) is None
    ids = {identity("virtual_disk", "nas/d", server.found(), id) for server, id in zip(servers, SERVERS)}
    assert len(ids) == 1
    alone = [dataclasses.replace(server.found(), state=dataclasses.replace(server.found().state, repository_uuid=None)) for server in servers[:2]]
    assert len({identity("virtual_disk", "nas/d", found, id) for found, id in zip(alone, SERVERS)}) == 2


def test_the_same_document_everywhere_makes_it_once(servers: list[Server]) -> None:
    for dummy in range(20):
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(lambda server: server.take(CREATE), servers)) == [None] * 4
        assert os.listdir(Path(servers[0].found().state.path).parent) == ["d.img"]
        assert servers[0].take(DELETE) is None


def test_of_two_owners_one_gets_it(servers: list[Server]) -> None:
    for dummy in range(20):
        with ThreadPoolExecutor(4) as pool:
            errors = list(pool.map(lambda number: servers[number].take(CREATE, f"vm{number}"), range(4)))
        (winner,) = [number for number, error in enumerate(errors) if error is None]
        assert all(isinstance(error, Conflict) for error in errors if error is not None)
        assert servers[0].found().state.owner == f"vm{winner}"
        note = Path(servers[0].places.path("nas"), ".domus/virtual_disk/d.json")
        assert json.loads(note.read_text())["owner"] == f"vm{winner}"
        assert servers[winner].take(DELETE) is None


def test_a_disk_that_qemu_holds_is_not_deleted(servers: list[Server]) -> None:
    assert servers[0].take(CREATE) is None
    path = servers[0].found().state.path
    with open(path, "r+b") as qemu:
        # what QEMU of any server holds while it has the image open: bytes from 100 on
        fcntl.fcntl(qemu, fcntl.F_OFD_SETLK, struct.pack("@hhqqi0q", fcntl.F_RDLCK, os.SEEK_SET, 101, 1, 0))
        assert isinstance(servers[1].take(DELETE), Busy) and os.path.exists(path)
    assert servers[1].take(DELETE) is None and not os.path.exists(path)


def test_nothing_is_written_where_nothing_is_mounted(servers: list[Server]) -> None:
    servers[0].host.mounted.clear()
    assert isinstance(servers[0].take(CREATE), NotAnswering)
    assert os.listdir(Path(servers[0].places.path("nas"), "VirtualDisks")) == []
    with pytest.raises(NotAnswering):
        servers[0].places._storage.forget()
        servers[0].found()


def test_an_image_that_was_given_up_is_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def given_up() -> None:
        raise NotAnswering("was given up")

    monkeypatch.setattr(image_files, "require_wanted", given_up)
    with pytest.raises(NotAnswering):
        image_files.create_empty(str(tmp_path / "disk.img"), "raw", 1 << 20, False)
    assert os.listdir(tmp_path) == []
