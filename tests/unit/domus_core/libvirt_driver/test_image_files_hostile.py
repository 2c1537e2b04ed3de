"""Images that would make QEMU open what it must not are refused, and harmless ones are not."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from domus_core.errors import Conflict, InvalidSpec, NotFound
from domus_core.libvirt_driver.image_files import check_safe
from domus_core.libvirt_driver.image_header import inspect

MIB = 1 << 20
DATA_FILE = 1 << 2


def qcow2(path: Path, backing: str = "", backing_format: str = "", data_file: str = "", crypt: int = 0, features: int = 0) -> str:
    """Write the smallest qcow2 image of 1 MiB, referring to whatever one likes."""
    told = b""
    for kind, text in ((0xE2792ACA, backing_format), (0x44415441, data_file or "")):
        if text:
            data = os.fsencode(text)
            told += struct.pack(">II", kind, len(data)) + data.ljust(-(-len(data) // 8) * 8, b"\0")
    told += bytes(8)
    name = os.fsencode(backing)
    offset = 104 + len(told) if backing else 0
    fields = (b"QFI\xfb", 3, offset, len(name), 16, MIB, crypt, 1, 0x30000, 0x10000, 1, 0, 0, features, 0, 0, 4, 104)
    header = struct.pack(">4sIQIIQIIQQIIQQQQII", *fields) + told + name
    path.write_bytes(header.ljust(0x30000, b"\0") + bytes(8))
    return str(path)


def with_content(path: Path, content: bytes) -> str:
    path.write_bytes(content.ljust(MIB, b"\0"))
    return str(path)


def chain(folder: Path, length: int) -> str:
    with_content(folder / "0", b"")
    for number in range(1, length + 1):
        qcow2(folder / str(number), str(number - 1), "qcow2" if number > 1 else "raw")
    return str(folder / str(length))


def linked(link: Path, target: str) -> Path:
    link.symlink_to(target)
    return link


def nested(folder: Path, backing: str, backing_format: str) -> str:
    qcow2(folder / "middle", backing, backing_format)
    return qcow2(folder / "image", "middle", "qcow2")


def loop(folder: Path) -> str:
    qcow2(folder / "one", "two", "qcow2")
    return qcow2(folder / "two", "one", "qcow2")


def fifo(folder: Path) -> str:
    os.mkfifo(folder / "fifo")
    return str(folder / "fifo")


def backing_fifo(folder: Path) -> str:
    return qcow2(folder / "image", fifo(folder), "raw")


def folder_link(folder: Path) -> str:
    linked(folder / "inside", "/etc")
    return qcow2(folder / "image", "inside/hostname", "raw")


def neighbour(folder: Path) -> str:
    beside = Path(f"{folder}-beside")
    beside.mkdir()
    return qcow2(folder / "image", with_content(beside / "disk", b""), "raw")


def relative_by_link(folder: Path) -> str:
    """QEMU reads the relative name from the folder of the link, where it is a link to the outside."""
    (folder / "a").mkdir()
    (folder / "b").mkdir()
    linked(folder / "a" / "base", "/etc/hostname")
    with_content(folder / "b" / "base", b"")
    qcow2(folder / "b" / "middle", "base", "raw")
    linked(folder / "a" / "middle", "../b/middle")
    return qcow2(folder / "image", "a/middle", "qcow2")


def decoy(folder: Path) -> str:
    """A file that only looks as if it were the one that QEMU would open."""
    (folder / "file:" / "etc").mkdir(parents=True)
    with_content(folder / "file:" / "etc" / "hostname", b"")
    return qcow2(folder / "image", "file:/etc/hostname", "raw")


def truncated(path: str, length: int) -> str:
    os.truncate(path, length)
    return path


HOSTILE: dict[str, tuple[str, Callable[[Path], str]]] = {
    "backing outside": ("qcow2", lambda f: qcow2(f / "image", "/etc/hostname", "raw")),
    "backing device": ("qcow2", lambda f: qcow2(f / "image", "/dev/zero", "raw")),
    "backing process file": ("qcow2", lambda f: qcow2(f / "image", "/proc/self/environ", "raw")),
    "backing above": ("qcow2", lambda f: qcow2(f / "image", "../../../../../../../../etc/hostname", "raw")),
    "backing down and up": ("qcow2", lambda f: qcow2(f / "image", f"{f}/../../../../../../../etc/hostname", "raw")),
    "backing by link": ("qcow2", lambda f: qcow2(f / "image", str(linked(f / "link", "/etc/hostname")), "raw")),
    "backing by folder link": ("qcow2", folder_link),
    "backing in a folder with the same beginning": ("qcow2", neighbour),
    "backing is the folder": ("qcow2", lambda f: qcow2(f / "image", ".", "raw")),
    "backing is a fifo": ("qcow2", backing_fifo),
    "backing is missing": ("qcow2", lambda f: qcow2(f / "image", "missing", "raw")),
    "backing without format": ("qcow2", lambda f: qcow2(f / "image", with_content(f / "base", b""))),
    "backing with other format": ("qcow2", lambda f: qcow2(f / "image", with_content(f / "base", b""), "vmdk")),
    "backing format without backing magic": ("qcow2", lambda f: qcow2(f / "image", with_content(f / "base", b""), "qcow2")),
    "backing said raw is qcow2": ("qcow2", lambda f: qcow2(f / "image", qcow2(f / "base"), "raw")),
    "json backing": ("qcow2", lambda f: qcow2(f / "image", 'json:{"driver":"raw","file":{"driver":"file","filename":"/etc/hostname"}}', "raw")),
    "file: backing": ("qcow2", decoy),
    "nbd backing": ("qcow2", lambda f: qcow2(f / "image", "nbd://198.51.100.1/disk", "raw")),
    "nbd socket backing": ("qcow2", lambda f: qcow2(f / "image", "nbd:unix:/run/socket", "raw")),
    "http backing": ("qcow2", lambda f: qcow2(f / "image", "http://198.51.100.1/disk", "qcow2")),
    "fat: backing": ("qcow2", lambda f: qcow2(f / "image", "fat:rw:/etc", "raw")),
    "backing of the backing outside": ("qcow2", lambda f: nested(f, "/etc/hostname", "raw")),
    "backing of the backing without format": ("qcow2", lambda f: nested(f, "image", "")),
    "backing of the backing has a data file": (
        "qcow2",
        lambda f: qcow2(f / "image", qcow2(f / "base", data_file="/etc/hostname", features=DATA_FILE), "qcow2"),
    ),
    "relative backing by link": ("qcow2", relative_by_link),
    "loop of two": ("qcow2", loop),
    "loop of one": ("qcow2", lambda f: qcow2(f / "image", "image", "qcow2")),
    "loop by link": ("qcow2", lambda f: qcow2(f / "image", str(linked(f / "link", "image")), "qcow2")),
    "endless links": ("qcow2", lambda f: qcow2(f / "image", str(linked(f / "link", "link")), "qcow2")),
    "deep chain": ("qcow2", lambda f: chain(f, 33)),
    "data file": ("qcow2", lambda f: qcow2(f / "image", data_file="/etc/hostname", features=DATA_FILE)),
    "nameless data file": ("qcow2", lambda f: qcow2(f / "image", features=DATA_FILE)),
    "data file without its feature": ("qcow2", lambda f: qcow2(f / "image", data_file="/etc/hostname")),
    "old encryption": ("qcow2", lambda f: qcow2(f / "image", crypt=1)),
    "encryption": ("qcow2", lambda f: qcow2(f / "image", crypt=2)),
    "unknown encryption": ("qcow2", lambda f: qcow2(f / "image", crypt=9)),
    "unknown feature": ("qcow2", lambda f: qcow2(f / "image", features=1 << 40)),
    "truncated header": ("qcow2", lambda f: truncated(qcow2(f / "image"), 60)),
    "truncated table": ("qcow2", lambda f: truncated(qcow2(f / "image"), 0x30000)),
    "raw that is qcow2": ("raw", lambda f: qcow2(f / "image", "/etc/hostname", "raw")),
    "raw that is old qcow": ("raw", lambda f: with_content(f / "image", b"QFI\xfb\0\0\0\1")),
    "raw that is vmdk": ("raw", lambda f: with_content(f / "image", b'# Disk DescriptorFile\nversion=1\nRW 1 FLAT "/etc/hostname" 0\n')),
    "raw that is vdi": ("raw", lambda f: with_content(f / "image", bytes(64) + b"\x7f\x10\xda\xbe")),
    "raw that is vhdx": ("raw", lambda f: with_content(f / "image", b"vhdxfile")),
    "raw that is qed": ("raw", lambda f: with_content(f / "image", b"QED\0")),
    "qcow2 that is raw": ("qcow2", lambda f: with_content(f / "image", b"")),
    "qcow2 that is vmdk": ("qcow2", lambda f: with_content(f / "image", b"KDMV")),
    "empty qcow2": ("qcow2", lambda f: truncated(with_content(f / "image", b""), 0)),
    "unknown format wanted": ("vmdk", lambda f: with_content(f / "image", b"KDMV")),
    "link": ("raw", lambda f: str(linked(f / "image", "/etc/hostname"))),
    "fifo": ("raw", fifo),
    "folder": ("raw", str),
    "character device": ("raw", lambda f: "/dev/zero"),
    "missing": ("raw", lambda f: str(f / "image")),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_image_is_refused(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    folder.mkdir()
    expected_format, make = HOSTILE[name]
    path = make(folder)
    with pytest.raises((Conflict, InvalidSpec, NotFound)) as caught:
        check_safe(path, expected_format=expected_format, allowed_directories=[str(folder)])
    assert caught.value.value
    assert caught.value.remedy or not isinstance(caught.value, Conflict)


def test_harmless_images_are_accepted(tmp_path: Path) -> None:
    folder, other = tmp_path / "repository", tmp_path / "templates"
    folder.mkdir()
    (folder / "sub").mkdir()
    other.mkdir()
    linked(tmp_path / "by-link", "templates")
    harmless = [
        ("raw", with_content(folder / "raw", b"anything: else")),
        ("raw", with_content(folder / "guest-luks", b"LUKS\xba\xbe")),
        ("qcow2", qcow2(folder / "plain")),
        ("qcow2", qcow2(folder / "beside", "raw", "raw")),
        ("qcow2", qcow2(folder / "colon", str(with_content(folder / "a:b", b"")), "raw")),
        ("qcow2", qcow2(folder / "sub" / "above", "../raw", "raw")),
        ("qcow2", qcow2(folder / "elsewhere", with_content(other / "base", b""), "raw")),
        ("qcow2", qcow2(folder / "linked", str(linked(folder / "link", "../templates/base")), "raw")),
        ("qcow2", chain(folder, 32)),
    ]
    for expected_format, path in harmless:
        header = check_safe(path, expected_format=expected_format, allowed_directories=[str(folder), str(tmp_path / "by-link")])
        assert header == inspect(path)


def test_the_crafted_images_are_what_qemu_would_open(tmp_path: Path) -> None:
    assert shutil.which("qemu-img"), "qemu-img is missing: apt-get install qemu-utils"
    base = with_content(tmp_path / "base", b"secret")
    path = qcow2(tmp_path / "image", base, "raw")
    subprocess.run(("qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", path, base), check=True)
    with pytest.raises(Conflict, match="outside the repository"):
        check_safe(path, expected_format="qcow2", allowed_directories=["/var/lib/domus"])
