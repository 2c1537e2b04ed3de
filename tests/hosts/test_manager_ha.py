"""The manager as a service of a pool: its server loses its power, and another one has it, with all it knew, at the same address; no VM notices."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from domus_core.clients.manager import ManagerClient
from domus_core.cluster.manager_group import GROUP
from domus_core.errors import DomusError

from tests.hosts.agents import install_agent, secret_of
from tests.hosts.conftest import Hosts
from tests.hosts.lab.commands import wait_until
from tests.hosts.lab.host import Host
from tests.hosts.lab.image import CACHE
from tests.hosts.lab.lab import Lab
from tests.hosts.lab.power import PowerService
from tests.hosts.pool_site import FOLDER, PoolSite
from tests.hosts.site import CHECKOUT, PASSWORD, PLAYBOOK_SECONDS, changes, run_playbook

DIRECTORY = f"{FOLDER}/manager"
DATABASE = f"{DIRECTORY}/manager.db"


class ManagerOfPool:
    """Three members, HA VMs on them, and the manager as their service, which owns them."""

    def __init__(self, lab: Lab, site: PoolSite, directory: Path) -> None:
        self.lab, self.site, self.directory = lab, site, directory
        subprocess.run([CHECKOUT / "scripts" / "wheels", CACHE / "wheels"], check=True, timeout=PLAYBOOK_SECONDS)
        self.address = f"{lab.network.gateway.rpartition('.')[0]}.200"
        self.variables = {
            "manager_ha_address": self.address,
            "manager_ha_directory": DIRECTORY,
            "controller_admin_password": PASSWORD,
            "controller_wheels": str(CACHE / "wheels"),
        }

    def play(self, *options: str, **more: Any) -> Any:
        """Run the playbook, however it ends."""
        known = json.loads(self.lab.inventory.read_text())["all"]
        hosts = {host.name: known["children"]["servers"]["hosts"][host.name] for host in self.site.hosts}
        inventory = self.directory / "inventory.yml"
        group = {"hosts": hosts, "vars": {**self.variables, **more}}
        inventory.write_text(json.dumps({"all": {"vars": known["vars"], "children": {"manager_ha": group}}}))
        return run_playbook(self.directory, inventory, CHECKOUT / "playbooks" / "manager_ha.yml", *options)

    def done(self, *options: str, **more: Any) -> dict[str, int]:
        """Run it; how many tasks have changed something, by host."""
        run = self.play(*options, **more)
        assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:] + str(self.site.living().attempt("crm_mon", "-1Afnr").output)
        assert PASSWORD not in run.stdout + run.stderr
        return changes(run.stdout)

    def client(self) -> ManagerClient:
        """A client at the manager's address, which checks its certificate."""
        url, authority = f"https://{self.address}:7002", str(self.directory / "domus-ca.pem")
        token = ManagerClient(url, authority_path=authority, login=("admin", PASSWORD)).post("/api/v1/tokens", {"name": "tests"})["token"]
        return ManagerClient(url, token, authority)

    def place(self) -> Host:
        """The member that runs it, as Pacemaker says of each part and the member's own systemd, too; the last part may be on its way still."""

        def seen() -> bool:
            servers = {name: servers for name, servers in self.site.status().vms.items() if name.startswith(f"{GROUP}-")}
            return len(servers) == 5 and len(set(servers.values())) == 1 and all(servers.values())

        self.site.wait(seen, "the whole manager on one member", 60)
        host = self.site.host(self.site.status().vms[f"{GROUP}-web"][0])
        assert host.run("systemctl", "is-active", "domus-runner", "domus-manager", "domus-nginx", "domus-backup.timer").split() == ["active"] * 4
        return host

    def users_of_database(self) -> set[str]:
        """The hosts on which a process has the database open."""
        command = f'for p in /proc/[0-9]*/fd/*; do [ "$(readlink $p)" = {DATABASE} ] && echo $p; done; true'
        return {host.name for host in self.site.hosts if host.is_running and host.attempt("sh", "-c", command, timeout=20).output.strip()}


@pytest.fixture(scope="module")
def made(lab: Lab, module_hosts: Hosts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManagerOfPool]:
    with PowerService(lab) as power:
        site = PoolSite(lab, module_hosts(3, disk="4G"), power)
        with contextlib.closing(site):
            for number in range(3):
                site.add_vm(f"vm{number}")
            site.apply()
            site.wait_for_vms()
            for host in site.hosts:
                install_agent(host, {"heartbeat": 2})
            one = ManagerOfPool(lab, site, tmp_path_factory.mktemp("manager"))
            assert min(one.done().values()) > 0
            take_over(one)
            yield one


def take_over(one: ManagerOfPool) -> None:
    client = one.client()
    for host in one.site.hosts:
        client.post("/api/v1/servers", {"name": host.name, "address": host.address, "port": 8899, "secret": secret_of(host)})
    wait_until(lambda: set(states(client).values()) == {"running"}, 90, "all servers heard")


def states(client: ManagerClient) -> dict[str, str]:
    """The servers' states by name."""
    return {one["name"]: one["state"] for one in client.pages("/api/v1/servers")}


def heard(client: ManagerClient) -> dict[str, str]:
    """When each server was heard last."""
    return {one["name"]: str(one["last_seen"]) for one in client.pages("/api/v1/servers")}


def changed_tasks(output: str) -> list[str]:
    """The tasks, and handlers, that have changed something."""
    parts = re.split(r"^(?=(?:TASK|RUNNING HANDLER) )", output, flags=re.MULTILINE)
    return [part for part in parts if re.search(r"^(changed|fatal)", part, re.MULTILINE)]


def answers(one: ManagerOfPool) -> bool:
    with contextlib.suppress(DomusError, OSError):
        return len(states(one.client())) == len(one.site.hosts)
    return False


@pytest.fixture(autouse=True)
def untouched(made: ManagerOfPool) -> Iterator[None]:
    """Whatever happens to the manager: the VMs that no cut server had run on in the same processes, and the pool is whole again."""
    made.site.watcher.violations.clear()
    yield
    made.site.heal()
    assert made.site.watcher.violations == []


def test_it_runs_on_one_member_and_owns_all_three(made: ManagerOfPool) -> None:
    place = made.place()
    assert made.users_of_database() == {place.name}
    assert states(made.client()) == {host.name: "running" for host in made.site.hosts}
    for host in made.site.hosts:
        assert f"https://{made.address}:7002" in host.run("domus-agent", "status", "-o", "json")
        assert host.attempt("systemctl", "is-enabled", "domus-runner", "domus-manager", "domus-nginx", "domus-backup.timer").output.split() == ["disabled"] * 4


def test_a_second_run_changes_nothing(made: ManagerOfPool) -> None:
    place, process = made.place(), made.place().run("systemctl", "show", "-P", "MainPID", "domus-manager")
    run = made.play()
    assert run.returncode == 0 and set(changes(run.stdout).values()) == {0}, changed_tasks(run.stdout)
    assert made.place() is place and place.run("systemctl", "show", "-P", "MainPID", "domus-manager") == process


def test_no_other_member_uses_its_database(made: ManagerOfPool) -> None:
    """Whatever a person does there: the services are started by hand, the command is used."""
    place = made.place()
    other = next(host for host in made.site.hosts if host is not place)
    refused = other.attempt("domus-manager", "token", "create", "second", timeout=60)
    assert refused.code == 1 and "another server has it in use" in refused.errors
    other.run("systemctl", "start", "--no-block", "domus-manager")
    try:
        until = time.monotonic() + 12
        while time.monotonic() < until:
            assert made.users_of_database() == {place.name}
    finally:
        other.run("systemctl", "stop", "domus-manager")
    assert answers(made)


def test_its_server_loses_its_power(made: ManagerOfPool) -> None:
    client, place = made.client(), made.place()
    before = sorted(one["name"] for one in client.pages("/api/v1/users"))
    client.post("/api/v1/users", {"name": "late", "password": "a password of the tests", "role": "viewer"})
    lives = {life for life in made.site.watcher.everything() if life.host != place.name}
    made.site.harm(place)
    since = time.monotonic()
    place.power_off()
    made.site.wait(lambda: answers(made), "the manager at its address again", 60)
    print(f"the manager answered {time.monotonic() - since:.1f} s after its server lost its power")
    new = made.place()
    assert new is not place and made.users_of_database() <= {new.name, place.name}
    client = made.client()
    assert sorted(one["name"] for one in client.pages("/api/v1/users")) == sorted([*before, "late"]), "what was answered with success is there"
    others = [host.name for host in made.site.hosts if host is not place]
    first = heard(client)
    wait_until(lambda: all(heard(client)[name] != first[name] for name in others), 60, "agents reporting to it")
    assert lives <= made.site.watcher.everything(), "VMs of the others run on in their processes"
    made.site.heal()
    wait_until(lambda: set(states(client).values()) == {"running"}, 120, "the server that was cut, heard again")
    assert made.users_of_database() == {made.place().name}


def test_its_member_is_evacuated(made: ManagerOfPool) -> None:
    place = made.place()
    made.site.evacuate(place)
    made.site.wait(lambda: not made.site.status().vms.get(f"{GROUP}-web", ()) == (place.name,) and answers(made), "the manager elsewhere", 120)
    assert made.place() is not place
    assert states(made.client()).keys() == {host.name for host in made.site.hosts}


def test_it_is_taken_out_of_the_pool(made: ManagerOfPool) -> None:
    made.done(manager_ha_state="absent")
    assert made.users_of_database() == set()
    assert not any(name.startswith(GROUP) for name in made.site.status().vms)
    assert (made.site.shared / "manager" / "manager.db").exists()
