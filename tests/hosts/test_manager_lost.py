"""The manager of two real servers is lost: a new one takes them back, one of them later since it was off; their guests run on."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hosts.agents import install_agent
from tests.hosts.conftest import Hosts
from tests.hosts.lab.host import Host
from tests.hosts.lab.lab import Lab
from tests.support.stack import MANAGER_USER, Stack, free_port
from tests.support.stack_faults import ended, items

ROOT = Path(__file__).parents[2]
PATIENCE = 90.0
PASSPHRASE = "a passphrase for the keys\n"
NAMES = ("s1", "s2")
DOCUMENT = {
    "servers": [{"name": name, "virtualization": "qemu", "tags": ["rack1"]} for name in NAMES],
    "vms": [{"name": f"guest-{name}", "server": name, "memory": "16MiB", "state": "running"} for name in NAMES],
}


class Site:
    """Two servers with agents as systemd services, and their manager on this machine."""

    def __init__(self, lab: Lab, servers: list[Host]) -> None:
        self.servers, self.gateway = servers, lab.network.gateway
        self.stack = Stack((), settings={"web_address": self.gateway})
        self._move(self.stack.port)

    def _move(self, port: int) -> None:
        self.stack.port, self.stack.url = port, f"https://{self.gateway}:{port}"
        path = self.stack.directory / "manager.yml"
        path.write_text(json.dumps({**json.loads(path.read_text()), "url": self.stack.url, "web_port": port}))

    def up(self) -> Site:
        """Start the manager, take the servers over, apply the document."""
        for server in self.servers:
            install_agent(server, {"heartbeat": 3, "statistics": 5}, PATIENCE)
        self.stack.up()
        for name, server in zip(NAMES, self.servers):
            server.shell("until ss -tln | grep -q :8899; do sleep 0.3; done", timeout=PATIENCE)
            secret = server.run("domus-agent", "secret").split()[-1]
            self.stack.client.post("/api/v1/servers", {"name": name, "address": server.address, "secret": secret, "pool": "rack1"})
        self.until_running(NAMES)
        assert self.apply()["changed"] is True
        for server in self.servers:
            server.shell("until grep -q rack1 /var/lib/domus/agent/identity/notes.json; do sleep 0.3; done", timeout=PATIENCE)
        return self

    def apply(self) -> dict[str, Any]:
        """Apply the document; the job, which has succeeded."""
        job = ended(self.stack, self.stack.client.post("/api/v1/apply", DOCUMENT)["id"], PATIENCE)
        assert job["state"] == "succeeded", job
        return job

    def until_running(self, names: tuple[str, ...]) -> None:
        """Wait until these servers, and no others, report to this manager."""
        wanted = {(name, "running") for name in names}
        self.stack.wait_for(lambda: {(one["name"], one["state"]) for one in items(self.stack, "servers")} == wanted, f"{names} running", PATIENCE)

    def vms(self) -> list[tuple[Any, ...]]:
        """What must not change."""
        return [tuple(vm[name] for name in ("id", "name", "server", "state", "generation")) for vm in items(self.stack, "vms")]

    def guests(self) -> list[str]:
        """The QEMU of each server's guest: its process id and start time."""
        command = "for pid in $(pgrep qemu-system); do echo $pid $(cut -d' ' -f22 /proc/$pid/stat); done"
        return [server.shell(command) for server in self.servers]

    def command(self, *words: str, expected: int = 0, input: str = "") -> str:
        """Run domus-manager as root on the new machine."""
        command = [str(self.stack.install / "bin" / "domus-manager"), *words]
        done = subprocess.run(command, env=self.stack._environment(), cwd="/", input=input, capture_output=True, text=True, check=False)
        assert done.returncode == expected and "Traceback" not in done.stderr, done.stdout + done.stderr
        return done.stdout

    def lose(self) -> None:
        """Everything of the manager is gone; the next one has another address."""
        for name in ("nginx", "manager", "runner"):
            self.stack.end(name, signal.SIGKILL)
        for path, mode in ((self.stack.manager_directory, 0o700), (self.stack.run_directory, 0o711)):
            shutil.rmtree(path)
            path.mkdir()
            path.chmod(mode)
            shutil.chown(path, MANAGER_USER, MANAGER_USER)
        self._move(free_port())

    def begin(self) -> None:
        """Set the new manager up and start it."""
        self.stack.command("init", "--password-stdin")
        self.stack.command("nginx-conf")
        for name in ("runner", "manager", "nginx"):
            self.stack.start(name)
        self.stack.wait_until_up()
        self.stack.client = self.stack.log_in()

    def rebuild(self, *words: str, expected: int = 0) -> list[tuple[str, str | None]]:
        """Result and name of each server."""
        told = json.loads(self.command("rebuild", *words, "-o", "json", expected=expected))
        return [(one["result"], one["name"]) for one in told["servers"]]


@pytest.fixture
def site(lab: Lab, hosts: Hosts) -> Iterator[Site]:
    made = Site(lab, hosts(2))
    try:
        yield made.up()
    finally:
        made.stack.close()


def test_with_the_keys_and_a_server_that_is_cut_off_meanwhile(site: Site, tmp_path: Path) -> None:
    before, guests = site.vms(), site.guests()
    site.command("authority", "export", str(tmp_path / "keys"), input=PASSPHRASE)
    site.lose()
    site.command("authority", "import", str(tmp_path / "keys"), input=PASSPHRASE)
    site.begin()
    addresses = [server.address for server in site.servers]
    site.servers[1].cut()
    assert site.rebuild("--from-servers", *addresses, expected=1) == [("added", "s1"), ("silent", None)]
    site.until_running(("s1",))
    site.servers[1].restore()
    # The gateway answers nobody, the servers of the range do.
    assert site.rebuild("--range", f"{addresses[0]}-{addresses[1]}") == [("known", "s1"), ("added", "s2")]
    site.until_running(NAMES)
    assert [one["pool"] for one in items(site.stack, "servers")] == ["rack1", "rack1"]
    assert [one["tags"] for one in items(site.stack, "servers")] == [["rack1"], ["rack1"]]
    site.stack.wait_for(lambda: site.vms() == before, "the VMs")
    assert site.apply()["changed"] is False
    assert site.guests() == guests and all(guests)


def test_without_the_keys_and_an_agent_that_is_killed_in_between(site: Site, tmp_path: Path) -> None:
    before, guests, lines = site.vms(), site.guests(), []
    site.lose()
    site.begin()
    assert site.rebuild("--from-servers", site.servers[0].address, expected=1) == [("foreign", None)]
    for server in site.servers:
        lines.append(f"- {server.address} {server.run('domus-agent', 'secret', '--rescue', timeout=60).split()[-1]}")
    site.servers[0].run("systemctl", "kill", "--signal=KILL", "domus-agent")  # systemd starts it again, and the way in is still open
    (tmp_path / "secrets").write_text("\n".join(lines))
    site.stack.wait_for(lambda: _taken(site, tmp_path / "secrets"), "both servers", PATIENCE)
    site.until_running(NAMES)
    site.stack.wait_for(lambda: site.vms() == before, "the VMs")
    assert site.apply()["changed"] is False
    assert site.guests() == guests and all(guests)
    assert [one["pool"] for one in items(site.stack, "servers")] == ["rack1", "rack1"]


def _taken(site: Site, secrets: Path) -> bool:
    """Run it until it has both, as a person would: the agent that was killed looks for a way in some seconds after its start."""
    outcomes = json.loads(_output(site, "rebuild", "--secrets", str(secrets), "-o", "json"))["servers"]
    return all(one["result"] in ("taken over", "known") for one in outcomes)


def _output(site: Site, *words: str) -> str:
    command = [str(site.stack.install / "bin" / "domus-manager"), *words]
    return subprocess.run(command, env=site.stack._environment(), cwd="/", capture_output=True, text=True, check=False).stdout
