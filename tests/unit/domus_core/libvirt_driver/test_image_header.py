"""Headers agree with QEMU's own reading of them, and no file content raises anything but an error of ours."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import socket
import struct
import subprocess
from pathlib import Path

import pytest
from domus_core.errors import DomusError, InvalidSpec, NotFound
from domus_core.libvirt_driver.image_header import ImageHeader, inspect
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

MIB = 1 << 20
IN_ONE_FOLDER = settings(max_examples=300, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def qemu_img() -> None:
    assert shutil.which("qemu-img"), "qemu-img is missing: apt-get install qemu-utils"


def make(path: Path, *options: str, format: str = "qcow2", size: int = 10 * MIB) -> Path:
    command = ("qemu-img", "create", "-q", "-f", format, *options, str(path), str(size))
    for _ in range(10):
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        # LUKS measures how fast the processor is, and gives up on a busy one.
        if "Unable to get accurate CPU usage" not in done.stderr:
            break
    assert done.returncode == 0, done.stderr
    return path


def as_qemu_reads(path: Path) -> ImageHeader | None:
    """The header as qemu-img tells it, None when qemu-img refuses the image."""
    done = subprocess.run(("qemu-img", "info", "-f", "qcow2", "--output", "json", str(path)), capture_output=True, check=False)
    if done.returncode:
        return None
    told = json.loads(done.stdout.decode("utf-8", "surrogateescape"))
    return ImageHeader(
        told["format"],
        told["virtual-size"],
        told.get("backing-filename"),
        told.get("backing-filename-format"),
        told["format-specific"]["data"].get("data-file"),
        told.get("encrypted", False),
    )


def change(image: Path, *changes: tuple[int, bytes]) -> None:
    content = bytearray(image.read_bytes())
    for offset, data in changes:
        content[offset : offset + len(data)] = data
    image.write_bytes(content)


COMBINATIONS = list(
    itertools.product(
        ("compat=0.10", "compat=1.1", "compat=1.1,compression_type=zstd", "compat=1.1,lazy_refcounts=on,refcount_bits=1"),
        ("cluster_size=512", "cluster_size=65536", "cluster_size=2097152"),
        ("preallocation=off", "preallocation=metadata"),
        (0, 512, 10 * MIB, 40 * 1024 * MIB),
        ("", "raw", "qcow2"),
    )
)


@pytest.mark.parametrize(("version", "cluster", "preallocation"), sorted({row[:3] for row in COMBINATIONS}))
def test_headers_made_by_qemu_agree_with_qemu(version: str, cluster: str, preallocation: str, tmp_path: Path) -> None:
    make(tmp_path / "base.raw", format="raw")
    make(tmp_path / "base.qcow2")
    for size, backing in sorted({row[3:] for row in COMBINATIONS}):
        if preallocation == "preallocation=metadata" and (size > 10 * MIB or backing):
            continue
        if cluster == "cluster_size=512" and size > 10 * MIB:
            continue
        options = ["-o", f"{version},{cluster},{preallocation}"]
        if backing:
            options += ["-b", str(tmp_path / f"base.{backing}"), "-F", backing]
        image = make(tmp_path / "image", *options, size=size)
        header = inspect(str(image))
        assert header == as_qemu_reads(image)
        assert (header.virtual_size, header.backing_format) == (size, backing or None)


def test_extended_l2_entries_agree_with_qemu(tmp_path: Path) -> None:
    image = make(tmp_path / "image", "-o", "extended_l2=on,cluster_size=16384", size=1024 * MIB)
    assert inspect(str(image)) == as_qemu_reads(image)
    change(image, (24, struct.pack(">Q", 1025 * MIB)))
    assert as_qemu_reads(image) is None
    with pytest.raises(InvalidSpec, match="impossible size"):
        inspect(str(image))


@pytest.mark.parametrize("name", ["b", "x" * 200, "with space", "ключ", "a,b=c", '"quoted"', "-dash", "json:{}", "nbd:unix:/s"])
def test_backing_names_agree_with_qemu(name: str, tmp_path: Path) -> None:
    image = make(tmp_path / "image", "-u", "-b", name, "-F", "raw")
    assert inspect(str(image)) == as_qemu_reads(image)
    assert inspect(str(image)).backing == name


def test_a_data_file_is_told(tmp_path: Path) -> None:
    image = make(tmp_path / "image", "-o", f"data_file={tmp_path}/data")
    assert inspect(str(image)) == as_qemu_reads(image)
    content = bytearray(image.read_bytes())
    place = content.index(struct.pack(">I", 0x44415441))
    content[place : place + 4] = b"XXXX"
    image.write_bytes(content)
    assert inspect(str(image)).data_file == ""


def test_encryption_is_told(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("abc")
    secret = ("--object", f"secret,id=key,file={tmp_path}/key")
    image = make(tmp_path / "image", *secret, "-o", "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10")
    assert inspect(str(image)).encrypted
    image = make(tmp_path / "luks", *secret, "-o", "key-secret=key,iter-time=10", format="luks")
    assert (inspect(str(image)).format, inspect(str(image)).encrypted) == ("luks", True)


@pytest.mark.parametrize("format", ["qcow", "qed", "vmdk", "vdi", "vhdx", "vpc", "parallels"])
def test_other_formats_are_known_by_name(format: str, tmp_path: Path) -> None:
    assert inspect(str(make(tmp_path / "image", format=format))).format == format


@pytest.mark.parametrize(
    "text", [b"version=1\n", b"# Disk DescriptorFile\nversion=3\n", b"#x\n  \r\n#y\nversion=2\r\nRW 1 FLAT", b"#" * 400 + b"\nversion=1\n"]
)
def test_a_text_that_qemu_takes_for_vmdk_is_vmdk(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(text + bytes(MIB))
    assert inspect(str(tmp_path / "image")).format == "vmdk"


@pytest.mark.parametrize("length", [0, 1, 511, 512, 513, 4096, 1_000_000])
def test_raw_has_the_size_that_qemu_sees(length: int, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(b"QF" * (length // 2) + b"x" * (length % 2))
    done = subprocess.run(("qemu-img", "info", "-f", "raw", "--output", "json", str(tmp_path / "image")), capture_output=True, check=True)
    assert inspect(str(tmp_path / "image")) == ImageHeader("raw", json.loads(done.stdout)["virtual-size"])


def test_a_far_backing_name_is_found(tmp_path: Path) -> None:
    image = make(tmp_path / "image", "-u", "-b", "near", "-F", "raw")
    change(image, (60000, b"far"), (8, struct.pack(">QI", 60000, 3)))
    assert inspect(str(image)) == as_qemu_reads(image)
    assert inspect(str(image)).backing == "far"


def test_a_backing_name_is_not_read_as_an_extension(tmp_path: Path) -> None:
    image = make(tmp_path / "image")
    change(image, (100, struct.pack(">I", 104)), (104, b"x" * 40), (8, struct.pack(">QI", 104, 40)))
    assert inspect(str(image)) == as_qemu_reads(image)
    assert inspect(str(image)).backing == "x" * 40


@pytest.mark.parametrize(
    ("changes", "length"),
    [
        pytest.param([(20, struct.pack(">I", 8))], 200000, id="tiny clusters"),
        pytest.param([(20, struct.pack(">I", 22))], 200000, id="huge clusters"),
        pytest.param([], 114, id="extension cut off"),
        pytest.param([(112, struct.pack(">II", 0xE2792ACA, 4))], 122, id="backing format cut off"),
        pytest.param([(8, struct.pack(">QI", 512, 4)), (512, b"base")], 514, id="backing name cut off"),
    ],
)
def test_an_image_without_table_is_checked_too(changes: list[tuple[int, bytes]], length: int, tmp_path: Path) -> None:
    image = make(tmp_path / "image")
    no_table = [(24, bytes(8)), (36, bytes(12))]
    change(image, *no_table)
    assert inspect(str(image)).virtual_size == 0
    change(image, *changes)
    os.truncate(image, length)
    with pytest.raises(InvalidSpec):
        inspect(str(image))


@pytest.mark.parametrize("length", [4, 8, 71, 72, 103, 104, 110, 150, 513, 65536, 196608, 196615])
def test_a_truncated_image_is_refused(length: int, tmp_path: Path) -> None:
    image = make(tmp_path / "image", "-u", "-b", "x" * 300, "-F", "raw")
    os.truncate(image, length)
    with pytest.raises(InvalidSpec):
        inspect(str(image))


@pytest.mark.parametrize(
    ("offset", "data"),
    [
        pytest.param(4, struct.pack(">I", 0), id="version 0"),
        pytest.param(4, struct.pack(">I", 4), id="version 4"),
        pytest.param(8, struct.pack(">QI", 65537, 0), id="backing name after the cluster"),
        pytest.param(8, struct.pack(">QI", 65530, 10), id="backing name across the cluster"),
        pytest.param(8, struct.pack(">QI", 1024, 1024), id="long backing name"),
        pytest.param(8, struct.pack(">QI", 2**64 - 1, 2**32 - 1), id="backing name at the end of the world"),
        pytest.param(8, struct.pack(">QI", 512, 4), id="backing name with NUL"),
        pytest.param(20, struct.pack(">I", 8), id="tiny clusters"),
        pytest.param(20, struct.pack(">I", 22), id="huge clusters"),
        pytest.param(20, struct.pack(">I", 2**32 - 1), id="endless clusters"),
        pytest.param(24, struct.pack(">Q", 2**63), id="negative size"),
        pytest.param(24, struct.pack(">Q", 2**50), id="size without table"),
        pytest.param(32, struct.pack(">I", 3), id="unknown encryption"),
        pytest.param(36, struct.pack(">I", 2**31), id="endless table"),
        pytest.param(40, struct.pack(">Q", 2**62), id="table outside"),
        pytest.param(40, struct.pack(">Q", 1000), id="table not aligned"),
        pytest.param(72, struct.pack(">Q", 1 << 5), id="unknown feature"),
        pytest.param(72, struct.pack(">Q", 1 << 63), id="far unknown feature"),
        pytest.param(100, struct.pack(">I", 72), id="short header"),
        pytest.param(100, struct.pack(">I", 65537), id="long header"),
        pytest.param(112, struct.pack(">II", 0x12345678, 2**32 - 1), id="long extension"),
        pytest.param(112, struct.pack(">II", 0xE2792ACA, 16) + b"x" * 16, id="long backing format"),
        pytest.param(112, struct.pack(">II", 0xE2792ACA, 8), id="backing format with NUL"),
    ],
)
def test_an_absurd_header_is_refused(offset: int, data: bytes, tmp_path: Path) -> None:
    image = make(tmp_path / "image")
    change(image, (120, bytes(60)), (offset, data))
    with pytest.raises(InvalidSpec) as caught:
        inspect(str(image))
    assert caught.value.value == str(image)


def test_what_is_no_image_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(make(tmp_path / "image"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    for name in ("fifo", "link", ".", "x" * 300, "nul\0", "\ud800"):
        with pytest.raises(InvalidSpec):
            inspect(str(tmp_path / name))
    with pytest.raises(InvalidSpec):
        inspect("/dev/null")
    with pytest.raises(DomusError):
        inspect(str(tmp_path / "socket"))
    for name in ("missing", "image/below"):
        with pytest.raises(NotFound):
            inspect(str(tmp_path / name))


@IN_ONE_FOLDER
@given(content=st.one_of(st.binary(max_size=600), st.binary(max_size=600).map(lambda data: b"QFI\xfb\0\0\0\3" + data)))
def test_random_bytes_raise_only_our_errors(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(content)
    try:
        header = inspect(str(tmp_path / "image"))
    except DomusError:
        return
    assert header.format != "qcow2" or content.startswith(b"QFI\xfb")


INTERESTING = st.sampled_from([0, 1, 2, 3, 7, 8, 9, 16, 21, 72, 104, 112, 255, 512, 1023, 65535, 65536, 65537, 2**31, 2**32 - 1])


@settings(IN_ONE_FOLDER, max_examples=80)
@example(changes=[(3, 0)])
@example(changes=[(30, 4294967295)])
@given(changes=st.lists(st.tuples(st.integers(1, 150), st.one_of(INTERESTING, st.integers(0, 2**32 - 1))), min_size=1, max_size=3))
def test_what_qemu_opens_of_a_changed_header_is_read_alike_or_refused(changes: list[tuple[int, int]], tmp_path: Path) -> None:
    image = tmp_path / "image"
    if not image.exists():
        make(tmp_path / "pattern", "-u", "-b", "base.qcow2", "-F", "qcow2", "-o", "cluster_size=4096")
    content = bytearray((tmp_path / "pattern").read_bytes())
    for position, number in changes:
        struct.pack_into(">I", content, position * 4, number)
    image.write_bytes(content)
    try:
        header = inspect(str(image))
    except DomusError:
        return
    seen = as_qemu_reads(image)
    # qemu-img prints a name that is not UTF-8 in another way than Python reads it
    if seen is not None and header.data_file is None and f"{header.backing}{header.backing_format}".isascii():
        assert (header.backing, header.backing_format, seen.data_file) == (seen.backing, seen.backing_format, None)
        assert header.virtual_size // 512 * 512 == seen.virtual_size
