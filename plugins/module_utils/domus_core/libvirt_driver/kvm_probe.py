"""Whether guests really run under KVM here: /dev/kvm may open, and guests under it still hang.

Only x86-64 has a probe guest. Elsewhere the answer is no, since nothing was proven: whoever knows better sets
the server's virtualization to `kvm`.
"""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import subprocess
import tempfile

from .remembered import boot_id, recall, remember, stamp

TIME_LIMIT = 2.0
REAP_LIMIT = 1.0

# isa-debug-exit ends QEMU with (value << 1) | 1 for the value 0x10 that the guest writes.
GUEST_ANSWERED = 0x21

# The guest enters 64-bit mode, as every kernel does, and counts there: a /dev/kvm that emulates needs over 30 s for it.
_INSTRUCTIONS = bytes.fromhex(
    "fa"  # 7c00 cli
    "31c0 8ed8 8ec0"  # 7c01 xor ax,ax; mov ds,ax; mov es,ax
    "fc bf0010 b90018 f3ab"  # 7c07 cld; mov di,0x1000; mov cx,0x1800; rep stosw: clears three page tables
    "c70600100320"  # 7c10 mov word [0x1000],0x2003: level 4 points to level 3
    "c70600200330"  # 7c16 mov word [0x2000],0x3003: level 3 points to level 2
    "c70600308300"  # 7c1c mov word [0x3000],0x0083: the first 2 MiB, mapped to themselves
    "66b820000000 0f22e0"  # 7c22 mov eax,0x20; mov cr4,eax: physical address extension
    "66b800100000 0f22d8"  # 7c2b mov eax,0x1000; mov cr3,eax
    "66b9800000c0 0f32 80cc01 0f30"  # 7c34 mov ecx,0xc0000080; rdmsr; or ah,1; wrmsr: long mode enabled
    "660f0116887c"  # 7c41 lgdt [0x7c88]
    "0f20c0 660d01000080 0f22c0"  # 7c47 mov eax,cr0; or eax,0x80000001; mov cr0,eax: protection and paging
    "ea587c0800"  # 7c53 jmp 8:0x7c58: 64-bit code from here
    "48b80000000010000000"  # 7c58 mov rax,0x1000000000
    "48c1e820"  # 7c62 shr rax,32: 0x10 in 64-bit mode only
    "b900000001 ffc9 75fc"  # 7c66 mov ecx,0x1000000; 7c6b dec ecx; jnz 7c6b: milliseconds on a processor
    "66ba0105 ee"  # 7c6f mov dx,0x501; out dx,al: QEMU exits
    "f4 ebfd 90"  # 7c74 hlt; jmp 7c74; nop
    "0000000000000000 00000000009a2000"  # 7c78 descriptors: none, 64-bit code
    "0f00 787c0000"  # 7c88 size and address of the descriptors
)
BOOT_SECTOR = _INSTRUCTIONS.ljust(510, b"\0") + b"\x55\xaa"

# The firmware boots no disk smaller than a cylinder.
_DISK_SIZE = 1024 * 1024


def usable_kvm(emulator: str, state_directory: str) -> bool:
    """Whether a probe guest ran under KVM within 2 s, asked once a boot for each emulator and /dev/kvm."""
    path = os.path.join(state_directory, "kvm-probe.json")
    key = [boot_id(), emulator, stamp(emulator), stamp("/dev/kvm")]
    answer = recall(path, key)
    if not isinstance(answer, bool):
        answer = runs_guest(emulator)
        remember(path, key, answer)
    return answer


def runs_guest(emulator: str, accelerator: str = "kvm", limit: float = TIME_LIMIT) -> bool:
    """Whether the probe guest answered under this accelerator of QEMU within `limit` seconds; it is gone afterwards."""
    if platform.machine() != "x86_64":
        return False
    with tempfile.TemporaryDirectory(prefix="domus-kvm-probe-") as directory:
        disk = os.path.join(directory, "disk.raw")
        with open(disk, "wb") as file:
            file.write(BOOT_SECTOR)
            file.truncate(_DISK_SIZE)
        return _exit_code(_command(emulator, accelerator, disk), limit) == GUEST_ANSWERED


def _command(emulator: str, accelerator: str, disk: str) -> list[str]:
    # QEMU reads a comma in a value as two.
    drive = f"file={disk.replace(',', ',,')},format=raw,if=virtio,readonly=on"
    machine = ["-accel", accelerator, "-machine", "q35", "-m", "64"]
    nothing_else = ["-display", "none", "-nodefaults", "-no-user-config", "-no-reboot"]
    return [emulator, *machine, *nothing_else, "-device", "isa-debug-exit,iobase=0x501,iosize=2", "-drive", drive]


def _exit_code(command: list[str], limit: float) -> int | None:
    """The exit code of the command, or None if it can not be started or had to be killed."""
    quiet = subprocess.DEVNULL
    try:
        process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
    except OSError:
        return None
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return None
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and its children; wait a bounded time, for one that is stuck in the kernel can not be killed."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(REAP_LIMIT)
