"""Image files appear whole or not at all, hostile ones are refused, a killed run or a full disk leaves nothing that looks finished."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from domus_core.errors import Busy, Conflict, DomusError, InvalidSpec, NoCapacity, NotFound
from domus_core.libvirt_driver import image_files
from domus_core.libvirt_driver.image_files import check_safe, create_empty, create_from, grow, remove
from domus_core.libvirt_driver.image_header import inspect

MIB = 1 << 20
SOURCES = str(Path(image_files.__file__).parents[2])


@pytest.fixture(autouse=True)
def qemu_tools() -> None:
    for program in ("qemu-img", "qemu-io"):
        assert shutil.which(program), f"{program} is missing: apt-get install qemu-utils"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    assert os.geteuid() == 0, "a small file system is mounted here: run the tests as root"
    directory = tmp_path / "small"
    directory.mkdir()
    subprocess.run(("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(directory)), check=True)
    try:
        yield directory
    finally:
        subprocess.run(("umount", str(directory)), check=True)


def path_of(directory: Path, name: str) -> str:
    return str(directory / name)


def source(directory: Path, format: str, size: int = 8 * MIB) -> str:
    """An image with some content and some holes."""
    path = path_of(directory, f"source.{format}")
    create_empty(path, format, size, preallocated=False)
    write(path, format, "write -P 7 1M 2M")
    return path


def write(path: str, format: str, command: str) -> None:
    subprocess.run(("qemu-io", "-f", format, "-c", command, path), check=True, stdout=subprocess.DEVNULL)


def used(path: str) -> int:
    return os.stat(path).st_blocks * 512


def same_content(first: str, first_format: str, second: str, second_format: str) -> bool:
    return subprocess.run(("qemu-img", "compare", "-q", "-f", first_format, "-F", second_format, first, second), check=False).returncode == 0


def is_sound(path: str) -> bool:
    return subprocess.run(("qemu-img", "check", "-q", "-f", "qcow2", path), check=False).returncode == 0


# Making


@pytest.mark.parametrize("format", ["raw", "qcow2"])
@pytest.mark.parametrize("preallocated", [False, True])
def test_an_empty_image_has_its_size_and_only_root_may_read_it(format: str, preallocated: bool, tmp_path: Path) -> None:
    path = path_of(tmp_path, "disk")
    create_empty(path, format, 8 * MIB, preallocated)
    header = inspect(path)
    assert (header.format, header.virtual_size, header.backing) == (format, 8 * MIB, None)
    assert (used(path) >= 8 * MIB) == preallocated
    assert (os.stat(path).st_mode, os.stat(path).st_nlink) == (stat.S_IFREG | 0o600, 1)
    assert os.listdir(tmp_path) == ["disk"]


@pytest.mark.parametrize("size", [None, 16 * MIB])
@pytest.mark.parametrize("format", ["raw", "qcow2"])
@pytest.mark.parametrize("source_format", ["raw", "qcow2"])
@pytest.mark.parametrize("clone", ["sparse", "full"])
def test_a_copy_has_the_content_and_needs_the_source_no_more(clone: str, source_format: str, format: str, size: int | None, tmp_path: Path) -> None:
    origin = source(tmp_path, source_format)
    path = path_of(tmp_path, "disk")
    create_from(path, format, origin, source_format, size, clone)
    header = check_safe(path, expected_format=format, allowed_directories=[])
    assert (header.format, header.virtual_size, header.backing) == (format, size or 8 * MIB, None)
    assert same_content(origin, source_format, path, format)
    assert (used(path) >= header.virtual_size) == (clone == "full")
    assert sorted(os.listdir(tmp_path)) == ["disk", f"source.{source_format}"]


@pytest.mark.parametrize("size", [None, 16 * MIB])
@pytest.mark.parametrize("source_format", ["raw", "qcow2"])
def test_a_thin_clone_refers_to_its_source_with_its_format(source_format: str, size: int | None, tmp_path: Path) -> None:
    origin = source(tmp_path, source_format)
    path = path_of(tmp_path, "disk")
    create_from(path, "qcow2", origin, source_format, size, "thin")
    header = check_safe(path, expected_format="qcow2", allowed_directories=[str(tmp_path)])
    assert (header.virtual_size, header.backing, header.backing_format) == (size or 8 * MIB, origin, source_format)
    assert same_content(origin, source_format, path, "qcow2")
    assert used(path) < MIB


@pytest.mark.parametrize("clone", ["sparse", "full"])
def test_a_copy_of_a_thin_clone_stands_alone(clone: str, tmp_path: Path) -> None:
    create_from(path_of(tmp_path, "thin"), "qcow2", source(tmp_path, "raw"), "raw", None, "thin")
    create_from(path_of(tmp_path, "copy"), "qcow2", path_of(tmp_path, "thin"), "qcow2", None, clone)
    assert inspect(path_of(tmp_path, "copy")).backing is None
    assert same_content(path_of(tmp_path, "source.raw"), "raw", path_of(tmp_path, "copy"), "qcow2")


@pytest.mark.parametrize("name", ["-f", "a b", "a,b=c", "nbd:x", "json:{}", "it's", '"', "ключ", "%s", "x" * 246])
def test_any_file_name_will_do(name: str, tmp_path: Path) -> None:
    origin = path_of(tmp_path, name)
    create_empty(origin, "qcow2", MIB, preallocated=True)
    create_from(path_of(tmp_path, "thin"), "qcow2", origin, "qcow2", 2 * MIB, "thin")
    create_from(path_of(tmp_path, "full"), "raw", origin, "qcow2", 2 * MIB, "full")
    grow(origin, "qcow2", 2 * MIB)
    check_safe(path_of(tmp_path, "thin"), expected_format="qcow2", allowed_directories=[str(tmp_path)])
    assert same_content(path_of(tmp_path, "thin"), "qcow2", path_of(tmp_path, "full"), "raw")
    remove(origin)
    assert sorted(os.listdir(tmp_path)) == ["full", "thin"]


@pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_what_is_there_is_never_replaced(kind: str, format: str, tmp_path: Path) -> None:
    origin = source(tmp_path, "qcow2")
    disk = tmp_path / "disk"
    if kind == "file":
        disk.touch()
    elif kind == "folder":
        disk.mkdir()
    else:
        disk.symlink_to("missing")
    before = disk.lstat()
    with pytest.raises(Conflict):
        create_empty(str(disk), format, 1 << 50, preallocated=True)
    with pytest.raises(Conflict):
        create_from(str(disk), format, origin, "qcow2", None, "sparse")
    assert disk.lstat() == before
    assert sorted(os.listdir(tmp_path)) == ["disk", "source.qcow2"]


def test_a_file_that_appears_during_the_work_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(Conflict), image_files._new_file(path_of(tmp_path, "disk")):
        (tmp_path / "disk").write_text("somebody's")
    assert (tmp_path / "disk").read_text() == "somebody's"
    assert os.listdir(tmp_path) == ["disk"]


@pytest.mark.parametrize("size", [0, -512, 1, 1000, 2**63, 2**80])
def test_an_impossible_size_is_refused(size: int, tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec) as caught:
        create_empty(path_of(tmp_path, "disk"), "raw", size, preallocated=False)
    assert (caught.value.field, caught.value.value) == ("size", size)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_a_size_that_hardly_a_file_system_holds_is_made_or_leaves_nothing(format: str, tmp_path: Path) -> None:
    try:
        create_empty(path_of(tmp_path, "disk"), format, 2**63 - 1024, preallocated=False)
    except DomusError:
        assert os.listdir(tmp_path) == []
    else:
        assert inspect(path_of(tmp_path, "disk")).virtual_size == 2**63 - 1024


def test_what_can_not_be_copied_is_refused(tmp_path: Path) -> None:
    origin = source(tmp_path, "qcow2")
    disk = path_of(tmp_path, "disk")
    refusals: list[tuple[type[DomusError], Callable[[], None]]] = [
        (InvalidSpec, lambda: create_from(disk, "qcow2", origin, "qcow2", 4 * MIB, "sparse")),
        (InvalidSpec, lambda: create_from(disk, "raw", origin, "qcow2", None, "thin")),
        (InvalidSpec, lambda: create_from(disk, "qcow2", origin, "qcow2", None, "linked")),
        (InvalidSpec, lambda: create_from(disk, "vmdk", origin, "qcow2", None, "sparse")),
        (Conflict, lambda: create_from(disk, "qcow2", origin, "raw", None, "sparse")),
        (NotFound, lambda: create_from(disk, "qcow2", path_of(tmp_path, "missing"), "raw", None, "sparse")),
        (NotFound, lambda: create_from(path_of(tmp_path, "missing/disk"), "qcow2", origin, "qcow2", None, "sparse")),
        (NotFound, lambda: create_empty(path_of(tmp_path, "missing/disk"), "raw", MIB, preallocated=False)),
        (InvalidSpec, lambda: create_empty(path_of(tmp_path, "x" * 250), "raw", MIB, preallocated=False)),
        (InvalidSpec, lambda: create_empty(disk + "\0", "raw", MIB, preallocated=False)),
        (InvalidSpec, lambda: create_empty(disk, "vdi", MIB, preallocated=False)),
    ]
    for expected, refused in refusals:
        with pytest.raises(expected):
            refused()
    assert os.listdir(tmp_path) == ["source.qcow2"]


# Growing and removing


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_an_image_grows_and_never_shrinks(format: str, tmp_path: Path) -> None:
    path = source(tmp_path, format)
    shutil.copy(path, tmp_path / "before")
    grow(path, format, 16 * MIB)
    assert inspect(path).virtual_size == 16 * MIB
    assert same_content(path_of(tmp_path, "before"), format, path, format)
    grow(path, format, 16 * MIB)
    with pytest.raises(InvalidSpec, match="can not shrink"):
        grow(path, format, 8 * MIB)
    assert inspect(path).virtual_size == 16 * MIB
    with pytest.raises(Conflict, match="was said to be"):
        grow(path, "raw" if format == "qcow2" else "qcow2", 32 * MIB)
    with pytest.raises(NotFound):
        grow(path_of(tmp_path, "missing"), format, 8 * MIB)


def test_an_image_in_use_is_busy(tmp_path: Path) -> None:
    path = source(tmp_path, "qcow2")
    with subprocess.Popen(("qemu-io", "-f", "qcow2", path), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as user:
        assert user.stdin and user.stdout
        user.stdout.read(1)
        with pytest.raises(Busy):
            grow(path, "qcow2", 16 * MIB)
        with pytest.raises(Busy):
            create_from(path_of(tmp_path, "copy"), "qcow2", path, "qcow2", None, "sparse")
        user.stdin.close()
    assert os.listdir(tmp_path) == ["source.qcow2"]
    grow(path, "qcow2", 16 * MIB)


def test_removing_takes_the_leftover_too_and_can_be_repeated(tmp_path: Path) -> None:
    path = source(tmp_path, "raw")
    (tmp_path / ".source.raw.partial").write_text("left by a killed run")
    remove(path)
    assert os.listdir(tmp_path) == []
    remove(path)
    remove(path_of(tmp_path, "missing/disk"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(DomusError):
        remove(path_of(tmp_path, "folder"))


# Interrupted work


COPY = "import sys; from domus_core.libvirt_driver.image_files import create_from; create_from(sys.argv[1], 'raw', sys.argv[2], 'raw', None, 'full')"


@pytest.fixture
def copy_at_work(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A process that copies source.raw to disk, and its qemu-img, stopped in the middle."""
    origin = path_of(tmp_path, "source.raw")
    create_empty(origin, "raw", 256 * MIB, preallocated=False)
    write(origin, "raw", "write -P 7 0 256M")
    copy = subprocess.Popen((sys.executable, "-c", COPY, path_of(tmp_path, "disk"), origin), env={"PYTHONPATH": SOURCES})
    try:
        child = wait_for(lambda: working_child(copy.pid, path_of(tmp_path, ".disk.partial")))
        os.kill(child, signal.SIGSTOP)
        yield copy, child
    finally:
        copy.kill()
        copy.wait()
    wait_for(lambda: is_gone(child))


def working_child(process: int, partial: str) -> int:
    """The process id of the qemu-img under a process once it has the partial file open, else 0."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    for child in children:
        try:
            opened = [os.readlink(entry) for entry in Path(f"/proc/{child}/fd").iterdir()]
        except FileNotFoundError:
            continue
        if partial in opened and used(partial) > MIB:
            return int(child)
    return 0


def wait_for(found: Callable[[], int]) -> int:
    for _ in range(20000):
        if answer := found():
            return answer
        time.sleep(0.001)
    raise AssertionError("it did not happen")


def is_gone(process: int) -> bool:
    try:
        return ") Z " in Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_killed_copy_leaves_nothing_that_looks_finished(copy_at_work: tuple[subprocess.Popen[bytes], int], tmp_path: Path) -> None:
    copy, child = copy_at_work
    copy.kill()
    assert copy.wait() == -signal.SIGKILL
    wait_for(lambda: is_gone(child))
    assert sorted(os.listdir(tmp_path)) == [".disk.partial", "source.raw"]
    create_from(path_of(tmp_path, "disk"), "qcow2", path_of(tmp_path, "source.raw"), "raw", None, "sparse")
    assert sorted(os.listdir(tmp_path)) == ["disk", "source.raw"]
    assert same_content(path_of(tmp_path, "source.raw"), "raw", path_of(tmp_path, "disk"), "qcow2")


def test_work_that_lives_is_not_taken_for_a_leftover(copy_at_work: tuple[subprocess.Popen[bytes], int], tmp_path: Path) -> None:
    copy, child = copy_at_work
    disk = path_of(tmp_path, "disk")
    with pytest.raises(Busy):
        create_empty(disk, "raw", MIB, preallocated=False)
    with pytest.raises(Busy):
        grow(disk, "raw", MIB)
    with pytest.raises(Busy):
        remove(disk)
    os.kill(child, signal.SIGCONT)
    assert copy.wait() == 0
    assert sorted(os.listdir(tmp_path)) == ["disk", "source.raw"]
    assert same_content(path_of(tmp_path, "source.raw"), "raw", disk, "raw")


def test_work_whose_partial_file_was_taken_away_publishes_nothing(tmp_path: Path) -> None:
    partial = tmp_path / ".disk.partial"
    with pytest.raises(NotFound), image_files._new_file(path_of(tmp_path, "disk")):
        partial.unlink()
        partial.write_text("somebody's")
    assert os.listdir(tmp_path) == [".disk.partial"]


def test_a_run_killed_after_publishing_is_tidied_without_harm(tmp_path: Path) -> None:
    path = source(tmp_path, "raw")
    content = Path(path).read_bytes()
    os.link(path, tmp_path / ".source.raw.partial")
    with pytest.raises(Conflict):
        create_empty(path, "raw", MIB, preallocated=False)
    assert os.listdir(tmp_path) == ["source.raw"]
    assert Path(path).read_bytes() == content


@pytest.mark.parametrize("command", [("ln", "-s", "../victim"), ("mkdir",), ("mkfifo",)])
def test_something_planted_in_place_of_the_partial_file_is_harmless(command: tuple[str, ...], tmp_path: Path) -> None:
    victim, folder = tmp_path / "victim", tmp_path / "folder"
    victim.write_text("keep me")
    folder.mkdir()
    subprocess.run((*command, str(folder / ".disk.partial")), check=True)
    try:
        create_empty(path_of(folder, "disk"), "qcow2", MIB, preallocated=False)
    except DomusError:
        assert os.listdir(folder) == [".disk.partial"]
    else:
        assert os.listdir(folder) == ["disk"]
    assert victim.read_text() == "keep me"


# Full disks


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_preallocation_says_before_how_much_is_missing(format: str, small_disk: Path, tmp_path: Path) -> None:
    status = os.statvfs(small_disk)
    missing = 16 * MIB - status.f_bavail * status.f_frsize
    with pytest.raises(NoCapacity, match=f"^{missing} bytes are missing"):
        create_empty(path_of(small_disk, "disk"), format, 16 * MIB, preallocated=True)
    with pytest.raises(NoCapacity, match=f"^{missing} bytes are missing"):
        create_from(path_of(small_disk, "disk"), format, source(tmp_path, "raw", 16 * MIB), "raw", None, "full")
    assert os.listdir(small_disk) == []


@pytest.mark.parametrize("format", ["raw", "qcow2"])
@pytest.mark.parametrize("source_format", ["raw", "qcow2"])
def test_a_disk_that_fills_up_during_a_copy_leaves_nothing(source_format: str, format: str, small_disk: Path, tmp_path: Path) -> None:
    origin = source(tmp_path, source_format, 16 * MIB)
    write(origin, source_format, "write -P 9 0 16M")
    with pytest.raises(NoCapacity):
        create_from(path_of(small_disk, "disk"), format, origin, source_format, None, "sparse")
    assert os.listdir(small_disk) == []


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_a_disk_that_fills_up_after_the_check_leaves_nothing(format: str, small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "_check_free_space", lambda path, size: None)
    with pytest.raises(NoCapacity):
        create_empty(path_of(small_disk, "disk"), format, 16 * MIB, preallocated=True)
    with pytest.raises(NoCapacity):
        create_from(path_of(small_disk, "disk"), format, source(tmp_path, "qcow2"), "qcow2", 16 * MIB, "full")
    assert os.listdir(small_disk) == []


def test_a_full_disk_refuses_a_thin_clone_and_keeps_what_grows(small_disk: Path, tmp_path: Path) -> None:
    origin = source(tmp_path, "raw")
    create_empty(path_of(small_disk, "old"), "qcow2", 4 * MIB, preallocated=False)
    with open(small_disk / "filler", "wb", buffering=0) as filler, pytest.raises(OSError, match="No space"):
        while True:
            filler.write(bytes(4096))
    with pytest.raises(NoCapacity):
        create_from(path_of(small_disk, "disk"), "qcow2", origin, "raw", None, "thin")
    with pytest.raises(NoCapacity):
        grow(path_of(small_disk, "old"), "qcow2", 1 << 50)
    assert sorted(os.listdir(small_disk)) == ["filler", "old"]
    assert is_sound(path_of(small_disk, "old"))
    assert inspect(path_of(small_disk, "old")).virtual_size == 4 * MIB
