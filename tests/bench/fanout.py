"""`fanout`: one apply that concerns many servers at once, against Ansible's ping of as many hosts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from domus_controller.agents.pool import Agents
from domus_controller.config import ManagerConfig
from domus_controller.security.authority import Authority
from domus_controller.store.database import Store

from tests.support.fleet import Fleet

from .measuring import BIN, ROOT, alternate, line, median, spread

FEW, MANY, FORKS = 20, 100, 20
ROUNDS, PEER_ROUNDS = 7, 3
JOB_SECONDS = 3600.0
PLUGINS = Path(__file__).parent / "callbacks"


def measure(directory: Path) -> Iterator[str]:
    """From the start of the task to the last answer, of 20 and of 100 simulated agents; each gets a new VM in each round."""
    # Where writing is as fast as on a hundred disks.
    place = Path("/dev/shm") / directory.name
    fleet = Fleet(place / "fleet", MANY)
    try:
        servers = _take_over(directory, fleet)
        few, many = alternate(ROUNDS, lambda: _apply(directory, servers[:FEW]), lambda: _apply(directory, servers))
        peer_few, peer = alternate(PEER_ROUNDS, lambda: _ping(directory, FEW), lambda: _ping(directory, MANY))
    finally:
        fleet.close()
        shutil.rmtree(place, ignore_errors=True)
    growth = (median(many) / MANY) / (median(few) / FEW)
    facts = (f"agents={MANY}", f"growth={growth:.3g}", f"few={median(few):.3g}s", f"peer_few={median(peer_few):.3g}s", f"spread={spread(many)}")
    yield line("fanout", median(many), median(peer), *facts, f"peer_spread={spread(peer)}", "wanted<=0.7s,growth<=1.2,ratio>=20")


def _take_over(directory: Path, fleet: Fleet) -> list[dict[str, Any]]:
    """Make the simulated servers those of a manager, and write what its jobs show them."""
    config = ManagerConfig(directory=directory / "manager", url="https://127.0.0.1:9")
    store, authority = Store(config.directory), Authority(config.directory)
    authority.ensure()
    agents = Agents(store, authority, config)
    found = [agents.take_over(f"srv{number:03}", "127.0.0.1", one["port"], one["invitation"]) for number, one in enumerate(fleet.servers)]
    certificate, key, dummy, until = authority.issue_job("bench", [one["id"] for one in found], JOB_SECONDS)
    for name, text in (("authority.pem", authority.servers_ca_pem), ("job.pem", certificate), ("job.key", key)):
        (directory / name).write_text(text)
    store.close()
    return found


def _apply(directory: Path, servers: Sequence[dict[str, Any]]) -> float:
    """What a job of the manager does with a document of one VM for each server."""
    round_name, targets = uuid.uuid4().hex, {}
    for server in servers:
        name = f"document-{server['name']}.json"
        vm = {"name": f"vm-{round_name}", "server": server["name"], "cpus": 2, "memory": "2GiB", "nics": [{"name": "eth0", "network": "lan"}]}
        document = {"site": "default", "networks": [{"name": "lan", "mode": "isolated"}], "vms": [vm]}
        (directory / name).write_text(json.dumps(document))
        place = {key: server[key] for key in ("name", "address", "port")}
        targets[server["id"]] = {**place, "operation": f"{round_name}:{server['id']}", "document_file": name}
    told = {"authority": "authority.pem", "certificate": "job.pem", "key": "job.key", "result_file": "result.json", "servers": targets}
    (directory / "targets.json").write_text(json.dumps(told))
    (directory / "hosts.json").write_text(json.dumps({"all": {"hosts": {"localhost": {"ansible_connection": "local"}}}}))
    seconds = _play(directory, ROOT / "playbooks/apply.yml", 1)
    outcomes = json.loads((directory / "result.json").read_text())["servers"]
    states = [one["state"] for one in outcomes.values()]
    if states != ["succeeded"] * len(servers) or not all(one["result"]["changed"] for one in outcomes.values()):
        raise RuntimeError(f"{states}: {[one['error'] for one in outcomes.values()][:1]}")
    return seconds


def _ping(directory: Path, hosts: int) -> float:
    """The peer: `ansible.builtin.ping` with 20 forks and a local connection."""
    names = {f"host{number:03}": {"ansible_connection": "local", "ansible_python_interpreter": sys.executable} for number in range(hosts)}
    (directory / "hosts.json").write_text(json.dumps({"all": {"hosts": names}}))
    play = [{"hosts": "all", "gather_facts": False, "tasks": [{"name": "Ping", "ansible.builtin.ping": {}}]}]
    (directory / "ping.yml").write_text(yaml.safe_dump(play))
    return _play(directory, directory / "ping.yml", hosts)


def _play(directory: Path, playbook: Path, results: int) -> float:
    """Seconds from the start of the playbook's task to its last result. Raises RuntimeError when it fails."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")},
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"),
        "ANSIBLE_CALLBACK_PLUGINS": str(PLUGINS),
        "ANSIBLE_CALLBACKS_ENABLED": "task_times",
        "ANSIBLE_HOME": str(directory / "ansible"),
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
        "TASK_TIMES": str(directory / "times.json"),
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    command = [str(BIN / "ansible-playbook"), "-i", str(directory / "hosts.json"), "--forks", str(FORKS), str(playbook)]
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise RuntimeError(f"{done.stdout[-2000:]}{done.stderr[-2000:]}")
    told = json.loads((directory / "times.json").read_text())
    if told["results"] != results:
        raise RuntimeError(f"{told['results']} results instead of {results}")
    return float(told["seconds"])
