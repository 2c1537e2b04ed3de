"""A rolling update of servers whose VMs move: proven first, one server at a time, at the operator's gate, and after an interruption."""

from __future__ import annotations

import json
import os
import select
import shlex
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from domus_core.version import VERSION

from tests.hosts.conftest import Hosts
from tests.hosts.fleet import Fleet
from tests.hosts.lab.lab import Lab
from tests.hosts.migration_site import MigrationSite
from tests.hosts.site import CHECKOUT, PLAYBOOK_SECONDS, administrator, playbook_command, run_playbook
from tests.support import release

PROMPT = b"Type yes to go on"


class Updating:
    """Two servers of a manager on this machine, which the playbooks know by address and token, as one made without them."""

    def __init__(self, lab: Lab, directory: Path, fleet: Fleet, **more: Any) -> None:
        self.directory, self.fleet, self.client = directory, fleet, fleet.client
        known = json.loads(lab.inventory.read_text())["all"]
        hosts = {host.name: known["children"]["servers"]["hosts"][host.name] for host in fleet.hosts}
        stack = fleet.stack
        token = self.client.post("/api/v1/tokens", {"name": "playbooks"})["token"]
        manager = {"domus_manager_url": stack.url, "domus_manager_token": token, "domus_manager_ca": str(stack.manager_directory / "web-ca.pem")}
        variables = {**known["vars"], **manager, **more}
        self.inventory = directory / "inventory.yml"
        self.inventory.write_text(json.dumps({"all": {"vars": variables, "children": {"servers": {"hosts": hosts}}}}))
        self.begun = directory / f"domus-update-{VERSION}" / f"{fleet.hosts[0].name}.begun.json"

    def command(self, **variables: Any) -> list[str]:
        """The update's command line."""
        more = {"agent_settings": {"heartbeat": 2, "statistics": 19}, **variables}
        return playbook_command(self.inventory, CHECKOUT / "playbooks" / "update_servers.yml", "-e", json.dumps(more))

    def play(self, name: str, **variables: Any) -> subprocess.CompletedProcess[str]:
        """Run a playbook, however it ends."""
        return run_playbook(self.directory, self.inventory, CHECKOUT / "playbooks" / f"{name}.yml", "-e", json.dumps(variables))

    def kill_while_vms_move(self, **variables: Any) -> None:
        """Begin the update, and kill it while the first server is emptied."""
        run = subprocess.Popen(
            self.command(**variables),
            env=administrator(self.directory),
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            self.fleet.stack.wait_for(self._is_moving, "the evacuation", 180)
        finally:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait(PLAYBOOK_SECONDS)

    def _is_moving(self) -> None:
        assert any(job["kind"] == "migrate" for job in self.client.pages("/api/v1/jobs"))

    def at_the_gate(self, *answers: str, **variables: Any) -> tuple[int, str]:
        """Run the update at a terminal, and answer its questions; exit code and output."""
        words = ["script", "--quiet", "--return", "--command", shlex.join(self.command(domus_gate=True, **variables)), "/dev/null"]
        run = subprocess.Popen(words, env=administrator(self.directory), cwd=self.directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert run.stdin and run.stdout
        output = b""
        while True:
            # What is typed before it listens is lost: so it is typed whenever the question stands there in silence.
            if not select.select([run.stdout], [], [], 1.0)[0]:
                asked, found, after = output.rpartition(PROMPT)
                if found and b"TASK [" not in after:
                    run.stdin.write(answers[asked.count(PROMPT)].encode() + b"\r")
                    run.stdin.flush()
                continue
            if not (more := os.read(run.stdout.fileno(), 65536)):
                break
            output += more
        return run.wait(PLAYBOOK_SECONDS), output.decode()

    def states(self) -> dict[str, str]:
        """The servers' states by name."""
        return {server["name"]: server["state"] for server in self.fleet.servers()}

    def updated(self) -> list[str]:
        """The servers that have the new settings."""
        return [host.name for host in self.fleet.hosts if "statistics: 19" in host.read("/etc/domus/agent.yml")]

    def versions(self) -> list[str]:
        """The servers' versions, as the manager hears them."""
        return [server["version"] for server in sorted(self.fleet.servers(), key=lambda server: server["name"])]

    def moves(self) -> list[tuple[str, str]]:
        """The VM and the end of each move."""
        return [(job["objects"][0]["name"], job["state"]) for job in self.client.pages("/api/v1/jobs") if job["kind"] == "migrate"]


@pytest.fixture(scope="module")
def site(lab: Lab, module_hosts: Hosts) -> Iterator[MigrationSite]:
    with closing(MigrationSite(lab, module_hosts(2))) as made:
        yield made


@pytest.fixture(scope="module")
def updating(lab: Lab, site: MigrationSite, tmp_path_factory: pytest.TempPathFactory) -> Updating:
    # The hosts begin without the lock manager, and libvirt moves no VM between two that differ in it.
    return Updating(lab, tmp_path_factory.mktemp("updates"), site.fleet, server_lock_manager=False)


@pytest.fixture
def older(lab: Lab, hosts: Hosts, tmp_path: Path) -> Iterator[Updating]:
    """Servers of version N-1 under today's manager."""
    fleet = Fleet(lab, hosts(2), old=True)
    try:
        yield Updating(lab, tmp_path, fleet)
    finally:
        fleet.close()


def test_nothing_is_touched_unless_every_vm_can_move(updating: Updating, site: MigrationSite) -> None:
    site.make("stuck", "local")
    refused = updating.play("update_servers", agent_settings={"heartbeat": 2, "statistics": 19})
    assert refused.returncode != 0 and "vm stuck" in refused.stdout and "storage of the source's own" in refused.stdout, refused.stdout[-3000:]
    assert updating.updated() == [] and set(updating.states().values()) == {"running"} and not updating.begun.exists()
    evacuation = updating.play("maintenance", domus_server=site.one.name, domus_evacuate=True)
    assert evacuation.returncode != 0 and "vm stuck" in evacuation.stdout
    assert set(updating.states().values()) == {"running"}
    gone = site.fleet.apply({"site": "default", "vms": [{"name": "stuck", "state": "absent", "delete_disks": True}]})
    assert gone["state"] == "succeeded", gone


def test_an_update_moves_the_vms_goes_on_after_a_kill_and_waits_at_its_gate(updating: Updating, site: MigrationSite) -> None:
    one, two = site.one, site.two
    site.make("web1", fill=128)
    updating.kill_while_vms_move()
    assert updating.begun.exists() and updating.updated() == []
    assert updating.states() == {one.name: "maintenance", two.name: "running"}
    # Killed in the middle: the first server is finished, then the VM of the second must be seen to have a way back to it.
    code, output = updating.at_the_gate("yes", "no")
    assert code != 0 and f"Ended before {two.name}" in output, output[-3000:]
    assert updating.updated() == [one.name] and updating.states() == {one.name: "running", two.name: "running"}
    assert updating.moves() == [("web1", "succeeded")]
    site.goes_on(two, "web1")
    site.runs_once("web1", two)
    done = run_playbook(updating.directory, updating.inventory, CHECKOUT / "playbooks" / "update_servers.yml", *updating.command()[4:])
    assert done.returncode == 0, done.stdout[-3000:]
    assert updating.updated() == [one.name, two.name] and updating.states() == {one.name: "running", two.name: "running"}
    assert updating.moves() == [("web1", "succeeded")] * 2
    site.goes_on(one, "web1")
    site.runs_once("web1", one)
    first, second = yaml.safe_load((updating.directory / f"domus-update-{VERSION}-report.yml").read_text())
    assert (first["server"], second["server"]) == (one.name, two.name) and first["ended"] <= second["began"]
    assert not updating.begun.parent.exists()


def test_maintenance_moves_the_vms_away(updating: Updating, site: MigrationSite) -> None:
    one, two = site.one, site.two
    done = updating.play("maintenance", domus_server=one.name, domus_evacuate=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert updating.states()[one.name] == "maintenance"
    site.goes_on(two, "web1")
    site.runs_once("web1", two)
    again = updating.play("maintenance", domus_server=one.name, domus_evacuate=True)
    assert again.returncode == 0 and "changed=0" in again.stdout
    ended = updating.play("maintenance", domus_server=one.name, domus_maintenance=False)
    assert ended.returncode == 0 and updating.states()[one.name] == "running"


def test_servers_of_the_version_before_are_updated_one_by_one_and_both_versions_work_meanwhile(older: Updating) -> None:
    one, two = older.fleet.hosts

    def apply(name: str, state: str) -> None:
        vms = [{"name": f"{name}-{host.name}", "server": host.name, "memory": "32MiB", "virtualization": "qemu"} for host in (one, two)]
        job = older.fleet.apply({"site": "default", "vms": [{**vm, "state": state} for vm in vms]})
        assert job["state"] == "succeeded" and older.fleet.apply({"site": "default", "vms": vms})["changed"] is False, job

    # What was left of an update to another version says nothing of this one.
    left = older.directory / f"domus-update-{release.VERSION}"
    left.mkdir()
    for host in (one, two):
        (left / f"{host.name}.done.json").write_text("{}")
    apply("first", "running")
    emulators = [host.run("pgrep", "qemu-system") for host in (one, two)]
    assert older.versions() == [release.VERSION] * 2
    code, output = older.at_the_gate("yes", "no", domus_evacuate=False)
    assert code != 0 and f"Ended before {two.name}" in output, output[-3000:]
    assert older.versions() == [VERSION, release.VERSION]
    assert [host.run("pgrep", "qemu-system") for host in (one, two)] == emulators
    apply("second", "stopped")
    done = older.play("update_servers", domus_evacuate=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert older.versions() == [VERSION] * 2
    assert [host.run("pgrep", "qemu-system") for host in (one, two)] == emulators
    report = yaml.safe_load((older.directory / f"domus-update-{VERSION}-report.yml").read_text())
    assert [(entry["version_before"], entry["version_after"]) for entry in report] == [(release.VERSION, VERSION)] * 2
