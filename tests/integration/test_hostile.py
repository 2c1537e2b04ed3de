"""Hostile images, names and links: refused before anything is touched, never followed, never an option of a tool."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from domus_core.errors import DomusError, InvalidSpec
from domus_core.libvirt_driver import image_files, tools
from domus_core.model.document import parse_document

from tests.support.lab import Document, Lab
from tests.unit.domus_core.libvirt_driver.test_image_files_hostile import HOSTILE

from .test_faults import vm

pytestmark = pytest.mark.libvirt

EXTENSIONS = {"qcow2": "qcow2", "raw": "img"}


def base(lab: Lab, **sections: Any) -> Document:
    """A document on the lab's repository."""
    return {
        "site": "fault",
        "servers": [{"name": "here", "virtualization": "qemu"}],
        "repositories": [{"name": "main", "path": str(lab.repository)}],
        **sections,
    }


def links_to_outside(folder: Path) -> str:
    (folder / "link").symlink_to("/etc/hostname")
    return str(folder / "link")


def folder(folder: Path) -> str:
    (folder / "folder").mkdir()
    return str(folder / "folder")


def converted(format: str) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        subprocess.run(["qemu-img", "create", "-q", "-f", format, str(folder / "converted"), "1M"], check=True)
        return str(folder / "converted")

    return make


# These are no files in a Templates folder, or harmless there.
NOT_HERE = {"backing in a folder with the same beginning", "unknown format wanted", "folder", "character device", "missing"}
IMAGES: dict[str, tuple[str, Callable[[Path], str]]] = {
    **{name: image for name, image in HOSTILE.items() if name not in NOT_HERE},
    "a link to the outside": ("raw", links_to_outside),
    "a folder": ("raw", folder),
    **{f"a real {format}": ("raw", converted(format)) for format in ("vmdk", "vdi", "vhdx", "qed", "qcow")},
}


def test_there_are_enough_hostile_images() -> None:
    assert len(IMAGES) >= 30


def place(lab: Lab, name: str) -> str:
    """Put the image into the Templates folder and return its reference."""
    expected, build = IMAGES[name]
    folder = lab.repository / "Templates"
    path = build(folder)
    named = folder / f"hostile.{EXTENSIONS[expected]}"
    if os.path.isfile(path) and not os.path.islink(path):
        os.link(path, named)  # what refers to it by its first name still does
    else:
        os.rename(path, named)
    return f"main/{named.name}"


@pytest.mark.parametrize("name", IMAGES)
def test_a_hostile_image_is_refused_before_anything_is_touched(lab: Lab, name: str) -> None:
    lab.apply(base(lab))
    image = place(lab, name)
    deep = image.replace("/", "/Templates/")
    documents = {
        "template": base(lab, templates=[{"name": "base", "image": image}]),
        "disk image": base(lab, vms=[vm("fault-vm", disks=[{"name": "root", "image": image}])]),
        "disk file": base(lab, vms=[vm("fault-vm", disks=[{"name": "root", "file": deep}])]),
        "virtual disk": base(lab, virtual_disks=[{"name": "fault-disk", "repository": "main", "image": image}]),
        "kernel": base(lab, vms=[vm("fault-vm", kernel={"kernel": image})]),
    }
    before = lab.files()
    for use, document in documents.items():
        document["networks"] = [{"name": "fault-lan", "mode": "isolated"}]
        with pytest.raises(DomusError) as refused:
            lab.apply(document)
        assert refused.value.code == "conflict" and "hostile" in str(refused.value.value), f"{use}: {refused.value}"
        assert "must not be used" in refused.value.message, f"{use}: {refused.value}"
    assert lab.files() == before
    assert lab.domains() == {} and "fault-lan" not in lab.libvirtd.virsh("net-list", "--all")


def test_a_file_behind_a_linked_folder_is_refused(lab: Lab) -> None:
    """A link inside the path would lead out of the repository as well."""
    lab.apply(base(lab))
    outside = lab.directory / "outside"
    outside.mkdir()
    (outside / "disk.img").write_bytes(bytes(1 << 20))
    (lab.repository / "linked").symlink_to(outside)
    with pytest.raises(DomusError) as refused:
        lab.apply(base(lab, vms=[vm("fault-vm", disks=[{"name": "root", "file": "main/linked/disk.img"}])]))
    assert refused.value.code == "conflict" and "main/linked/disk.img" in str(refused.value.value), refused.value
    assert lab.domains() == {}


def test_an_image_that_turns_hostile_after_the_reading(lab: Lab) -> None:
    """It is looked at again when it is used."""
    document = base(lab, vms=[vm("fault-vm", disks=[{"name": "root", "image": "main/image.qcow2"}])])
    lab.apply(base(lab))
    image = lab.repository / "Templates" / "image.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(image), "1M"], check=True)
    with pytest.MonkeyPatch.context() as patch:
        real = image_files.check_safe

        def turned(path: str, **options: Any) -> Any:
            image.unlink()
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", "/etc/hostname", "-F", "raw", str(image), "1M"], check=True)
            return real(path, **options)

        patch.setattr(image_files, "check_safe", turned)
        errors = lab.apply(document).errors
    assert {error.code for error in errors} == {"conflict"} and "outside the repository" in str(errors[0]), errors
    assert not (lab.repository / "VirtualDisks" / "fault-vm-root.qcow2").exists()


def victim(lab: Lab) -> Path:
    path = lab.directory / "victim"
    path.write_bytes(b"precious" * 100000)
    path.chmod(0o640)
    return path


def as_it_was(path: Path) -> bool:
    status = path.stat()
    return path.read_bytes() == b"precious" * 100000 and stat.S_IMODE(status.st_mode) == 0o640 and status.st_uid == 0


@pytest.mark.parametrize("name", ["fault-vm-root.qcow2", ".fault-vm-root.qcow2.partial"])
def test_links_where_a_disk_is_to_be_are_not_followed(lab: Lab, name: str) -> None:
    lab.apply(base(lab))
    precious = victim(lab)
    link = lab.repository / "VirtualDisks" / name
    link.symlink_to(precious)
    document = base(lab, vms=[vm("fault-vm", disks=[{"name": "root", "repository": "main", "size": "1MiB"}], state="running")])
    errors = lab.apply(document).errors
    assert errors and {error.code for error in errors} <= {"conflict", "invalid_spec"}, errors
    assert as_it_was(precious) and link.is_symlink()
    assert not list((lab.repository / ".domus").rglob("*.json")), "it is not taken for one of ours"
    lab.apply(base(lab, vms=[{"name": "fault-vm", "state": "absent", "delete_disks": True}]))
    assert as_it_was(precious) and link.is_symlink()
    link.unlink()
    lab.mend(document)


def test_a_disk_that_has_become_a_link_is_not_followed(lab: Lab) -> None:
    """Growing, deleting: the link's target stays as it is."""
    document = base(lab, virtual_disks=[{"name": "fault-disk", "repository": "main", "size": "1MiB", "format": "raw"}])
    lab.mend(document)
    precious = victim(lab)
    path = lab.repository / "VirtualDisks" / "fault-disk.img"
    path.unlink()
    path.symlink_to(precious)
    document["virtual_disks"][0]["size"] = "4MiB"
    with pytest.raises(DomusError):
        image_files.grow(str(path), "raw", 4 << 20)
    assert lab.apply(document).errors
    assert as_it_was(precious)
    lab.apply(base(lab, virtual_disks=[{"name": "fault-disk", "repository": "main", "state": "absent"}]))
    assert as_it_was(precious)
    image_files.remove(str(path))
    assert as_it_was(precious) and not path.is_symlink()


def test_links_in_place_of_seeds_and_notes_are_not_followed(lab: Lab) -> None:
    lab.apply(base(lab))
    precious = victim(lab)
    notes = lab.repository / ".domus" / "virtual_disk"
    notes.mkdir(parents=True)
    (notes / ".fault-vm-root.json.new").symlink_to(precious)
    (lab.repository / "VirtualDisks" / ".fault-vm-cloud-init.partial").symlink_to(lab.directory)
    document = base(lab, vms=[vm("fault-vm", disks=[{"name": "root", "repository": "main", "size": "1MiB"}], cloud_init={"user_data": "x"}, state="running")])
    assert lab.apply(document).errors
    assert as_it_was(precious) and lab.state.exists()


NAMES = ["-x", "--help", "-o", "../up", "a/b", "/etc/passwd", "a\nb", "a\0b", "", ".", "..", ".hidden", "a b", "a;b", "$(id)"]
NAMES += ["`id`", "a'b", '"', "<b>", "é", "a,b", "json:{}", "x" * 64]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_a_tool_could_misread_is_refused(name: str) -> None:
    for document in (
        {"vms": [{"name": name}]},
        {"vms": [{"name": "vm", "disks": [{"name": name, "repository": "main", "size": "1MiB"}]}]},
        {"repositories": [{"name": name, "path": "/srv"}]},
        {"virtual_disks": [{"name": name, "repository": "main", "size": "1MiB"}]},
        {"templates": [{"name": name, "image": "main/a"}]},
        {"templates": [{"name": "a", "image": f"main/{name}"}]},
        {"networks": [{"name": name}]},
        {"isos": [{"name": name, "image": "main/a"}]},
    ):
        if document == {"templates": [{"name": "a", "image": f"main/{name}"}]} and len(name) == 64:
            continue  # a file may have a longer name
        with pytest.raises(InvalidSpec):
            parse_document(document)


def test_no_argument_of_a_tool_begins_with_what_a_user_wrote(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also not in a repository whose path is as odd as paths can be."""
    seen: list[list[str]] = []
    real = subprocess.Popen

    def spy(command: list[str], **options: Any) -> Any:
        seen.append(list(command))
        assert not options.get("shell")
        return real(command, **options)

    odd = lab.directory / "-o fault,file=x:y;$(touch fault)'\"&<é%s{}"
    document = base(lab, repositories=[{"name": "main", "path": str(odd)}])
    lab.apply(document)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(odd / "Templates" / "fault.qcow2"), "1M"], check=True)
    monkeypatch.setattr(tools.subprocess, "Popen", spy)
    disks = [
        {"name": "fault-thin", "image": "main/fault.qcow2", "clone": "thin"},
        {"name": "fault-full", "image": "main/fault.qcow2", "clone": "full", "size": "2MiB"},
        {"name": "fault-new", "repository": "main", "size": "1MiB", "sparse": False},
    ]
    document["vms"] = [vm("fault-vm", disks=disks, cloud_init={"user_data": "fault"}, state="running")]
    assert [str(error) for error in lab.apply(document).errors] == []
    document["vms"][0].update(state="stopped", cloud_init={"meta_data": "fault: 1\n"})
    document["vms"][0]["disks"][2]["size"] = "2MiB"
    assert [str(error) for error in lab.apply(document).errors] == []
    assert lab.plan(document) == []
    assert {Path(words[words.index("--") + 1]).name for words in seen} == {"qemu-img", "xorriso"}
    for words in seen:
        assert [word for word in words if "fault" in word and not word.startswith("/")] == []
    assert not Path("/fault").exists() and not Path("fault").exists()


@pytest.mark.parametrize("mask", [0, 0o77], ids=["open umask", "closed umask"])
def test_what_is_made_is_closed_to_others_and_open_to_qemu(lab: Lab, mask: int) -> None:
    disks = [{"name": "root", "repository": "main", "size": "1MiB"}, {"name": "raw", "repository": "main", "size": "1MiB", "format": "raw"}]
    where = lab.directory / "made" / "main"
    document = base(lab, repositories=[{"name": "main", "path": str(where)}], vms=[vm("fault-vm", disks=disks, cloud_init={"user_data": "x"}, state="running")])
    before = os.umask(mask)
    try:
        assert [str(error) for error in lab.apply(document).errors] == []
    finally:
        os.umask(before)
    for path in [where, *where.rglob("*")]:
        note = ".domus" in path.parts
        wanted = (0o755 if note else 0o711) if path.is_dir() else (0o644 if note else 0o600)
        assert oct(stat.S_IMODE(path.stat().st_mode)) == oct(wanted), path
    for path in [lab.state, *lab.state.rglob("*")]:
        assert not stat.S_IMODE(path.stat().st_mode) & 0o022, path
