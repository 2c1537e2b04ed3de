"""Who gets in where: every certificate against the agent's port and libvirt's, on whole hosts with systemd."""

from __future__ import annotations

import dataclasses
import datetime
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from domus_agent.certificates import new_request
from domus_controller.security import authority as authorities
from domus_controller.store import servers, trust
from domus_core.clients.agent import AgentClient
from domus_core.clients.wire import libvirt_subjects
from domus_core.errors import DomusError, Unreachable

from tests.hosts.agents import install_agent, secret_of
from tests.hosts.conftest import Hosts
from tests.hosts.lab.host import Host
from tests.hosts.lab.lab import Lab
from tests.support.agent_process import wait_until
from tests.support.small_authority import SmallAuthority
from tests.support.trusting_manager import Manager

AGENT_PORT, LIBVIRT_PORT = 8899, 16514
PATIENCE = 60.0
SETTINGS = {"libvirt_tls": True, "heartbeat": 2.0}


@dataclasses.dataclass(frozen=True)
class Pair:
    """A certificate and its key, PEM; no text: none is shown."""

    certificate: str
    key: str


def install(host: Host, pool: str = "default", **settings: Any) -> None:
    """The agent, and libvirt's part that the role writes."""
    host.shell(f"echo 'tls_allowed_dn_list = [\"{libvirt_subjects(pool)}\"]' >> /etc/libvirt/libvirtd.conf; systemctl restart libvirtd")
    install_agent(host, {**SETTINGS, **settings}, PATIENCE)


def take(manager: Manager, host: Host, pool: str = "default", **more: Any) -> dict[str, Any]:
    """Take a host over, and wait until its libvirt listens with the certificate of the manager."""
    server = manager.agents.take_over(host.name, host.address, AGENT_PORT, secret_of(host), pool=pool, **more)
    try:
        wait_until(lambda: is_served(manager, host, server["id"]), PATIENCE)
    except AssertionError:
        units = host.attempt("systemctl", "status", "--no-pager", "libvirtd.service", "libvirtd-tls.socket").output
        raise AssertionError(f"{host.journal('domus-agent')[-3000:]}\n{units}\n{manager.listener.seen[-3:]}") from None
    return server


def is_served(manager: Manager, host: Host, server_id: str) -> bool:
    """Does libvirt of the host show the certificate that the manager has on record?"""
    known = trust.row(manager.store, server_id)
    try:
        shown = ssl.get_server_certificate((host.address, LIBVIRT_PORT), timeout=3)
    except OSError:
        return False
    return known is not None and f"{x509.load_pem_x509_certificate(shown.encode()).serial_number:x}" == known["libvirt_serial"]


def pair(host: Host, certificate: str, key: str) -> Pair:
    return Pair(host.read(certificate), host.read(key))


def opens_agent(host: Host, server_id: str, shown: Pair, authority: str, tmp: Path) -> bool:
    """Does the agent answer whoever shows this?"""
    certificate, key = tmp / "shown.pem", tmp / "shown.key"
    certificate.write_text(shown.certificate)
    key.write_text(shown.key)
    if not shown.certificate:
        try:
            with AgentClient.peek(host.address, AGENT_PORT) as contact:
                contact.greet()
        except DomusError:
            return False
        return True
    client = AgentClient(host.address, AGENT_PORT, server_id, authority, str(certificate), str(key), timeout=10)
    try:
        client.call("hello")
    except DomusError:
        return False
    finally:
        client.close()
    return True


def opens_libvirt(host: Host, shown: Pair, authority: str, tmp: Path) -> bool:
    """Does libvirt let whoever shows this in?"""
    for name, text in (("cacert.pem", authority), ("clientcert.pem", shown.certificate), ("clientkey.pem", shown.key)):
        (tmp / name).unlink(missing_ok=True)
        if text:
            (tmp / name).write_text(text)
    done = subprocess.run(
        ["virsh", "-c", f"qemu+tls://{host.address}/system?pkipath={tmp}", "uri"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=30,
        check=False,
    )
    return done.returncode == 0


def issued(manager: Manager, issue: str, *arguments: Any, moved: float = 0.0) -> Pair:
    """What the manager's authority gives for a new key; `moved` shifts its clock (seconds)."""
    key, request = new_request()
    manager.authority_moved = moved
    try:
        return Pair(getattr(manager.authority, issue)(request, *arguments).pem, key)
    finally:
        manager.authority_moved = 0.0


@dataclasses.dataclass
class Site:
    """Two servers of one pool, one of another, one of another manager."""

    manager: Manager
    other_manager: Manager
    one: Host
    two: Host
    pooled: Host
    foreign: Host
    ids: dict[str, str]


@pytest.fixture(scope="module")
def site(lab: Lab, module_hosts: Hosts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    one, two, pooled, foreign = module_hosts(4)
    directory = tmp_path_factory.mktemp("managers")
    manager, other = Manager(directory / "manager", lab.network.gateway), Manager(directory / "other", lab.network.gateway)
    try:
        ids = {}
        for host, owner, pool in ((one, manager, "default"), (two, manager, "default"), (pooled, manager, "rack7"), (foreign, other, "default")):
            install(host, pool)
            ids[host.name] = str(take(owner, host, pool)["id"])
        yield Site(manager, other, one, two, pooled, foreign, ids)
    finally:
        manager.close()
        other.close()


LIBVIRT = ("/etc/pki/libvirt/clientcert.pem", "/etc/pki/libvirt/private/clientkey.pem")
AGENT = ("/var/lib/domus/agent/identity/certificate.pem", "/var/lib/domus/agent/identity/key.pem")
QEMU = ("/etc/pki/qemu/client-cert.pem", "/etc/pki/qemu/client-key.pem")


def shown_by(site: Site, who: str) -> Pair:
    """What this one has to show."""
    manager, server = site.manager, site.ids[site.two.name]
    own = SmallAuthority("anybody")
    manager_files = manager.authority.issue_manager(manager.store.manager_id)
    makers = {
        "manager": lambda: Pair(manager_files[0].read_text(), manager_files[1].read_text()),
        "server's agent": lambda: pair(site.two, *AGENT),
        "its own agent": lambda: pair(site.one, *AGENT),
        "server's libvirt": lambda: pair(site.two, *LIBVIRT),
        "server's QEMU": lambda: pair(site.two, *QEMU),
        "other pool's libvirt": lambda: pair(site.pooled, *LIBVIRT),
        "other manager's libvirt": lambda: pair(site.foreign, *LIBVIRT),
        "other manager's agent": lambda: pair(site.foreign, *AGENT),
        "person": lambda: issued(manager, "issue_person", "ada"),
        "person called like a pool": lambda: issued(manager, "issue_person", "x,OU=default,O=Domus"),
        "expired libvirt": lambda: issued(manager, "issue_libvirt", server, "default", [site.two.address], moved=-400 * authorities.DAY),
        "expired agent": lambda: issued(manager, "issue_server", server, moved=-400 * authorities.DAY),
        "job of another server": lambda: Pair(*manager.authority.issue_job("j", [server], 3600)[:2]),
        "anybody's": lambda: Pair(*own.issue([f"urn:domus:manager:{manager.store.manager_id}"])),
        "none": lambda: Pair("", ""),
    }
    return makers[who]()


@pytest.mark.parametrize(
    ("who", "agent", "libvirt"),
    [
        ("manager", True, False),
        ("server's agent", False, False),
        ("its own agent", False, False),
        ("server's libvirt", False, True),
        ("server's QEMU", False, False),
        ("other pool's libvirt", False, False),
        ("other manager's libvirt", False, False),
        ("other manager's agent", False, False),
        ("person", False, False),
        ("person called like a pool", False, False),
        ("expired libvirt", False, False),
        ("expired agent", False, False),
        ("job of another server", False, False),
        ("anybody's", False, False),
        ("none", False, False),
    ],
)
def test_a_certificate_opens_only_what_it_is_for(site: Site, tmp_path: Path, who: str, agent: bool, libvirt: bool) -> None:
    shown, authority = shown_by(site, who), site.manager.authority
    assert opens_agent(site.one, site.ids[site.one.name], shown, authority.servers_ca_pem, tmp_path) is agent
    assert opens_libvirt(site.one, shown, authority.libvirt_ca_pem, tmp_path) is libvirt


def test_each_server_reaches_the_others_of_its_pool_from_where_it_is(site: Site) -> None:
    assert site.two.attempt("virsh", "-c", f"qemu+tls://{site.one.address}/system", "uri").code == 0
    assert site.two.attempt("virsh", "-c", f"qemu+tls://{site.one.name}/system", "uri").code == 0
    assert site.pooled.attempt("virsh", "-c", f"qemu+tls://{site.one.address}/system", "uri").code != 0
    for path, mode in ((LIBVIRT[1], "600 root root"), (QEMU[1], "640 root kvm")):
        assert site.one.run("stat", "-c", "%a %U %G", path).strip() == mode
    assert site.one.run("virsh", "-c", "qemu:///system", "uri").strip() == "qemu:///system"


def test_a_renewal_disturbs_nobody(site: Site, tmp_path: Path) -> None:
    manager, server = site.manager, site.ids[site.two.name]
    old_agent, old_libvirt = pair(site.two, *AGENT), pair(site.two, *LIBVIRT)
    libvirtd = site.two.run("pidof", "libvirtd")
    manager.trust.renew(server)
    wait_until(lambda: is_served(manager, site.two, server), PATIENCE)
    wait_until(lambda: not opens_libvirt(site.one, old_libvirt, manager.authority.libvirt_ca_pem, tmp_path), 10)
    assert site.two.run("pidof", "libvirtd") == libvirtd
    assert pair(site.two, *AGENT).key != old_agent.key
    assert opens_libvirt(site.one, pair(site.two, *LIBVIRT), manager.authority.libvirt_ca_pem, tmp_path)
    assert manager.agents.call(server, "hello", {})["owned"] is True


def test_another_pool_is_another_certificate(site: Site, tmp_path: Path) -> None:
    manager, server = site.manager, site.ids[site.pooled.name]
    before = pair(site.pooled, *LIBVIRT)
    assert not opens_libvirt(site.one, before, manager.authority.libvirt_ca_pem, tmp_path)
    manager.trust.renew(server, "default")
    try:
        wait_until(lambda: is_served(manager, site.pooled, server), PATIENCE)
        # The agent answers with its new certificate a moment before libvirt's files are those of the new pool.
        wait_until(lambda: opens_libvirt(site.one, pair(site.pooled, *LIBVIRT), manager.authority.libvirt_ca_pem, tmp_path), PATIENCE)
    finally:
        manager.trust.renew(server, "rack7")
        wait_until(lambda: is_served(manager, site.pooled, server), PATIENCE)
    assert servers.find(manager.store, server)["pool"] == "rack7"


def test_a_second_manager_takes_nothing_over(site: Site) -> None:
    seen = site.other_manager.agents.discover(site.one.address, AGENT_PORT)
    assert (seen["owned"], seen["ours"], seen["manager"]) == (True, False, site.manager.store.manager_id)
    with pytest.raises(DomusError):
        site.other_manager.agents.take_over("stolen", site.one.address, AGENT_PORT, f"{seen['fingerprint']}:{'0' * 32}")
    assert site.manager.agents.call(site.ids[site.one.name], "hello", {})["manager"] == site.manager.store.manager_id


def test_a_revoked_server_is_out_within_ten_seconds(site: Site, tmp_path: Path) -> None:
    manager, server = site.manager, site.ids[site.two.name]
    libvirt = pair(site.two, *LIBVIRT)
    assert opens_libvirt(site.one, libvirt, manager.authority.libvirt_ca_pem, tmp_path)
    # A session that lasts, as an intruder would keep one: virsh waits for its next command.
    session = subprocess.Popen(["virsh", "-c", f"qemu+tls://{site.one.address}/system?pkipath={tmp_path}"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    libvirtd = site.one.run("pidof", "libvirtd")
    try:
        wait_until(lambda: "tls" in site.one.run("virt-admin", "client-list", "libvirtd"), 20)
        assert session.poll() is None
        began = time.monotonic()
        manager.agents.revoke(server)
        wait_until(lambda: not opens_libvirt(site.one, libvirt, manager.authority.libvirt_ca_pem, tmp_path), 10)
        wait_until(lambda: "tls" not in site.one.run("virt-admin", "client-list", "libvirtd"), 10)
        assert time.monotonic() - began < 10
        assert site.one.run("pidof", "libvirtd") == libvirtd
    finally:
        session.kill()
        session.wait()
    seen = len(manager.listener.seen)
    wait_until(lambda: any(not right for dummy, right, more in manager.listener.seen[seen:]), 10)
    with pytest.raises(Unreachable, match="revoked"):
        manager.agents.call(server, "hello", {})
    assert f"{x509.load_pem_x509_certificate(libvirt.certificate.encode()).serial_number:x}" in _revoked(site.one)


def test_a_released_server_keeps_nothing_and_listens_no_more(site: Site) -> None:
    manager, host = site.manager, site.pooled
    manager.agents.release(site.ids[host.name])
    wait_until(lambda: host.attempt("systemctl", "is-active", "--quiet", "libvirtd-tls.socket").code != 0, PATIENCE)
    wait_until(lambda: not host.run("find", "/etc/pki", "-type", "f").strip(), PATIENCE)
    assert host.attempt("systemctl", "is-enabled", "--quiet", "libvirtd-tls.socket").code != 0
    assert host.run("virsh", "-c", "qemu:///system", "uri").strip() == "qemu:///system"
    assert take(manager, host, "rack7")["pool"] == "rack7"


def test_a_server_that_is_installed_anew_takes_its_place(site: Site) -> None:
    manager, host = site.manager, site.pooled
    old = servers.find(manager.store, host.name)["id"]
    host.power_off()
    host.reinstall()
    install(host, "rack7")
    manager.store.write(lambda c: c.execute("UPDATE servers SET state = 'offline'").rowcount)
    with pytest.raises(DomusError, match="name of another server"):
        take(manager, host, "rack7")
    new = take(manager, host, "rack7", replace=True)
    assert new["id"] != old
    assert old in trust.gone(manager.store)


def _revoked(host: Host) -> set[str]:
    crl = x509.load_pem_x509_crl(host.read("/etc/pki/CA/cacrl.pem").encode())
    assert crl.next_update_utc is not None
    assert crl.next_update_utc > datetime.datetime.now(datetime.timezone.utc)
    return {f"{one.serial_number:x}" for one in crl}
