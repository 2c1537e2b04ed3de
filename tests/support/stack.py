"""A whole Domus for tests, as it is installed: nginx, manager, job runner and agents as processes of their own, each with its user.

Everything lies in one directory and listens on loopback ports that were free. The processes end with the stack, however the test
ends; what a killed run left is removed by the next one.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from domus_core.clients.manager import ManagerClient
from domus_core.errors import DomusError

from .leftovers import Place
from .release import released

CHECKOUT = Path(__file__).parents[2]
# Where every account can read it; each tree has a place of its own, since a changed tree is installed anew.
INSTALL = Path(os.environ.get("DOMUS_TEST_INSTALL", f"/var/tmp/domus-test-install-{hashlib.sha256(bytes(CHECKOUT)).hexdigest()[:8]}"))
PREFIX = "domus-stack-"
# Users that every Debian has, and that own nothing.
MANAGER_USER, JOB_USER = "proxy", "nobody"
PASSWORD = "the tests' password"
# The authority that signed the certificate of the manager's port, in its directory.
WEB_AUTHORITY = "web.crt"
PATIENCE = 60.0


def install() -> Path:
    """Install this checkout, once for all tests, as on a real machine; return where."""
    done = subprocess.run([CHECKOUT / "scripts" / "install", INSTALL], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return INSTALL


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Stack:
    """A manager with its agents; `uris` are the libvirt connections, an agent each; `old` names the processes that are of the release before."""

    def __init__(self, uris: Sequence[str] = ("test:///default",), *, settings: Mapping[str, Any] | None = None, old: Collection[str] = ()) -> None:
        assert os.geteuid() == 0, "these tests start services as users of their own: run them as root"
        assert Path("/usr/sbin/nginx").exists(), "nginx is missing: apt-get install nginx"
        self.install = install()
        self._old = dict.fromkeys(old, released(self.install)) if old else {}
        self._place = Place(PREFIX)
        self.directory = self._place.directory
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self.agent_ports = [free_port() for dummy in uris]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._write_configurations(uris, settings or {})

    @property
    def manager_directory(self) -> Path:
        """Where the manager's database and keys are."""
        return self.directory / "manager"

    @property
    def run_directory(self) -> Path:
        """Where the manager's sockets are."""
        return self.directory / "run"

    def installed(self, name: str) -> Path:
        """Where the programs of a process lie; the runner is one of the manager's."""
        return self._old.get("manager" if name == "runner" else name, self.install)

    def upgrade(self, name: str) -> None:
        """From its next start on, a process is of this version."""
        del self._old[name]

    def _write_configurations(self, uris: Sequence[str], settings: Mapping[str, Any]) -> None:
        self.manager_directory.mkdir(mode=0o700)
        self.run_directory.mkdir()
        self.run_directory.chmod(0o711)
        (self.directory / "runner").mkdir(mode=0o750)
        (self.directory / "tmp").mkdir()
        (self.directory / "tmp").chmod(0o1777)
        for path in (self.manager_directory, self.run_directory):
            shutil.chown(path, MANAGER_USER, MANAGER_USER)
        shutil.chown(self.directory / "runner", "root", MANAGER_USER)
        manager = {
            "directory": str(self.manager_directory),
            "run_directory": str(self.run_directory),
            "runner_socket": str(self.directory / "runner" / "runner.sock"),
            "url": self.url,
            "web_address": "127.0.0.1",
            "web_port": self.port,
            "collections": str(self.installed("manager") / "collections"),
            **settings,
        }
        (self.directory / "manager.yml").write_text(json.dumps(manager))
        for number, uri in enumerate(uris):
            agent: dict[str, Any] = {"directory": str(self.directory / f"agent{number}"), "state_directory": str(self.directory / f"state{number}"), "uri": uri}
            agent.update(address="127.0.0.1", port=self.agent_ports[number], heartbeat=2)
            if f"agent{number}" not in self._old:
                agent["power_off"] = False  # the server of these agents is the machine that the tests run on
            (self.directory / f"agent{number}.yml").write_text(json.dumps(agent))

    def command(self, *words: str) -> str:
        """Run domus-manager as the manager's user, and return what it says."""
        done = subprocess.run(
            [*self.as_user(MANAGER_USER), self.installed("manager") / "bin" / "domus-manager", *words],
            env=self._environment(),
            cwd="/",
            input=PASSWORD + "\n",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"domus-manager {' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout

    def agent_command(self, number: int, *words: str) -> str:
        """Run domus-agent on the server, and return what it says."""
        done = subprocess.run(
            [self.installed(f"agent{number}") / "bin" / "domus-agent", *words],
            env=self._environment(number),
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"domus-agent {' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout

    def up(self, *, take_over: bool = True) -> Stack:
        """Start everything; with `take_over` the agents become the servers s0, s1 ..."""
        self.command("init", "--password-stdin")
        self.command("nginx-conf")
        for number in range(len(self.agent_ports)):
            self.start(f"agent{number}")
        for name in ("runner", "manager", "nginx"):
            self.start(name)
        self.wait_until_up()
        self.client = self.log_in()
        if take_over:
            for number in range(len(self.agent_ports)):
                self.take_over(number)
        return self

    def take_over(self, number: int) -> dict[str, Any]:
        """Make an agent the server s<number>."""
        self.wait_for(lambda: socket.create_connection(("127.0.0.1", self.agent_ports[number])).close(), f"agent {number}")
        secret = self.agent_command(number, "secret").split()[-1]
        body = {"name": f"s{number}", "address": "127.0.0.1", "port": self.agent_ports[number], "secret": secret}
        server: dict[str, Any] = self.client.post("/api/v1/servers", body)
        self.wait_for(lambda: _require(self.client.get(f"/api/v1/servers/{server['id']}")["state"] in ("running", "online")), "the server's first callback")
        return server

    def log_in(self, name: str = "tests") -> ManagerClient:
        """A client with a token of the administrator."""
        authority = str(self.manager_directory / WEB_AUTHORITY)
        token = ManagerClient(self.url, authority_path=authority, login=("admin", PASSWORD)).post("/api/v1/tokens", {"name": name})["token"]
        return ManagerClient(self.url, token, authority)

    def basic(self) -> str:
        """The administrator's Authorization header."""
        return "Basic " + base64.b64encode(f"admin:{PASSWORD}".encode()).decode()

    def start(self, name: str) -> None:
        """Start one of nginx, manager, runner, agent0, agent1 ..."""
        number = int(name[5:]) if name.startswith("agent") else None
        log = open(self.directory / f"{name}.log", "ab")
        words: list[Any] = {
            "nginx": [*self.as_user(MANAGER_USER), "/usr/sbin/nginx", "-e", "stderr", "-c", self.run_directory / "nginx.conf", "-g", "daemon off;"],
            "manager": [*self.as_user(MANAGER_USER), self.installed("manager") / "bin" / "domus-manager", "serve"],
            "runner": [*self.as_user(None), self.installed("manager") / "bin" / "domus-manager", "runner", "--user", JOB_USER],
        }.get(name, [*self.as_user(None), self.installed(name) / "bin" / "domus-agent", "serve"])
        with log:
            self.processes[name] = subprocess.Popen(words, env=self._environment(number), cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def end(self, name: str, number: int = signal.SIGTERM) -> None:
        """End one of the processes, with all that it started when it is the manager, and wait."""
        process = self.processes.pop(name)
        for pid in descendants(process.pid) if number == signal.SIGKILL and name == "manager" else [process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        process.wait(PATIENCE)

    def log(self, name: str) -> str:
        """What a process wrote."""
        return (self.directory / f"{name}.log").read_text(errors="replace")

    def wait_until_up(self) -> None:
        """Wait until the API answers."""
        authority = str(self.manager_directory / WEB_AUTHORITY)
        self.wait_for(lambda: ManagerClient(self.url, authority_path=authority).get("/api/v1/health"), "the manager")

    def wait_for(self, condition: Any, what: str, patience: float = PATIENCE) -> Any:
        """Call until it neither raises nor returns false; return what it returned."""
        deadline, problem = time.monotonic() + patience, None
        while time.monotonic() < deadline:
            try:
                found = condition()
                if found is not False:
                    return found
            except (DomusError, OSError, AssertionError, LookupError) as error:
                problem = error
            time.sleep(0.05)
        logs = "\n".join(f"--- {name}\n{self.log(name)[-2000:]}" for name in self.processes)
        raise AssertionError(f"waited in vain for {what}: {problem}\n{logs}")

    def close(self) -> None:
        """End everything and remove the directory."""
        for name in list(self.processes):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.end(name)
        for process in self.processes.values():
            process.kill()
        self._place.remove()

    def as_user(self, user: str | None) -> list[str]:
        """Run as this user (None: root), and end with this process; a change of user would undo an earlier wish for that."""
        return ["setpriv", *(["--reuid", user, "--regid", user, "--clear-groups"] if user else []), "--pdeathsig", "TERM"]

    def _environment(self, number: int | None = None) -> dict[str, str]:
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        agent = {} if number is None else {"DOMUS_AGENT_CONFIG": str(self.directory / f"agent{number}.yml")}
        places = {"HOME": str(self.manager_directory), "TMPDIR": str(self.directory / "tmp"), "DOMUS_MANAGER_CONFIG": str(self.directory / "manager.yml")}
        return {"PATH": path, "LANG": "C.UTF-8", **places, **agent}


def _require(condition: bool) -> bool:
    assert condition
    return condition


def descendants(pid: int) -> list[int]:
    """A process and all that it started, the youngest first."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                found += descendants(int(child))
    return [*found, pid]
