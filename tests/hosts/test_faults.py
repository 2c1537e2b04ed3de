"""Each fault does what it says, to containers and to machines, and can be taken back."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts.conftest import Hosts
from tests.hosts.lab.commands import LabError
from tests.hosts.lab.host import Host
from tests.hosts.lab.lab import Lab

CAP_SYS_MODULE, CAP_SYS_TIME = 16, 25


@pytest.fixture(scope="module")
def observer(module_hosts: Hosts) -> Host:
    return module_hosts(1)[0]


@pytest.fixture(scope="module", params=["container", "machine"])
def host(request: pytest.FixtureRequest, lab: Lab) -> Iterator[Host]:
    with lab.fresh(1, kind=request.param) as made:
        yield made[0]


def reaches(source: Host, target: Host) -> bool:
    return source.attempt("ping", "-c1", "-w3", target.address).code == 0


def hears(target: Host, source: Host) -> bool:
    """Does a datagram of the source arrive? An answer is not needed, so it tells directions apart."""

    def known(other: Host) -> str:
        # Nobody has to ask for the other's hardware address, whatever happened before.
        return f"ip neighbour replace {other.address} lladdr {other.lab.network.mac(other.traits.index, 0)} dev eth0"

    target.write("/run/ear.py", EAR)
    target.shell(f"{known(source)}; rm -f /run/ear; systemd-run --quiet --unit=ear --collect python3 /run/ear.py; {until('[ -e /run/ear ]')}")
    send = f"import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('{target.address}', 9999))"
    source.shell(f'{known(target)}; python3 -c "{send}"; ip neighbour del {target.address} dev eth0')
    return target.shell(f"sleep 0.5; cat /run/ear; systemctl stop ear 2>/dev/null || true; ip neighbour del {source.address} dev eth0") == "heard"


def until(condition: str) -> str:
    """Shell: wait for a condition, half a minute at most."""
    return f"for i in $(seq 300); do {condition} && break; sleep 0.1; done; {condition}"


EAR = """
import socket
ear = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
ear.bind(('', 9999))
open('/run/ear', 'w').close()
ear.recv(10)
open('/run/ear', 'w').write('heard')
"""


@pytest.mark.parametrize(("direction", "host_speaks", "host_hears"), [("both", False, False), ("from", False, True), ("to", True, False)])
def test_cut(host: Host, observer: Host, direction: str, host_speaks: bool, host_hears: bool) -> None:
    assert hears(observer, host) and hears(host, observer)
    host.cut(direction)  # type: ignore[arg-type]
    try:
        assert hears(observer, host) == host_speaks
        assert hears(host, observer) == host_hears
        assert host.run("cat", "/sys/class/net/eth0/carrier").strip() == "1"
    finally:
        host.restore()
    assert hears(observer, host) and hears(host, observer)


def test_part(host: Host, observer: Host, hosts: Hosts) -> None:
    (third,) = hosts(1)
    host.part(observer)
    try:
        assert not reaches(host, observer) and not reaches(observer, host)
        assert reaches(host, third) and reaches(third, observer)
    finally:
        host.restore()
    assert reaches(host, observer)


def test_unplug(host: Host, observer: Host) -> None:
    host.unplug()
    try:
        assert host.run("cat", "/sys/class/net/eth0/carrier").strip() == "0"
        assert not reaches(observer, host)
    finally:
        host.restore()
    host.shell(until("[ $(cat /sys/class/net/eth0/carrier) = 1 ]"))
    assert host.attempt("ping", "-c1", "-w10", observer.address).code == 0


def round_trip(source: Host, target: Host) -> float:
    """Milliseconds of the fastest of three."""
    return float(source.run("ping", "-c3", "-i0.2", target.address).rpartition("= ")[2].split("/")[0])


def test_delay(host: Host, observer: Host) -> None:
    assert round_trip(observer, host) < 150
    host.degrade(delay=0.1)
    assert round_trip(observer, host) >= 200
    host.degrade(delay=0.15, direction="to")
    assert 150 <= round_trip(observer, host) < 299
    host.restore()
    assert round_trip(observer, host) < 150


def test_loss(host: Host, observer: Host) -> None:
    host.degrade(loss=0.5)
    received = int(observer.attempt("ping", "-q", "-c40", "-i0.05", "-W1", host.address).output.partition(" packets transmitted, ")[2].split()[0])
    host.restore()
    # A quarter survives; all or none of 40 has a chance below 1 in 10,000.
    assert 0 < received < 40


def test_a_slow_wire_carries_everything(host: Host, observer: Host) -> None:
    """Segments that the kernel joined pass too: half a megabyte of TCP arrives whole, at the rate."""
    host.degrade(rate=200_000, direction="from")
    host.run("python3", "-c", "open('/root/big', 'wb').write(bytes(range(256)) * 2048)")
    begun = time.monotonic()
    host.copy_from("/root/big", host.directory / "big")
    took = time.monotonic() - begun
    host.restore()
    assert (host.directory / "big").read_bytes() == bytes(range(256)) * 2048
    assert took > 2.5


@pytest.fixture
def ticking(host: Host) -> Iterator[Host]:
    host.shell(f"systemd-run --quiet --collect --unit=ticks sh -c 'while sleep 0.05; do echo x >>/root/ticks; done'; {until('[ -s /root/ticks ]')}")
    yield host
    host.thaw()
    host.shell("systemctl stop ticks; rm /root/ticks")


def test_freeze(ticking: Host, observer: Host) -> None:
    ticking.freeze()
    with pytest.raises(LabError, match="no end after"):
        ticking.run("true", timeout=1)
    # A container's network stack is this machine's, which is not frozen.
    assert reaches(observer, ticking) == (ticking.traits.kind == "container")
    ticking.thaw()
    before = len(ticking.read("/root/ticks"))
    ticking.shell(until(f"[ $(stat -c %s /root/ticks) -gt {before} ]"))


def test_a_frozen_host_runs_nothing(ticking: Host) -> None:
    def used() -> int:
        """Processor time of all processes, in ticks of the kernel."""
        stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in ticking.group.pids()]
        return sum(int(words[11]) + int(words[12]) for words in stats)

    ticking.freeze()
    before = used()
    time.sleep(0.5)
    assert used() == before


def test_a_frozen_host_can_be_powered_off(hosts: Hosts) -> None:
    (host,) = hosts(1)
    host.freeze()
    host.power_off()
    assert not host.is_running
    host.power_on()


def test_full_disk(host: Host) -> None:
    host.fill_disk()
    failed = host.attempt("sh", "-c", "head -c 100000 /dev/zero >/root/more")
    host.free_disk()
    assert "No space left" in failed.errors
    host.run("sh", "-c", "head -c 100000 /dev/zero >/root/more")


def test_clock_of_a_unit(hosts: Hosts) -> None:
    (host,) = hosts(1)
    host.write("/etc/systemd/system/clock.service", "[Service]\nType=oneshot\nNoNewPrivileges=yes\nSystemCallFilter=@system-service\nExecStart=date +%%s\n")
    host.run("systemctl", "daemon-reload")

    def seen() -> int:
        return int(host.run("journalctl", "--unit=clock", "--output=cat", "--grep=^[0-9]+$", "--lines=1").strip())

    host.move_clock(400 * 86400, "clock")
    assert abs(seen() - time.time() - 400 * 86400) < 60
    host.move_clock(0, "clock")
    assert abs(seen() - time.time()) < 60
    with pytest.raises(LabError, match="name a unit"):
        host.move_clock(3600)


@pytest.mark.parametrize("way", ["run", "systemd", "ssh"])
def test_a_container_cannot_set_the_clock_of_this_machine(hosts: Hosts, way: str) -> None:
    """Looked at, not tried: where it could, this machine's clock would be wrong afterwards."""
    (host,) = hosts(1)
    show = ("sed", "-n", "s/^CapBnd:\t//p", "/proc/self/status")
    if way == "ssh":
        shown = subprocess.run(host.ssh(*show), capture_output=True, text=True, check=True).stdout
    else:
        shown = host.run(*(("systemd-run", "--quiet", "--pipe", "--wait") if way == "systemd" else ()), *show)
    allowed = int(shown, 16)
    assert allowed and not allowed & (1 << CAP_SYS_TIME | 1 << CAP_SYS_MODULE)
