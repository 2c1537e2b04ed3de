"""The manager is lost with all it had: a new one takes servers, VMs and specifications back from the servers, and no VM notices."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from domus_core.clients.agent import AgentClient
from domus_core.errors import Conflict, Unreachable

from tests.support.private_libvirtd import PrivateLibvirtd
from tests.support.stack import MANAGER_USER, PASSWORD, Stack, free_port
from tests.support.stack_faults import agent_client, ended, items

pytestmark = pytest.mark.libvirt

DOCUMENT = {
    "servers": [{"name": "s0", "virtualization": "qemu"}, {"name": "s1", "virtualization": "qemu"}],
    "networks": [{"name": "lan", "mode": "isolated", "servers": ["s0"]}],
    "vms": [
        {"name": "runs", "server": "s0", "memory": "16MiB", "state": "running", "description": "does not notice", "tags": ["production"]},
        {"name": "runs-too", "server": "s0", "memory": "16MiB", "state": "running"},
        {"name": "rests", "server": "s0", "memory": "32MiB", "state": "stopped"},
        {"name": "elsewhere", "server": "s1", "memory": "16MiB", "state": "running"},
    ],
}
RUNBOOK = Path(__file__).parents[2] / "docs/guides/manager-lost.md"
PASSPHRASE = "a passphrase for the keys\n"
# What is known of a VM that no other manager may see differently.
KEPT = ("id", "name", "server", "server_id", "site", "generation", "state", "spec", "recorded", "drift")


class Watcher:
    """Hears of everything that happens to the domains of a libvirt."""

    def __init__(self, libvirtd: PrivateLibvirtd, path: Path) -> None:
        self._path = path
        with open(path, "wb") as file:
            self._process = subprocess.Popen(["virsh", "--connect", libvirtd.uri, "event", "--all", "--loop"], stdin=subprocess.DEVNULL, stdout=file)

    def heard(self) -> list[str]:
        """What has happened."""
        return [line for line in self._path.read_text().splitlines() if line.startswith("event ")]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def stack(private_libvirtd: PrivateLibvirtd) -> Iterator[Stack]:
    made = Stack([private_libvirtd.uri, "test:///default"])
    try:
        yield made.up()
    finally:
        made.close()
        private_libvirtd.clear()


@pytest.fixture
def watcher(private_libvirtd: PrivateLibvirtd, tmp_path: Path) -> Iterator[Watcher]:
    made = Watcher(private_libvirtd, tmp_path / "events")
    yield made
    made.close()


def apply(stack: Stack) -> dict[str, Any]:
    job = ended(stack, stack.client.post("/api/v1/apply", DOCUMENT)["id"])
    assert job["state"] == "succeeded", job
    return job


def known(stack: Stack) -> list[dict[str, Any]]:
    """All VMs as they must come back."""
    return [{name: vm[name] for name in KEPT} for vm in items(stack, "vms")]


def servers(stack: Stack) -> list[tuple[str, str, int]]:
    return [(one["id"], one["name"], one["port"]) for one in items(stack, "servers")]


def lose(stack: Stack) -> None:
    """Everything of the manager is gone; the new one is on another machine, hence has another address."""
    for name in ("nginx", "manager", "runner"):
        stack.end(name, signal.SIGKILL)
    shutil.rmtree(stack.manager_directory)
    shutil.rmtree(stack.run_directory)
    for path, mode in ((stack.manager_directory, 0o700), (stack.run_directory, 0o711)):
        path.mkdir()
        path.chmod(mode)
        shutil.chown(path, MANAGER_USER, MANAGER_USER)
    stack.port = free_port()
    stack.url = f"https://127.0.0.1:{stack.port}"
    settings = json.loads((stack.directory / "manager.yml").read_text())
    (stack.directory / "manager.yml").write_text(json.dumps({**settings, "url": stack.url, "web_port": stack.port}))


def begin(stack: Stack) -> None:
    """Set the new manager up and start it."""
    stack.command("init", "--password-stdin")
    stack.command("nginx-conf")
    for name in ("runner", "manager", "nginx"):
        stack.start(name)
    stack.wait_until_up()
    stack.client = stack.log_in()


def root(stack: Stack, *words: str, expected: int = 0, input: str = "") -> str:
    """Run domus-manager as root, as a person does; what it says."""
    command = [str(stack.install / "bin" / "domus-manager"), *words]
    done = subprocess.run(command, env=stack._environment(), cwd="/", input=input, capture_output=True, text=True, check=False)
    assert done.returncode == expected, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def rebuild(stack: Stack, *words: str, expected: int = 0) -> dict[str, Any]:
    """What came back."""
    return dict(json.loads(root(stack, "rebuild", *words, "-o", "json", expected=expected)))


def addresses(stack: Stack) -> list[str]:
    return [f"127.0.0.1:{port}" for port in stack.agent_ports]


def all_is_back(stack: Stack, before: dict[str, Any]) -> None:
    """The same servers, VMs and specifications; they report here; the old document has nothing to do."""
    assert servers(stack) == before["servers"]
    stack.wait_for(lambda: {one["state"] for one in items(stack, "servers")} == {"running"}, "callbacks of all servers")
    stack.wait_for(lambda: known(stack) == before["vms"], "the VMs")
    assert items(stack, "drift") == []
    assert stack.client.post("/api/v1/plans", DOCUMENT)["changed"] is False
    assert apply(stack)["changed"] is False


def state_of(stack: Stack, libvirtd: PrivateLibvirtd) -> dict[str, Any]:
    ids = {name: (libvirtd.virsh("domid", name), libvirtd.guest(name)) for name in ("runs", "runs-too")}
    return {"servers": servers(stack), "vms": known(stack), "ids": ids}


def test_with_the_keys_everything_comes_back_and_no_vm_notices(stack: Stack, private_libvirtd: PrivateLibvirtd, watcher: Watcher, tmp_path: Path) -> None:
    apply(stack)
    stack.wait_for(lambda: len(known(stack)) == 5, "the VMs and that of libvirt's test driver")
    before, heard = state_of(stack, private_libvirtd), len(watcher.heard())
    keys = tmp_path / "domus-keys"
    root(stack, "authority", "export", str(keys), input=PASSPHRASE)
    lose(stack)
    root(stack, "authority", "import", str(keys), input=PASSPHRASE)
    begin(stack)
    assert items(stack, "servers") == []
    told = rebuild(stack, "--from-servers", *addresses(stack), "127.0.0.1:1", expected=1)
    assert [(one["result"], one["name"]) for one in told["servers"]] == [("added", "s0"), ("added", "s1"), ("silent", None)], told
    assert told["servers"][0]["objects"]["vm"] == 3 and told["not_restored"], told
    all_is_back(stack, before)
    again = rebuild(stack, "--from-servers", *addresses(stack))
    assert [one["result"] for one in again["servers"]] == ["known", "known"], again
    ranged = rebuild(stack, "--range", "127.0.0.1-127.0.0.3", "--port", str(stack.agent_ports[0]))
    assert [(one["result"], one["name"]) for one in ranged["servers"]] == [("known", "s0")], ranged
    assert state_of(stack, private_libvirtd) == before
    assert watcher.heard()[heard:] == []
    # What happens from now on is told to the new manager.
    private_libvirtd.virsh("destroy", "runs-too")
    stack.wait_for(lambda: stack.client.get("/api/v1/vms/runs-too")["state"] == "stopped", "the news")
    assert watcher.heard()[heard:] != []


def test_without_the_keys_root_lets_the_new_manager_in_on_each_server(
    stack: Stack, private_libvirtd: PrivateLibvirtd, watcher: Watcher, tmp_path: Path
) -> None:
    apply(stack)
    stack.wait_for(lambda: len(known(stack)) == 5, "the VMs and that of libvirt's test driver")
    before, heard = state_of(stack, private_libvirtd), len(watcher.heard())
    old = tmp_path / "old"
    agent_client(stack, 0).close()  # now the manager has a certificate
    shutil.copytree(stack.manager_directory, old)
    lose(stack)
    begin(stack)
    told = rebuild(stack, "--from-servers", *addresses(stack), expected=1)
    assert [(one["result"], one["server"]) for one in told["servers"]] == [("foreign", id) for id, dummy, dummy2 in before["servers"]], told
    secrets = [stack.agent_command(number, "secret", "--rescue").split()[-1] for number in range(2)]
    for number in range(2):  # until the take-over nothing has changed for the old manager, should it still live
        client = AgentClient(
            "127.0.0.1", stack.agent_ports[number], before["servers"][number][0], *(str(old / name) for name in ("servers.crt", "manager.crt", "manager.key"))
        )
        assert client.call("hello")["owned"] is True
        client.close()
    file = tmp_path / "secrets"
    file.write_text(f"# the rack\ns0 {addresses(stack)[0]} {secrets[0]}\n- {addresses(stack)[1]} {secrets[1]}\n")
    file.chmod(0o600)
    told = rebuild(stack, "--secrets", str(file))
    assert [(one["result"], one["name"]) for one in told["servers"]] == [("taken over", "s0"), ("taken over", "s1")], told
    all_is_back(stack, before)
    assert [one["result"] for one in rebuild(stack, "--secrets", str(file))["servers"]] == ["known", "known"]
    assert state_of(stack, private_libvirtd) == before
    assert watcher.heard()[heard:] == []
    rescued = [event for event in items(stack, "events") if event["kind"] == "server.rescued"]
    assert len(rescued) == 2 and all(event["severity"] == "warning" for event in rescued), rescued
    for number in range(2):  # the old manager's rights have ended, and so has the secret
        place = ("127.0.0.1", stack.agent_ports[number])
        client = AgentClient(*place, before["servers"][number][0], *(str(old / name) for name in ("servers.crt", "manager.crt", "manager.key")))
        with pytest.raises(Unreachable):
            client.call("hello")
        with pytest.raises((Unreachable, Conflict)), AgentClient.peek(*place, secrets[number].split(":")[0]) as contact:
            contact.call("hello")


class Person:
    """Somebody who types what the runbook says; the addresses and places of the example are those of the stack."""

    def __init__(self, stack: Stack, directory: Path) -> None:
        self._stack, self._directory = stack, directory
        self._changed = {"/root/": f"{directory}/", "/var/backups/domus/": f"{directory}/", "site.yml": f"{directory}/site.yml"}
        self._changed |= {f"192.0.2.1{number}": address for number, address in enumerate(addresses(stack), 1)}
        (directory / "domus-passphrase").write_text(PASSPHRASE)
        (directory / "site.yml").write_text(json.dumps(DOCUMENT))

    def type(self, heading: str) -> dict[str, str]:
        """Carry out the commands under a heading of the runbook; what each said."""
        section = RUNBOOK.read_text().split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
        blocks = [block.split("```", 1)[0] for block in section.split("```sh\n")[1:]]
        lines = [line for block in blocks for line in block.splitlines() if line]
        assert lines, heading
        return {line: self._carry_out(line) for line in lines}

    def _carry_out(self, line: str) -> str:
        for there, here in self._changed.items():
            line = line.replace(there, here)
        program, *words = shlex.split(line)
        if program == "systemctl":
            return self._systemctl(*words)
        if program == "domus-manager":
            return root(self._stack, *words)
        if program == "domus-agent":
            told = [f"- {address} {self._stack.agent_command(number, *words).split()[-1]}" for number, address in enumerate(addresses(self._stack))]
            (self._directory / "secrets").write_text("\n".join(told))
            return ""
        command = [program] if program == "rm" else [str(self._stack.install / "bin" / program)]
        done = subprocess.run([*command, *words], env=self._environment(), cwd="/", capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
        return done.stdout

    def _systemctl(self, action: str, *units: str) -> str:
        """The services of the stack have other names; that of nginx writes its configuration first, as the unit does."""
        for unit in units:
            name = unit.removeprefix("domus-")
            if name in self._stack.processes:
                self._stack.end(name)
            if action == "restart":
                if name == "nginx":
                    self._stack.command("nginx-conf")
                self._stack.start(name)
        if action == "restart":
            self._stack.wait_until_up()
            root(self._stack, "reset-password", "--password-stdin", input=PASSWORD + "\n")
            self._stack.client = self._stack.log_in()
        return ""

    def _environment(self) -> dict[str, str]:
        token = (self._stack.client.authorization or "").partition(" ")[2]
        authority = str(self._stack.manager_directory / "web-ca.pem")
        return {"PATH": "/usr/bin:/bin", "HOME": str(self._directory), "DOMUS_URL": self._stack.url, "DOMUS_TOKEN": token, "DOMUS_CA": authority}


@pytest.mark.parametrize("heading", ["With the keys", "Without the keys"])
def test_the_runbook_is_right_word_for_word(stack: Stack, private_libvirtd: PrivateLibvirtd, watcher: Watcher, tmp_path: Path, heading: str) -> None:
    apply(stack)
    stack.wait_for(lambda: len(known(stack)) == 5, "the VMs and that of libvirt's test driver")
    before, heard, person = state_of(stack, private_libvirtd), len(watcher.heard()), Person(stack, tmp_path)
    person.type("Before that day")
    lose(stack)
    said = person.type(heading)
    assert "2 of 2 servers are here" in [text for line, text in said.items() if "rebuild" in line][0]
    all_is_back(stack, before)
    assert "s0" in person.type("Is everything back")["domus server list"]
    assert state_of(stack, private_libvirtd) == before and watcher.heard()[heard:] == []
