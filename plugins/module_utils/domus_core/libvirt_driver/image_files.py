"""Disk image files: made whole or not at all, grown, checked and removed.

Work is done on `.NAME.partial` beside the file, which is locked while its run lives. Callers have checked that the paths are
absolute and where they may be; whoever copies from an image that others have written calls check_safe on it first.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from ..errors import Busy, Conflict, DriverError, InvalidSpec, NoCapacity
from .bounded import require_wanted
from .image_header import SECTOR, ImageHeader, inspect
from .tools import explain, run

FORMATS = ("raw", "qcow2")
CLONES = ("thin", "sparse", "full")
DEEPEST_CHAIN = 32
SHORT_WORK = 300.0
LONGEST_WORK = 14 * 86400.0
SLOWEST_COPY = 4 << 20

_LARGEST = (1 << 63) - SECTOR
_FICLONE = 0x40049409
# struct flock of 64-bit Linux: type, whence, start, length, process.
_FLOCK = struct.Struct("@hhqqi0q")
_OUR_LOCK_BYTE = 0
# QEMU (block/file-posix.c) holds this byte while it may write: RAW_LOCK_PERM_BASE + the bit of BLK_PERM_WRITE.
_QEMU_WRITER_BYTE = 101
# All bytes of its permissions, and of what it lets others do.
_QEMU_BYTES = (100, 200)


def create_empty(path: str, format: str, size: int, preallocated: bool) -> None:
    """Make an empty image of `size` bytes at `path`.

    Raises Conflict (it exists), InvalidSpec (format, size), NoCapacity (nothing is left behind), Busy (it is being made).
    """
    _check_wanted(format, size)
    with _new_file(path) as (descriptor, partial):
        if preallocated:
            _check_free_space(path, size)
        if format == "qcow2":
            allocation = ["-o", "preallocation=falloc"] if preallocated else []
            _qemu_img("create", "-f", format, *allocation, partial, str(size), path=path, size=size)
        elif preallocated:
            os.posix_fallocate(descriptor, 0, size)
        else:
            os.ftruncate(descriptor, size)


def create_from(path: str, format: str, source_path: str, source_format: str, size: int | None, clone: str) -> None:
    """Make an image of `size` bytes (None: as the source) at `path` with the content of a source, which stays as it is.

    `thin` keeps referring to the source, `sparse` copies what is used, `full` also reserves the rest. Raises as create_empty, and NotFound
    (no source), Conflict (the source is of another format, encrypted or has a data file), InvalidSpec (smaller than the source).
    """
    header = inspect(source_path)
    _check_content(header, source_format, source_path)
    wanted = header.virtual_size if size is None else size
    _check_wanted(format, wanted)
    if wanted < header.virtual_size:
        raise InvalidSpec(f"the image can not be smaller than its source of {header.virtual_size} bytes", field="size", value=wanted)
    if clone not in CLONES:
        raise InvalidSpec("a clone is thin, sparse or full", field="clone", value=clone)
    if clone == "thin" and format != "qcow2":
        raise InvalidSpec("a thin clone is a qcow2 image", field="format", value=format, remedy="Ask for qcow2, or for a sparse clone.")
    with _new_file(path) as (descriptor, partial):
        if clone == "thin":
            _qemu_img("create", "-f", "qcow2", "-b", source_path, "-F", source_format, partial, str(wanted), path=path, size=wanted)
            return
        if clone == "full":
            _check_free_space(path, wanted)
        shared = clone == "sparse" and format == source_format and header.backing is None and _share_blocks(source_path, descriptor)
        allocation = "falloc" if clone == "full" else "off"
        if not shared:
            options = ("-f", source_format, "-O", format, "-o", f"preallocation={allocation}")
            _qemu_img("convert", *options, source_path, partial, path=path, size=wanted)
        if wanted > header.virtual_size:
            _qemu_img("resize", "-q", "-f", format, f"--preallocation={allocation}", partial, str(wanted), path=path, size=wanted)


def grow(path: str, format: str, size: int) -> None:
    """Give an image that no VM uses `size` bytes; the same size is fine.

    Raises InvalidSpec (it would shrink), Conflict (another format), Busy (QEMU has it open), NotFound, NoCapacity.
    """
    _check_wanted(format, size)
    with _explained("growing the image", path):
        _discard_leftover(_partial_name(path))
    header = inspect(path)
    _check_content(header, format, path)
    if size < header.virtual_size:
        remedy = "Ask for at least that, or make a new disk."
        raise InvalidSpec(f"an image of {header.virtual_size} bytes can not shrink", field="size", value=size, remedy=remedy)
    if size == header.virtual_size:
        return
    _qemu_img("resize", "-q", "-f", format, path, str(size), path=path, size=size)
    with _explained("growing the image", path):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def check_safe(path: str, *, expected_format: str, allowed_directories: Sequence[str]) -> ImageHeader:
    """Return the header of an image that makes QEMU open nothing but itself and backing files inside `allowed_directories`.

    Raises Conflict (the content is not what was promised, or refers to what it may not), InvalidSpec (a broken header), NotFound (a missing file).
    """
    allowed = [os.path.realpath(directory) for directory in allowed_directories]
    first = header = inspect(path)
    _check_content(header, expected_format, path)
    seen = {os.path.realpath(path)}
    while header.backing is not None:
        # QEMU resolves a relative name from the folder by which the image was named, so links are followed only to check.
        backing_path = _backing_path(path, header)
        real = os.path.realpath(backing_path)
        if not any(os.path.commonpath((directory, real)) == directory for directory in allowed):
            raise _unsafe("the backing file is outside the repository", path, f"Copy it whole into the repository: its backing file is {header.backing!r}.")
        if real in seen or len(seen) > DEEPEST_CHAIN:
            reason = "the chain of backing files is a loop" if real in seen else f"the chain of backing files is longer than {DEEPEST_CHAIN}"
            raise _unsafe(reason, path, "Flatten it with qemu-img convert.")
        seen.add(real)
        backing_format = header.backing_format or ""
        header, path = inspect(real), backing_path
        _check_content(header, backing_format, path)
    return first


def remove(path: str) -> None:
    """Delete an image and what a killed run left of it; a missing one is fine. Raises Busy when QEMU has it open, also that of another server."""
    with _explained("removing the image", path):
        _discard_leftover(_partial_name(path))
        with suppress(FileNotFoundError):
            _refuse_used(path)
            require_wanted()
            os.unlink(path)
            with _open_directory(path) as directory:
                os.fsync(directory)


def is_used(path: str) -> bool:
    """Has a QEMU the file open, also that of another server? A link is used by nobody. Raises OSError."""
    if os.path.islink(path):
        return False
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return _is_locked(descriptor, *_QEMU_BYTES)
    finally:
        os.close(descriptor)


def _refuse_used(path: str) -> None:
    """A link goes, what it leads to stays."""
    if is_used(path):
        raise Busy("the image is in use by a VM", value=path, remedy="Stop that VM first; it may be on another server.")


def _is_locked(descriptor: int, start: int, length: int) -> bool:
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
    return bool(_FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, asked))[0] != fcntl.F_UNLCK)


def _check_wanted(format: str, size: int) -> None:
    if format not in FORMATS:
        raise InvalidSpec("an image is raw or qcow2", field="format", value=format)
    if not 0 < size <= _LARGEST or size % SECTOR:
        raise InvalidSpec(f"a size is a positive multiple of {SECTOR} bytes", field="size", value=size)


def _check_content(header: ImageHeader, expected_format: str, path: str) -> None:
    """Refuse an image of another format, or with parts that Domus does not know to handle."""
    if expected_format not in FORMATS:
        raise InvalidSpec("an image is raw or qcow2", field="format", value=expected_format)
    # A guest may encrypt its whole raw disk; that header refers to nothing.
    found = "raw" if header.format == "luks" else header.format
    if found != expected_format:
        raise _unsafe(f"the image was said to be {expected_format} and is {found}", path, "Name its real format, or convert it with qemu-img convert.")
    if header.data_file is not None:
        raise _unsafe("the image keeps its data in another file", path, "Copy it whole with qemu-img convert.")
    if header.format == "qcow2" and header.encrypted:
        raise _unsafe("the image is encrypted, and Domus holds no key", path, "Decrypt it with qemu-img convert.")
    if header.backing is not None and header.backing_format not in FORMATS:
        remedy = "Say it with qemu-img rebase -u -b FILE -F FORMAT."
        raise _unsafe(f"the image does not say that its backing file is raw or qcow2 (but {header.backing_format!r})", path, remedy)


def _unsafe(reason: str, path: str, remedy: str) -> Conflict:
    return Conflict(reason, value=path, remedy=remedy)


def _backing_path(path: str, header: ImageHeader) -> str:
    name = header.backing or ""
    if ":" in name.split("/", 1)[0]:
        raise _unsafe(f"the backing file {name!r} is not the name of a file", path, "Copy it whole with qemu-img convert.")
    return os.path.join(os.path.dirname(path), name)


def _partial_name(path: str) -> str:
    directory, name = os.path.split(path)
    return os.path.join(directory, f".{name}.partial")


@contextmanager
def _explained(what: str, path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise explain(error, what, path) from error


@contextmanager
def _open_directory(path: str) -> Iterator[int]:
    descriptor = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _new_file(path: str) -> Iterator[tuple[int, str]]:
    """Give an empty, locked partial file as (descriptor, name); at the end it becomes `path`, after an error nothing is left."""
    with _explained("making the image", path), _open_directory(path) as directory:
        partial = _partial_name(path)
        _discard_leftover(partial)
        if os.path.lexists(path):
            raise _exists(path)
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _lock(descriptor, partial)
            yield descriptor, partial
            os.fsync(descriptor)
            require_wanted()
            # By descriptor, so that what is published is what was made; a directory descriptor makes Python use linkat(2).
            os.link(f"/proc/self/fd/{descriptor}", os.path.basename(path), dst_dir_fd=directory, follow_symlinks=True)
        except FileExistsError:
            raise _exists(path) from None
        finally:
            _unlink_own(descriptor, partial)
            os.close(descriptor)
        os.fsync(directory)


def _exists(path: str) -> Conflict:
    return Conflict("the image exists already", value=path, remedy="Choose another name, or remove it first.")


def _discard_leftover(partial: str) -> None:
    """Remove the partial file of a run that was killed; raises Busy when that run is alive."""
    try:
        descriptor = os.open(partial, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        _lock(descriptor, partial)
        _unlink_own(descriptor, partial)
    finally:
        os.close(descriptor)


def _unlink_own(descriptor: int, partial: str) -> None:
    with suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(descriptor), os.lstat(partial)):
            os.unlink(partial)


def _lock(descriptor: int, partial: str) -> None:
    """Lock the partial file for as long as the descriptor is open, by a byte that QEMU does not use."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _OUR_LOCK_BYTE, 1, 0))
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        raise Busy("the image is being made by somebody else", value=partial, remedy="Wait until that has ended.") from error


def _check_free_space(path: str, size: int) -> None:
    missing = size - _free_space(path)
    if missing > 0:
        remedy = "Free some space there, choose another repository, or do not preallocate."
        raise NoCapacity(f"{missing} bytes are missing for an image of {size} bytes", value=path, remedy=remedy)


def _free_space(path: str) -> int:
    status = os.statvfs(os.path.dirname(path))
    return status.f_bavail * status.f_frsize


def _share_blocks(source_path: str, descriptor: int) -> bool:
    """Say whether the file could be made a copy that shares its blocks with the source (ioctl_ficlone(2)); not all file systems can."""
    source = os.open(source_path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if _is_locked(source, _QEMU_WRITER_BYTE, 1):
            return False
        fcntl.ioctl(descriptor, _FICLONE, source)
    except OSError:
        return False
    finally:
        os.close(source)
    return True


def _qemu_img(*arguments: str, path: str, size: int) -> None:
    """Run qemu-img; its time limit grows with the size, for a copy of 4 MiB/s."""
    limit = min(SHORT_WORK + size / SLOWEST_COPY, LONGEST_WORK)
    free = _free_space(path)
    try:
        run(("qemu-img", *arguments), timeout=limit, what=f"qemu-img {arguments[0]} of {path}")
    except NoCapacity as error:
        error.message += f"; {free} bytes were free: up to {max(size - free, 1)} bytes are missing"
        error.value = path
        raise
    except DriverError as error:
        if "Failed to get" not in error.message or "lock" not in error.message:
            raise
        raise Busy("the image, or its source, is in use by a VM", value=path, remedy="Stop that VM first.") from error
