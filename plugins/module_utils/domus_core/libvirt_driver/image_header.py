"""What a disk image file says of itself, read from its first bytes and never from what it refers to.

The layout is that of QEMU's docs/interop/qcow2.txt; the magic numbers are those by which QEMU 7.2 (block/*.c) probes.
"""

from __future__ import annotations

import os
import re
import stat
import struct
from dataclasses import dataclass
from typing import NoReturn

from ..errors import InvalidSpec
from .tools import explain

SECTOR = 512
FIRST_READ = 4096

_MAGICS = (
    (0, b"QFI\xfb", "qcow2"),
    (0, b"QED\0", "qed"),
    (0, b"KDMV", "vmdk"),
    (0, b"COWD", "vmdk"),
    (64, b"\x7f\x10\xda\xbe", "vdi"),
    (0, b"vhdxfile", "vhdx"),
    (0, b"conectix", "vpc"),
    (0, b"LUKS\xba\xbe", "luks"),
    (0, b"WithoutFreeSpace", "parallels"),
    (0, b"WithouFreSpacExt", "parallels"),
    (0, b"Bochs Virtual HD Image", "bochs"),
    (0, b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop", "cloop"),
)
_VMDK_DESCRIPTOR = re.compile(rb"(?:#[^\n]*\n| +\r?\n)*version=[123]\r?\n")
_PROBED = 512

# version, backing offset, backing length, cluster bits, size, crypt method, L1 entries, L1 offset
_VERSION_2 = struct.Struct(">4xIQIIQIIQ")
_VERSION_2_LENGTH = 72
# incompatible, compatible and autoclear features, refcount order, header length
_VERSION_3 = struct.Struct(">QQQII")
_VERSION_3_LENGTH = 104
_EXTENSION = struct.Struct(">II")

_KNOWN_INCOMPATIBLE = 0b11111
_EXTERNAL_DATA = 1 << 2
_EXTENDED_L2 = 1 << 4
_END_OF_EXTENSIONS = 0
_BACKING_FORMAT = 0xE2792ACA
_DATA_FILE = 0x44415441
_LONGEST_BACKING = 1023
_LONGEST_FORMAT = 15
_MOST_L1_BYTES = 32 << 20


@dataclass(frozen=True)
class ImageHeader:
    """The header of an image; `virtual_size` is in bytes, and for formats other than raw and qcow2 it is the length of the file."""

    format: str
    virtual_size: int
    backing: str | None = None
    backing_format: str | None = None
    # The name of the external data file; "" when there is one without a name.
    data_file: str | None = None
    encrypted: bool = False


def inspect(path: str) -> ImageHeader:
    """Return the header of the regular file or block device at `path`, which may not be a symbolic link.

    Raises NotFound, InvalidSpec (another type of file, or a truncated or absurd header), DriverError (it can not be read).
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise explain(error, "reading the image", path) from error
    try:
        return _read(descriptor, path)
    except OSError as error:
        raise explain(error, "reading the image", path) from error
    finally:
        os.close(descriptor)


def _read(descriptor: int, path: str) -> ImageHeader:
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode):
        length = status.st_size
    elif stat.S_ISBLK(status.st_mode):
        length = os.lseek(descriptor, 0, os.SEEK_END)
    else:
        raise InvalidSpec("the image is neither a file nor a block device", value=path)
    start = os.pread(descriptor, FIRST_READ, 0)
    image_format = _recognise(start)
    if image_format == "qcow2":
        return _Qcow2(descriptor, start, length, path).header()
    return ImageHeader(image_format, -(-length // SECTOR) * SECTOR, encrypted=image_format == "luks")


def _recognise(start: bytes) -> str:
    for offset, magic, name in _MAGICS:
        if start.startswith(magic, offset):
            return "qcow" if name == "qcow2" and start[4:8] == b"\0\0\0\1" else name
    return "vmdk" if _VMDK_DESCRIPTOR.match(start[:_PROBED]) else "raw"


class _Qcow2:
    """One qcow2 header while it is read; every doubt is an InvalidSpec."""

    def __init__(self, descriptor: int, start: bytes, length: int, path: str) -> None:
        self.descriptor = descriptor
        self.start = start
        self.length = length
        self.path = path
        self.cluster = FIRST_READ

    def header(self) -> ImageHeader:
        if len(self.start) < _VERSION_2_LENGTH:
            self.refuse("is truncated")
        version, backing_offset, backing_length, cluster_bits, size, crypt, l1_entries, l1_offset = _VERSION_2.unpack_from(self.start)
        if not 9 <= cluster_bits <= 21:
            self.refuse(f"has clusters of 2^{cluster_bits} bytes")
        if crypt > 2:
            self.refuse(f"has the unknown encryption {crypt}")
        self.cluster = 1 << cluster_bits
        features, header_length = self.features(version)
        self.check_table(size, cluster_bits, bool(features & _EXTENDED_L2), l1_entries, l1_offset)
        backing = self.backing(backing_offset, backing_length)
        backing_format, data_file = self.extensions(header_length, backing_offset or self.cluster)
        if features & _EXTERNAL_DATA and data_file is None:
            data_file = ""
        return ImageHeader("qcow2", size, backing, backing_format if backing else None, data_file, crypt != 0)

    def features(self, version: int) -> tuple[int, int]:
        """Return the incompatible features and the length of the header."""
        if version == 2:
            return 0, _VERSION_2_LENGTH
        if version != 3:
            self.refuse(f"has the unknown version {version}")
        if len(self.start) < _VERSION_3_LENGTH:
            self.refuse("is truncated")
        incompatible, dummy, dummy, dummy, header_length = _VERSION_3.unpack_from(self.start, _VERSION_2_LENGTH)
        if incompatible & ~_KNOWN_INCOMPATIBLE:
            self.refuse(f"needs unknown features ({incompatible:#x})")
        if not _VERSION_3_LENGTH <= header_length <= self.cluster:
            self.refuse(f"has a header of {header_length} bytes")
        return incompatible, header_length

    def check_table(self, size: int, cluster_bits: int, extended: bool, entries: int, offset: int) -> None:
        """Refuse a first-level table that can not map the size, or that the file does not hold."""
        mapped_by_entry = 1 << (2 * cluster_bits - (4 if extended else 3))
        if size >= 1 << 63 or size > entries * mapped_by_entry or entries * 8 > _MOST_L1_BYTES:
            self.refuse(f"has the impossible size {size}")
        if offset % self.cluster or offset + entries * 8 > self.length:
            self.refuse("has no first-level table: it is truncated")

    def backing(self, offset: int, length: int) -> str | None:
        if length > _LONGEST_BACKING or offset + length > self.cluster:
            self.refuse("has its backing file name outside the first cluster")
        return self.name(self.at(offset, length)) if offset and length else None

    def extensions(self, offset: int, end: int) -> tuple[str | None, str | None]:
        """Return the names of the backing format and of the data file, None where there is no such extension."""
        backing_format = data_file = None
        while offset + _EXTENSION.size <= end:
            kind, length = _EXTENSION.unpack(self.at(offset, _EXTENSION.size))
            offset += _EXTENSION.size
            if kind == _END_OF_EXTENSIONS:
                break
            if length > end - offset or (kind == _BACKING_FORMAT and length > _LONGEST_FORMAT):
                self.refuse("has an extension that is too long")
            if kind == _BACKING_FORMAT:
                backing_format = self.name(self.at(offset, length)) or None
            elif kind == _DATA_FILE:
                data_file = self.name(self.at(offset, length))
            offset += -(-length // 8) * 8
        return backing_format, data_file

    def at(self, offset: int, length: int) -> bytes:
        """Return bytes of the first cluster, which is read whole only when the first read does not hold them."""
        if offset + length > len(self.start) and len(self.start) < self.cluster:
            self.start = os.pread(self.descriptor, self.cluster, 0)
        data = self.start[offset : offset + length]
        if len(data) < length:
            self.refuse("is truncated")
        return data

    def name(self, data: bytes) -> str:
        # QEMU stops reading at a NUL: both must see the same name.
        if b"\0" in data:
            self.refuse("has a name with a NUL in it")
        return os.fsdecode(data)

    def refuse(self, reason: str) -> NoReturn:
        raise InvalidSpec(f"the qcow2 image {reason}", value=self.path, remedy="Repair it with qemu-img check, or provide it again.")
