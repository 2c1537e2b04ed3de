"""What the lab promises about hosts."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hosts.conftest import Hosts
from tests.hosts.lab import image
from tests.hosts.lab.cgroups import TOP, hierarchies
from tests.hosts.lab.commands import LabError, mounts, require, run
from tests.hosts.lab.image import CHECKOUT
from tests.hosts.lab.lab import Lab, lab_name


def test_hosts_see_each_other_and_share_a_folder(lab: Lab, hosts: Hosts) -> None:
    one, two = hosts(2)
    one.run("ping", "-c1", "-W2", two.name)
    one.write("/srv/shared/note", "hello")
    assert two.read("/srv/shared/note") == "hello"
    assert (lab.shared / "note").read_text() == "hello"
    ids = {host.run("cat", "/etc/machine-id") for host in (one, two)} | {host.run("virsh", "capabilities").partition("</uuid>")[0] for host in (one, two)}
    assert len(ids) == 4


def test_what_was_written_outlives_a_power_cut(hosts: Hosts) -> None:
    (host,) = hosts(1)
    host.write("/root/note", "kept")
    host.run("systemd-run", "--unit=busy", "sleep", "1000")
    before = host.boot_id()
    host.power_off()
    assert not host.is_running
    with pytest.raises(LabError, match="is off"):
        host.run("true")
    host.power_on()
    assert host.read("/root/note") == "kept"
    assert host.boot_id() != before
    assert host.attempt("systemctl", "is-active", "--quiet", "busy").code != 0


def test_a_reinstalled_host_has_other_identities(hosts: Hosts) -> None:
    (host,) = hosts(1)

    def identities() -> list[str]:
        return [host.read("/etc/machine-id"), host.run("virsh", "capabilities").partition("</uuid>")[0], host.read("/etc/ssh/ssh_host_ed25519_key.pub")]

    host.write("/root/note", "gone")
    before = identities()
    host.reinstall()
    assert host.attempt("cat", "/root/note").code != 0
    assert not set(before) & set(identities())
    # It is reached by SSH under its new key.
    subprocess.run(host.ssh("true"), check=True, timeout=30)


def test_a_host_reboots_from_inside(hosts: Hosts) -> None:
    (host,) = hosts(1)
    before = host.boot_id()
    host.reboot()
    assert host.boot_id() != before


def test_ansible_reaches_the_hosts_by_the_inventory(lab: Lab, hosts: Hosts) -> None:
    hosts(2)
    command = [str(CHECKOUT / ".venv/bin/ansible"), "--inventory", str(lab.inventory), "servers", "--module-name", "ansible.builtin.ping"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.count("SUCCESS") == len(lab.hosts()), done.stdout + done.stderr


def test_real_guests_move_between_hosts(lab: Lab, hosts: Hosts) -> None:
    """libvirt and QEMU work as on a server: a guest runs, and moves live over shared storage."""
    one, two = hosts(2)
    for host in (one, two):
        host.shell("echo 'auth_tcp = \"none\"' >>/etc/libvirt/libvirtd.conf; systemctl stop libvirtd; systemctl start libvirtd-tcp.socket libvirtd")
    one.run("qemu-img", "create", "-q", "-f", "qcow2", "/srv/shared/guest.qcow2", "16M")
    one.write("/root/guest.xml", GUEST)
    one.run("virsh", "define", "/root/guest.xml")
    one.run("virsh", "start", "guest", timeout=120)
    one.run("virsh", "migrate", "--live", "--p2p", "--unsafe", "guest", f"qemu+tcp://{two.name}/system", timeout=120)
    assert two.run("virsh", "domstate", "guest").strip() == "running"
    assert one.run("virsh", "domstate", "guest").strip() == "shut off"
    (lab.shared / "guest.qcow2").unlink()


GUEST = """<domain type='qemu'><name>guest</name><memory unit='MiB'>32</memory><os><type machine='q35'>hvm</type></os>
<devices><disk type='file'><driver name='qemu' type='qcow2'/><source file='/srv/shared/guest.qcow2'/>
<target dev='vda' bus='virtio'/></disk></devices></domain>"""


def test_the_agent_runs_under_its_unit(hosts: Hosts) -> None:
    """With all that hardens it: a container forbids nothing that a server allows."""
    (host,) = hosts(1)
    for source, name in (("plugins/module_utils/domus_core", "domus_core"), ("agent/domus_agent", "domus_agent")):
        host.copy_to(CHECKOUT / source, f"/opt/domus/agent/{name}")
    host.copy_to(CHECKOUT / "roles/agent/files/domus-agent.service", "/etc/systemd/system/domus-agent.service")
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "start", "domus-agent")
    host.shell("for i in $(seq 100); do ss -tln | grep -q :8899 && exit 0; sleep 0.1; done; exit 1")
    status = host.shell("cat /proc/$(systemctl show -P MainPID domus-agent)/status")
    assert "Seccomp:\t2" in status and "NoNewPrivs:\t1" in status


def test_a_killed_run_leaves_nothing_that_the_next_one_does_not_remove() -> None:
    name = lab_name("crash")
    victim = subprocess.Popen([sys.executable, "-c", CRASHING, name], stdout=subprocess.PIPE, text=True, cwd=CHECKOUT)
    assert victim.stdout is not None
    assert victim.stdout.readline() == "up\n"
    victim.kill()
    victim.wait()
    victim.stdout.close()
    lab = Lab(name)
    network = lab.network
    assert traces(lab, network.name)
    lab.claim()
    lab.destroy()
    assert traces(lab, network.name) == []


CRASHING = """
import sys, time
from tests.hosts.lab.lab import Lab
lab = Lab(sys.argv[1])
lab.claim()
lab.destroy()
lab.up()
one, two, machine = lab.add("h1", segments=(0, 1)), lab.add("h2"), lab.add("m1", kind="machine")
lab.boot(one, two)
machine.start()
one.cut("from")
two.degrade(delay=0.1)
two.freeze()
print("up", flush=True)
time.sleep(600)
"""


def traces(lab: Lab, prefix: str) -> list[str]:
    """What there is of a lab anywhere on the machine."""
    commands = Path("/proc").glob("[0-9]*/cmdline")
    found = [path.parent.name for path in commands if f"{lab.directory}/".encode() in _bytes(path) or f"{prefix}-".encode() in _bytes(path)]
    found += [line for line in mounts() if f"{lab.directory}/" in line]
    found += [path.name for path in Path("/sys/class/net").iterdir() if path.name == prefix or path.name.startswith((f"{prefix}-", f"{prefix}s"))]
    found += [str(path) for path in Path("/run/netns").glob(f"{prefix}-*")]
    found += [str(path) for root, _ in hierarchies() for part in (lab.name, f".{prefix}") if (path := root / TOP / part).exists()]
    found += [line for line in run("nft", "list", "tables").splitlines() if line.endswith(f" {prefix}")]
    return found + ([str(lab.directory)] if lab.directory.exists() else [])


def _bytes(path: Path) -> bytes:
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return b""


def test_labs_stand_side_by_side(lab: Lab, hosts: Hosts) -> None:
    (host,) = hosts(1)
    other = Lab(lab_name("beside"))
    other.claim()
    other.destroy()
    try:
        stranger = other.up().add(host.name)
        other.boot(stranger)
        assert host.attempt("ping", "-c1", "-W1", stranger.address).code != 0
        other.destroy()
        assert host.run("hostname").strip() == host.name
    finally:
        other.destroy()


def test_a_lab_in_use_is_not_taken(lab: Lab) -> None:
    with pytest.raises(LabError, match="is in use by another run"):
        Lab(lab.name).claim()


def test_a_missing_program_names_the_command_that_installs_it() -> None:
    with pytest.raises(LabError, match="apt-get install --no-install-recommends no-such-package"):
        require("no-such-program", "no-such-package")


def test_a_changed_package_list_asks_for_another_image(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made: list[Path] = []
    monkeypatch.setattr(image, "CACHE", tmp_path)
    for wanted in (["a", "b"], ["a", "b"], ["a", "b", "c"]):
        image._cached("kind", wanted, lambda place: (made.append(place), place.mkdir())[1])
    assert len(made) == 2


def test_the_image_has_what_the_roles_name() -> None:
    assert {"libvirt-daemon-system", "python3-aiohttp", "nginx", "python3-lxml"} <= set(image.packages("packages-hosts.txt"))


def test_a_roles_name_makes_the_name_of_a_lab(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also in a checkout with a long name."""
    monkeypatch.delenv("LAB", raising=False)
    monkeypatch.setattr(image, "CHECKOUT", tmp_path / "a-very-long-name-of-a-checkout")
    assert Lab(lab_name("role-server_pool")).name.endswith("-role-server-pool")


def test_a_host_does_not_inherit_the_cut_of_the_one_before(lab: Lab) -> None:
    for harm in (lambda host: None, lambda host: host.power_off()):
        with lab.fresh(1) as (first,):
            first.cut()
            harm(first)
            address = first.address
        with lab.fresh(1) as (second,):
            assert second.address == address
            second.copy_to(Path(__file__), "/run/copied")
