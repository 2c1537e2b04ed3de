"""libvirt gone, and applies killed: a clear error, and the next apply mends what is half made."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.lab import Document, Lab
from tests.support.private_libvirtd import PrivateLibvirtd

pytestmark = pytest.mark.libvirt

MACHINE_SOCKET = Path("/run/libvirt/libvirt-sock")


# Killed between the deletions of an image and of its note, the note stays: the next image of that name replaces it. Killed before the
# deletion of the seed that a stopped VM had, the seed stays until the VM starts.
MAY_STAY = {"create": "nothing", "change": "fault-two-cloud-init-", "delete": ".domus/virtual_disk/"}


def vm(name: str, **fields: Any) -> dict[str, Any]:
    """A small VM that stops at once."""
    return {"name": name, "memory": "64MiB", "machine": "pc", "virtualization": "qemu", "force_stop": True, "stop_timeout": 0, **fields}


def site_of(lab: Lab) -> Document:
    """A network, a repository, a template, thin, sparse and full disks, and two VMs with cloud-init that run."""
    disks = [
        {"name": "root", "template": "base"},
        {"name": "copy", "template": "base", "clone": "full", "size": "6MiB"},
        {"name": "data", "repository": "main", "size": "4MiB", "sparse": False},
    ]
    nics = [{"name": "eth0", "network": "fault-lan"}]
    ones = [vm("fault-one", disks=disks, nics=nics), vm("fault-two", disks=disks[:1], nics=nics)]
    cloud = {"user_data": "#cloud-config\n{}\n", "network_config": "version: 2\n"}
    return {
        "site": "fault",
        "servers": [{"name": "here", "virtualization": "qemu"}],
        "networks": [{"name": "fault-lan", "subnet": "198.18.77.0/24", "dhcp": {"start": "198.18.77.100", "end": "198.18.77.200"}}],
        "repositories": [{"name": "main", "path": str(lab.repository)}],
        "templates": [{"name": "base", "image": "main/base.qcow2"}],
        "virtual_disks": [{"name": "spare", "repository": "main", "size": "2MiB", "format": "raw"}],
        "vms": [{**one, "cloud_init": cloud, "autostart": True, "state": "running"} for one in ones],
    }


def changed(document: Document) -> Document:
    """The same site with a change of every sort: live, at restart, a device more, another seed, less and more."""
    other: Document = json.loads(json.dumps(document))  # unlike a deep copy, this shares nothing within
    one, two = other["vms"]
    one["disks"][0]["size"] = "8MiB"
    one["disks"].append({"name": "more", "repository": "main", "size": "1MiB"})
    one["nics"].append({"name": "eth1", "network": "fault-lan"})
    one.update(memory="48MiB", description="changed", cloud_init={"user_data": "#cloud-config\n{other: 1}\n"}, tags=["x"])
    two.update(state="stopped", cloud_init={"user_data": "#cloud-config\n{third: 1}\n"}, cpus_max=3)
    two["disks"][0]["size"] = "5MiB"
    other["virtual_disks"][0]["size"] = "3MiB"
    other["networks"][0]["dns"] = {"hosts": [{"address": "198.18.77.9", "name": "nine"}]}
    return other


def without_vms(document: Document) -> Document:
    """Everything gone but the repository and what a person put there."""
    gone = {"state": "absent"}
    return {
        "site": "fault",
        "networks": [{"name": "fault-lan", **gone}],
        "templates": [{"name": "base", **gone}],
        "virtual_disks": [{"name": "spare", "repository": "main", **gone}],
        "vms": [{"name": name, "delete_disks": True, **gone} for name in ("fault-one", "fault-two")],
    }


@pytest.fixture
def document(lab: Lab) -> Document:
    """The site, with the image of its template in place."""
    put_image(lab)
    return site_of(lab)


def put_image(lab: Lab) -> None:
    """The image that the template is made of."""
    folder = lab.repository / "Templates"
    folder.mkdir(mode=0o711, parents=True, exist_ok=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(folder / "base.qcow2"), "4M"], check=True)


def identity(path: Path) -> tuple[int, int] | None:
    return (path.stat().st_ino, path.stat().st_ctime_ns) if path.exists() else None


def test_the_private_libvirtd_leaves_the_machines_alone(private_libvirtd: PrivateLibvirtd, lab: Lab, document: Document) -> None:
    before = identity(MACHINE_SOCKET), machine_libvirtds(private_libvirtd)
    lab.succeed(document)
    seen = subprocess.run(["virsh", "-c", "qemu:///system", "list", "--all", "--name"], capture_output=True, text=True, check=False).stdout.split()
    assert lab.domains() == {"fault-one": "running", "fault-two": "running"}
    assert not {"fault-one", "fault-two"} & set(seen)
    assert "198.18.77.1" not in subprocess.run(["ip", "address"], capture_output=True, text=True, check=True).stdout
    private_libvirtd.kill()
    private_libvirtd.start()
    assert lab.domains() == {"fault-one": "running", "fault-two": "running"}, "the guests outlive libvirtd"
    assert (identity(MACHINE_SOCKET), machine_libvirtds(private_libvirtd)) == before


def machine_libvirtds(private: PrivateLibvirtd) -> set[int]:
    names = {int(entry): Path(f"/proc/{entry}/comm") for entry in os.listdir("/proc") if entry.isdigit()}
    return {pid for pid, comm in names.items() if comm.exists() and comm.read_text() == "libvirtd\n"} - set(private.processes("libvirtd"))


def test_libvirtd_stopped_before_an_apply(lab: Lab, document: Document) -> None:
    before = lab.files()
    lab.libvirtd.stop()
    outcome = lab.work(document)
    assert outcome["error"]["code"] == "unreachable"
    assert "libvirt does not answer" in outcome["text"] and "Is it running? systemctl status libvirtd" in outcome["text"]
    assert lab.files() == before
    lab.libvirtd.start()
    assert lab.domains() == {}
    lab.mend(document)


@pytest.mark.parametrize("moment", ["while reading", 4, 9, 11, 12])
def test_libvirtd_killed_during_an_apply(lab: Lab, document: Document, moment: Any) -> None:
    outcome = lab.work(document, kill_libvirtd=moment, libvirtds=lab.libvirtd.processes("libvirtd"))
    assert not lab.libvirtd.is_running()
    assert ("error" in outcome) == (moment == "while reading"), "what was done before must be told"
    errors = [outcome["error"]] if "error" in outcome else outcome["errors"]
    assert errors and {error["code"] for error in errors} <= {"unreachable", "conflict"}, errors
    for error in errors:
        assert "systemctl status libvirtd" in error["remedy"] or "which failed" in error["message"], error
    lab.libvirtd.start()
    lab.mend(document)
    assert lab.domains() == {"fault-one": "running", "fault-two": "running"}


def test_an_apply_killed_before_each_step(lab: Lab, document: Document) -> None:
    steps = lab.succeed(document)["steps"]
    assert steps >= 12
    change = changed(document)
    change_steps = lab.succeed(change)["steps"]
    assert change_steps >= 6
    for phase, wanted, start, count in (("create", document, None, steps), ("change", change, document, change_steps)):
        for number in range(1, count + 1):
            prepare(lab, start)
            die(lab, wanted, before_step=number)
            lab.mend(wanted, may_stay=MAY_STAY[phase])


@pytest.mark.parametrize("phase", ["create", "change", "delete"])
def test_an_apply_killed_inside_its_steps(lab: Lab, document: Document, phase: str) -> None:
    start, wanted = {"create": (None, document), "change": (document, changed(document)), "delete": (changed(document), without_vms(document))}[phase]
    prepare(lab, start)
    calls = lab.succeed(wanted, at_call=0)["calls"]
    chosen = random.Random(phase)
    points = 3
    for part in range(points):
        prepare(lab, start)
        die(lab, wanted, at_call=int((part + chosen.random()) * calls / points) + 1)
        lab.mend(wanted, may_stay=MAY_STAY[phase])
    assert set(lab.domains()) == (set() if phase == "delete" else {"fault-one", "fault-two"})


HALF_MADE = [
    ("create", "_create"),
    ("create", "_lock"),
    ("create", "_write"),
    ("create", "make_seed"),
    ("create", "_define"),
    ("change", "change_running"),
    ("change", "make_seed"),
    ("change", "_define"),
]


@pytest.mark.parametrize(("phase", "function"), HALF_MADE)
def test_an_apply_killed_with_something_half_made(lab: Lab, document: Document, phase: str, function: str) -> None:
    if phase == "change":
        lab.succeed(document)
    wanted = document if phase == "create" else changed(document)
    die(lab, wanted, after=function)
    lab.mend(wanted, may_stay=MAY_STAY[phase])
    for entry in wanted["vms"]:
        entry["state"] = "running"
    lab.mend(wanted)


def test_an_apply_killed_at_any_time(lab: Lab, document: Document) -> None:
    begun = time.monotonic()
    lab.succeed(document)
    whole = time.monotonic() - begun
    chosen = random.Random(1)
    for part in range(4):
        prepare(lab, None)
        process = lab.begin(document)
        time.sleep(whole * (part + chosen.random()) / 4)
        process.kill()
        process.communicate()
        lab.outlive(process)
        lab.mend(document)


def prepare(lab: Lab, start: Document | None) -> None:
    lab.clear()
    put_image(lab)
    if start is not None:
        lab.succeed(start)


def die(lab: Lab, document: Document, **when: int) -> None:
    process = lab.begin(document, **when)
    process.communicate(timeout=60)
    # A call may not come again, when threads took turns in another way.
    assert process.returncode == -9 or "at_call" in when, f"{when}: {process.returncode}"
    lab.outlive(process)
