"""A whole site for tests: the playbooks of this checkout, run over SSH on test hosts, and the manager that they made."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from domus_core.clients.manager import ManagerClient

from tests.hosts.lab.host import Host
from tests.hosts.lab.image import CACHE
from tests.hosts.lab.lab import Lab

CHECKOUT = Path(__file__).resolve().parents[2]
PASSWORD = "the password of the tests"
PLAYBOOK_SECONDS = 900


class Site:
    """A manager on the first host and servers on `servers`, with an inventory in `directory`; the other hosts of the lab are in no group."""

    def __init__(self, lab: Lab, directory: Path, manager: Host, servers: Sequence[Host], others: Sequence[Host] = (), **variables: Any) -> None:
        self.directory, self.manager = directory, manager
        wheels = CACHE / "wheels"
        subprocess.run([CHECKOUT / "scripts" / "wheels", wheels], check=True, timeout=PLAYBOOK_SECONDS)
        known = json.loads(lab.inventory.read_text())["all"]
        hosts = known["children"]["servers"]["hosts"]
        self._known = {
            "vars": {**known["vars"], **variables},
            "children": {
                "manager": {"hosts": {manager.name: hosts[manager.name]}, "vars": {"controller_admin_password": PASSWORD, "controller_wheels": str(wheels)}},
                "servers": {"hosts": {host.name: hosts[host.name] for host in servers}},
                "others": {"hosts": {host.name: hosts[host.name] for host in others}},
            },
        }
        self.inventory = directory / "inventory.yml"
        self.inventory.write_text(json.dumps({"all": self._known}, indent=2))

    def play(self, name: str, *options: str, **variables: Any) -> subprocess.CompletedProcess[str]:
        """Run a playbook of the collection, however it ends."""
        return run_playbook(self.directory, self.inventory, CHECKOUT / "playbooks" / f"{name}.yml", "-e", json.dumps(variables), *options)

    def done(self, name: str, *options: str, **variables: Any) -> dict[str, int]:
        """Run a playbook that must succeed; return how many tasks have changed something, by host."""
        run = self.play(name, *options, **variables)
        assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
        assert PASSWORD not in run.stdout + run.stderr
        return changes(run.stdout)

    def client(self) -> ManagerClient:
        """A client of the manager with a token of the administrator."""
        url, authority = f"https://{self.manager.address}:7002", str(self.directory / "domus-ca.pem")
        token = ManagerClient(url, authority_path=authority, login=("admin", PASSWORD)).post("/api/v1/tokens", {"name": "tests"})["token"]
        return ManagerClient(url, token, authority)

    def tokens(self) -> list[str]:
        """The tokens that playbooks have left on the manager."""
        return [one["name"] for one in self.client().get("/api/v1/tokens")["items"] if one["name"].startswith("playbook")]

    def servers(self) -> dict[str, str]:
        """The states of the manager's servers by name."""
        return {one["name"]: one["state"] for one in self.client().pages("/api/v1/servers")}


def run_playbook(directory: Path, inventory: Path, playbook: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run ansible-playbook as an administrator would, however it ends."""
    command = playbook_command(inventory, playbook, *options)
    return subprocess.run(
        command,
        env=administrator(directory),
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PLAYBOOK_SECONDS,
        check=False,
    )


def playbook_command(inventory: Path, playbook: Path, *options: str) -> list[str]:
    """The command line of a playbook."""
    return [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(inventory), str(playbook), *options]


def administrator(directory: Path) -> dict[str, str]:
    """An environment for Ansible with nothing of this process' own settings."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "DOMUS_"))},
        "ANSIBLE_COLLECTIONS_PATH": str(CHECKOUT / ".collections"),
        "ANSIBLE_HOME": str(directory / "ansible"),
        "ANSIBLE_NOCOLOR": "true",
        "ANSIBLE_PIPELINING": "true",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }


def changes(output: str) -> dict[str, int]:
    """How many tasks have changed something, by host, from what ansible-playbook wrote."""
    return {host: int(changed) for host, changed in re.findall(r"^(\S+) +: ok=\d+ +changed=(\d+)", output, re.MULTILINE)}


def play_on(
    lab: Lab, directory: Path, hosts: Sequence[Host], variables: dict[str, dict[str, Any]], role: str, part: str = "main"
) -> subprocess.CompletedProcess[str]:
    """Run a role, or a part of it, on hosts of the lab, with variables by host, however it ends."""
    known = json.loads(lab.inventory.read_text())["all"]
    all_hosts = known["children"]["servers"]["hosts"]
    chosen = {host.name: {**all_hosts[host.name], **variables.get(host.name, {})} for host in hosts}
    (directory / "inventory.yml").write_text(json.dumps({"all": {"vars": known["vars"], "children": {"servers": {"hosts": chosen}}}}))
    tasks = [{"ansible.builtin.include_role": {"name": role, "tasks_from": part}}]
    (directory / "play.yml").write_text(json.dumps([{"hosts": "servers", "gather_facts": False, "tasks": tasks}]))
    return run_playbook(directory, directory / "inventory.yml", directory / "play.yml")
