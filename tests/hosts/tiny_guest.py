"""A guest for migrations: Debian's kernel, busybox, and an /init that fills memory with a mark, counts aloud, and dirties memory when told to."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

CACHE = Path.home() / ".cache" / "domus"
MARK = "domus-marks-this-memory-"
# Kernel arguments: fill=MEGABYTES, dirty=MEGABYTES (written again and again), disk=1 (counts on /dev/vda too).
INIT = f"""#!/bin/busybox sh
/bin/busybox mkdir -p /proc /dev /sys /fill /lib/modules /bin
/bin/busybox mount -t proc proc /proc
/bin/busybox --install -s /bin
export PATH=/bin
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
exec </dev/console >/dev/console 2>&1
while read -r when module; do insmod "/lib/modules/$module" 2>/dev/null; done </lib/modules/order
mount -t tmpfs -o size=90% tmpfs /fill
for word in $(cat /proc/cmdline); do case "$word" in fill=*|dirty=*|disk=*) export "$word";; esac; done
[ -z "$fill" ] || yes "{MARK}0123456789" | head -c "${{fill}}M" >/fill/marks
echo "guest is up"
if [ -n "$dirty" ]; then while true; do dd if=/dev/urandom of=/fill/dirty bs=64k count=$((dirty * 16)) conv=notrunc 2>/dev/null; done & fi
n=0
while true; do
    n=$((n + 1))
    echo "alive $n"
    [ -z "$disk" ] || echo "disk $n" | dd of=/dev/vda bs=512 seek=$((n % 64)) conv=notrunc,sync,fsync 2>/dev/null
    sleep 0.2
done
"""


def build(directory: Path) -> tuple[Path, Path]:
    """Kernel and initial RAM disk in `directory`."""
    parts = _kernel_parts()
    kernel, initrd = directory / "vmlinuz", directory / "initrd.img"
    shutil.copy(parts / "vmlinuz", kernel)
    with tempfile.TemporaryDirectory() as work:
        root = Path(work)
        (root / "bin").mkdir()
        (root / "lib" / "modules").mkdir(parents=True)
        (root / "dev").mkdir()
        shutil.copy(shutil.which("busybox") or "busybox", root / "bin" / "busybox")
        for part in parts.iterdir():
            if part.name != "vmlinuz":
                shutil.copy(part, root / "lib" / "modules" / part.name)
        (root / "init").write_text(INIT)
        (root / "init").chmod(0o755)
        names = "\n".join(str(path.relative_to(root)) for path in [root, *sorted(root.rglob("*"))]).encode()
        packed = subprocess.run(["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0"], cwd=root, input=names, capture_output=True, check=True)
        initrd.write_bytes(packed.stdout)
    return kernel, initrd


def _kernel_parts() -> Path:
    """The kernel and modules that scripts/build-demo-template keeps; it is run once when they are not there."""
    if not list(CACHE.glob("kernel-*/order")):
        script = Path(__file__).parents[2] / "scripts" / "build-demo-template"
        with tempfile.TemporaryDirectory() as work:
            subprocess.run([script, f"{work}/demo.qcow2"], check=True, capture_output=True)
    return max(CACHE.glob("kernel-*/order")).parent
