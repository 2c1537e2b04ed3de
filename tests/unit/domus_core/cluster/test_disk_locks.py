"""Disks that nobody holds a lock of are found, whoever would hold it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from domus_core.cluster.disk_locks import lease_of, lock_space, unlocked

HOLD = "import fcntl,sys; f=open(sys.argv[1],'r+b'); fcntl.lockf(f, fcntl.LOCK_EX, 1, 0); print('held', flush=True); sys.stdin.read()"


def test_the_lock_of_another_process_is_seen(tmp_path: Path) -> None:
    configuration = tmp_path / "qemu-lockd.conf"
    configuration.write_text(f'#file_lockspace_dir = "/nowhere"\nfile_lockspace_dir = "{tmp_path}"\n')
    disks = ["/srv/a.img", "/srv/b.img"]
    Path(lease_of(str(tmp_path), disks[0])).touch()
    assert lock_space(str(configuration)) == str(tmp_path) and unlocked(disks, str(configuration)) == disks
    command = [sys.executable, "-c", HOLD, lease_of(str(tmp_path), disks[0])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdin is not None and holder.stdout.readline() == b"held\n"
        assert unlocked(disks, str(configuration)) == disks[1:]
        holder.stdin.close()
    assert unlocked(disks, str(configuration)) == disks


def test_without_a_lock_space_nothing_is_locked(tmp_path: Path) -> None:
    assert unlocked(["/srv/a.img"], str(tmp_path / "none")) == ["/srv/a.img"]
