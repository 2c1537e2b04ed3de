"""The demo template: built by its script, booted by QEMU alone, spoken to over its serial console and its power button."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).resolve().parents[2]
# A failure is seen at once by the end of QEMU; this only ends a guest that hangs on a busy machine.
PATIENCE = 180.0


class Guest:
    """One QEMU process with the template's overlay as its disk."""

    def __init__(self, folder: Path, template: Path, *options: str) -> None:
        self.console = folder / "console.log"
        self.monitor = folder / "monitor"
        disk = folder / "disk.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(template), "-F", "qcow2", str(disk)], check=True)
        machine = ["qemu-system-x86_64", "-accel", "tcg", "-m", "128", "-display", "none", "-serial", f"file:{self.console}"]
        disks = ["-drive", f"file={disk},if=virtio,format=qcow2"]
        self.process = subprocess.Popen([*machine, *disks, "-qmp", f"unix:{self.monitor},server=on,wait=off", *options])

    def wait_for(self, text: str) -> str:
        """Return the console's line that holds the text; fails when QEMU ends or patience does."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            said = self.console.read_text(errors="replace") if self.console.exists() else ""
            for line in said.splitlines():
                if text in line:
                    return line
            assert self.process.poll() is None, f"QEMU ended; the console said:\n{said}"
            time.sleep(0.1)
        raise AssertionError(f"{text!r} did not appear on the console:\n{said}")

    def press_power_button(self) -> None:
        """Ask the guest to shut down, as `virsh shutdown` does."""
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.connect(str(self.monitor))
            stream = monitor.makefile("rw")
            stream.readline()
            for command in ("qmp_capabilities", "system_powerdown"):
                stream.write(json.dumps({"execute": command}) + "\n")
                stream.flush()
                stream.readline()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template, built anew."""
    output = tmp_path_factory.mktemp("template") / "demo.qcow2"
    built = subprocess.run([str(CHECKOUT / "scripts/build-demo-template"), str(output)], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return output


@pytest.fixture
def boot(template: Path, tmp_path: Path) -> Iterator[Callable[..., Guest]]:
    """Boot guests of the template; they are ended with the test."""
    guests: list[Guest] = []

    def start(*options: str) -> Guest:
        folder = tmp_path / str(len(guests))
        folder.mkdir()
        guests.append(Guest(folder, template, *options))
        return guests[-1]

    yield start
    for guest in guests:
        guest.process.kill()
        guest.process.wait()


def make_seed(folder: Path, user_data: str) -> Path:
    """Write a cloud-init seed image for a guest called web1."""
    assert shutil.which("xorriso"), "xorriso is missing: apt-get install xorriso"
    source = folder / "seed"
    source.mkdir()
    (source / "meta-data").write_text("instance-id: i1\nlocal-hostname: web1\n")
    (source / "user-data").write_text(user_data)
    seed = folder / "seed.iso"
    subprocess.run(["xorriso", "-as", "mkisofs", "-quiet", "-V", "cidata", "-J", "-r", "-o", str(seed), str(source)], check=True, capture_output=True)
    return seed


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_by_ssh(key: Path, port: int, command: str) -> str:
    """What the command prints in the guest; waits until its SSH server is up."""
    options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes", "-o", "ConnectTimeout=30", "-i", str(key)]
    for _ in range(20):
        done = subprocess.run(["ssh", "-q", *options, "-p", str(port), "root@127.0.0.1", command], capture_output=True, text=True, check=False)
        if done.returncode != 255:
            break
        time.sleep(1)
    return done.stdout


def test_it_takes_name_key_and_address_and_obeys_the_power_button(boot: Callable[..., Guest], tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    seed = make_seed(tmp_path, f"#cloud-config\npassword: s3cret word\nssh_authorized_keys:\n  - {key.with_suffix('.pub').read_text()}")
    port = free_port()
    network = ["-nic", f"user,model=virtio-net-pci,hostfwd=tcp:127.0.0.1:{port}-:22"]
    guest = boot("-drive", f"file={seed},if=virtio,format=raw,readonly=on", *network)
    assert guest.wait_for("is up, address").endswith("domus-demo: web1 is up, address 10.0.2.15 on eth0")
    guest.wait_for("web1 login:")
    said = run_by_ssh(key, port, "hostname; grep -c '^root:[$]6[$]' /etc/shadow; lsmod")
    assert said.splitlines()[:2] == ["web1", "1"]
    assert {"virtio_balloon", "evdev", "button", "sr_mod"} <= {line.split()[0] for line in said.splitlines()[2:]}
    assert "s3cret" not in guest.console.read_text(errors="replace")
    guest.press_power_button()
    assert guest.process.wait(timeout=PATIENCE) == 0


def test_it_finds_its_seed_on_a_cdrom_too(boot: Callable[..., Guest], tmp_path: Path) -> None:
    seed = make_seed(tmp_path, "#cloud-config\nhostname: 'other'\n")
    guest = boot("-cdrom", str(seed), "-nic", "none")
    guest.wait_for("domus-demo: other is up, no network card")


def test_it_comes_up_without_a_seed(boot: Callable[..., Guest]) -> None:
    guest = boot("-nic", "user,model=virtio-net-pci")
    guest.wait_for("domus-demo: domus-demo is up, address 10.0.2.15 on eth0")
