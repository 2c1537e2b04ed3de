"""Disks full: where images are made, where the registry is kept, where seeds are made."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.lab import Document, Lab, remove

from .test_faults import vm

pytestmark = pytest.mark.libvirt

MIB = 1 << 20


@pytest.fixture
def small(lab: Lab) -> Iterator[Path]:
    """The root of a file system of 16 MiB, empty."""
    yield from emptied(lab, "small", "16m")


@pytest.fixture
def tiny(lab: Lab) -> Iterator[Path]:
    """The root of a file system of 1 MiB, empty."""
    yield from emptied(lab, "tiny", "1m")


def emptied(lab: Lab, name: str, size: str) -> Iterator[Path]:
    root = lab.libvirtd.directory / name
    yield root
    subprocess.run(["mount", "-o", "remount,rw", str(root)], check=True)
    lab.clear()  # a QEMU that runs keeps the room of its images
    for path in root.iterdir():
        remove(path)
    lab.libvirtd.resize(name, size)


def fill(path: Path) -> None:
    """Take all room that is left."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def on(lab: Lab, small: Path, **disk: Any) -> Document:
    """A VM with a disk in the small repository, and independent of it another VM and a network."""
    return {
        "site": "fault",
        "servers": [{"name": "here", "virtualization": "qemu"}],
        "networks": [{"name": "fault-lan", "mode": "isolated"}],
        "repositories": [{"name": "main", "path": str(lab.repository)}, {"name": "small", "path": str(small / "images")}],
        "vms": [
            vm("fault-big", disks=[{"name": "root", "repository": "small", **disk}], state="running"),
            vm("fault-other", disks=[{"name": "root", "repository": "main", "size": "1MiB"}], nics=[{"name": "eth0", "network": "fault-lan"}], state="running"),
        ],
    }


def random_image(lab: Lab, size: int) -> None:
    """An image in the Templates folder that can not be stored in less than its size."""
    folder = lab.repository / "Templates"
    folder.mkdir(mode=0o711, exist_ok=True)
    (folder / "full.raw").write_bytes(os.urandom(size))


@pytest.mark.parametrize(
    "disk",
    [
        {"size": "20MiB", "sparse": False},
        {"size": "20MiB", "sparse": False, "format": "raw"},
        {"image": "main/full.raw", "clone": "full", "size": "20MiB"},
        {"image": "main/full.raw", "clone": "sparse"},
    ],
    ids=["preallocated", "preallocated raw", "full clone", "sparse clone"],
)
def test_a_full_repository(lab: Lab, small: Path, disk: dict[str, Any]) -> None:
    random_image(lab, 18 * MIB)
    document = on(lab, small, **disk)
    outcome = lab.work(document)
    by_object = {error["object"]: error for error in outcome["errors"]}
    assert set(by_object) == {"virtual_disk small/fault-big-root", "vm fault-big"}, outcome
    full = by_object["virtual_disk small/fault-big-root"]
    assert full["code"] == "no_capacity" and "bytes are missing" in full["message"] and "Free some space" in full["remedy"], full
    assert by_object["vm fault-big"]["message"] == "needs virtual_disk small/fault-big-root, which failed"
    assert lab.domains() == {"fault-other": "running"}, "what does not need the disk went on"
    assert [str(path.relative_to(small)) for path in small.rglob("*") if path.is_file()] == [], "nothing is left"
    lab.libvirtd.resize("small", "48m")
    assert lab.apply(document).errors == []
    assert lab.plan(document) == []
    assert lab.domains() == {"fault-other": "running", "fault-big": "running"}


def test_growing_on_a_full_repository(lab: Lab, small: Path) -> None:
    """A preallocated disk that can not grow stays as it was, and grows when there is room."""
    document = on(lab, small, size="2MiB", sparse=False)
    document["vms"][0]["state"] = "stopped"
    lab.succeed(document)
    fill(small / "filler")
    document["vms"][0]["disks"].append({"name": "more", "repository": "small", "size": "1MiB", "sparse": False})
    outcome = lab.work(document)
    assert {error["code"] for error in outcome["errors"]} == {"no_capacity", "conflict"}
    (small / "filler").unlink()
    assert lab.apply(document).errors == []
    assert lab.plan(document) == []


@pytest.mark.parametrize("kind", ["full", "read only"])
def test_no_room_for_the_state(lab: Lab, tiny: Path, kind: str) -> None:
    """Where Domus can not write down what it does, it says so, and does nothing that it would not know of afterwards."""
    state = tiny / "state"
    document = on(lab, lab.directory / "other", size="1MiB")
    fill(tiny / "filler")
    lab.state = state
    if kind == "read only":
        subprocess.run(["mount", "-o", "remount,ro", str(tiny)], check=True)
    outcome = lab.work(document)
    subprocess.run(["mount", "-o", "remount,rw", str(tiny)], check=True)
    errors = outcome.get("errors") or [outcome["error"]]
    assert {error["code"] for error in errors} <= {"no_capacity", "conflict", "driver_error"}, errors
    assert not [error for error in errors if "unexpected" in error["message"]], errors
    assert any(str(state) in error["message"] + str(error.get("value")) for error in errors), errors
    assert "fault-lan" not in lab.libvirtd.virsh("net-list", "--all"), "a network that it could not write down"
    (tiny / "filler").unlink()
    assert lab.apply(document).errors == []
    assert lab.plan(document) == []


def test_no_room_for_the_seed(lab: Lab, tiny: Path) -> None:
    """The seed of a VM without disks lies in the state directory."""
    lab.state = tiny / "state"
    document = {"site": "fault", "servers": [{"name": "here", "virtualization": "qemu"}]}
    lab.succeed(document)
    document["vms"] = [vm("fault-seed", cloud_init={"user_data": "#" * 600000}, state="running"), vm("fault-other", state="running")]
    outcome = lab.work(document)
    assert [(error["object"], error["code"]) for error in outcome["errors"]] == [("vm fault-seed", "no_capacity")], outcome["errors"]
    assert lab.domains() == {"fault-other": "running"}
    assert [path for path in (tiny / "state").rglob("*") if "seed" in path.name and path.is_file()] == [], "nothing is left"
    lab.libvirtd.resize("tiny", "8m")
    assert lab.apply(document).errors == []
    assert lab.plan(document) == []
