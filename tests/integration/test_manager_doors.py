"""One manager, four doors: curl's way, the domus command, playbooks and inventory; all lead to the same VMs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from domus_core.clients.manager import ManagerClient
from domus_core.errors import Forbidden, PreconditionFailed, Unauthorized

from tests.support.stack import PASSWORD, WEB_AUTHORITY, Stack

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """A whole Domus with two servers; libvirt's test driver makes a world of its own for each agent."""
    made = Stack(("test:///default", "test:///default"))
    try:
        yield made.up()
    finally:
        made.close()


@pytest.fixture
def environment(stack: Stack, tmp_path: Path) -> dict[str, str]:
    """What a person has in the environment after `domus login`."""
    (tmp_path / "password").write_text(PASSWORD)
    values = {"PATH": f"{BIN}:/usr/bin:/bin", "HOME": str(tmp_path), "LANG": "C.UTF-8"}
    authority = stack.manager_directory / WEB_AUTHORITY
    words = ["login", "--url", stack.url, "--ca", str(authority), "--password-file", str(tmp_path / "password")]
    assert run(values, "domus", *words).returncode == 0
    kept = yaml.safe_load((tmp_path / ".config/domus/config.yml").read_text())
    return {**values, "DOMUS_URL": stack.url, "DOMUS_TOKEN": kept["token"], "DOMUS_CA": str(authority)}


def run(environment: dict[str, str], program: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a program of .venv."""
    return subprocess.run([BIN / program, *words], env=environment, cwd=environment["HOME"], capture_output=True, text=True, timeout=120, check=False)


def vm(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "server": "s0", "memory": "16MiB", **fields}


def test_the_command_plans_applies_and_shows(environment: dict[str, str], tmp_path: Path) -> None:
    document = tmp_path / "site.yml"
    document.write_text(yaml.safe_dump({"vms": [vm("c1", state="running"), vm("c2", server="s1")]}))
    planned = run(environment, "domus", "plan", "-f", str(document), "--out", "kept")
    assert planned.returncode == 2, planned.stderr
    assert "+ vm c1 on s0: to be created (start)" in planned.stdout and "+ vm c2 on s1: to be created" in planned.stdout
    applied = run(environment, "domus", "apply", "kept")
    assert applied.returncode == 0, applied.stderr
    assert "create vm c1" in applied.stdout and "succeeded, changed" in applied.stdout
    again = run(environment, "domus", "plan", "-f", str(document))
    assert (again.returncode, again.stdout) == (0, "No changes. The servers match the document.\n")
    listed = run(environment, "domus", "vm", "list", "-o", "json", "--query", "[?starts_with(name, 'c')].[name, server, state]")
    assert json.loads(listed.stdout) == [["c1", "s0", "running"], ["c2", "s1", "stopped"]]
    for verb, state in (("suspend", "suspended"), ("resume", "running"), ("kill", "stopped"), ("start", "running")):
        assert run(environment, "domus", "vm", verb, "c1").returncode == 0, verb
        shown = run(environment, "domus", "vm", "show", "c1", "-o", "json")
        assert json.loads(shown.stdout)["state"] == state
    assert run(environment, "domus", "drift").returncode == 0
    assert "vm.started" in run(environment, "domus", "event", "list", "--object", "c1").stdout
    assert run(environment, "domus", "job", "list").stdout.count("succeeded") >= 5


def test_a_plan_that_the_world_has_overtaken_is_refused(environment: dict[str, str], stack: Stack, tmp_path: Path) -> None:
    stack.client.apply_and_wait({"vms": [vm("old")]})
    (tmp_path / "site.yml").write_text(yaml.safe_dump({"vms": [vm("old", description="new")]}))
    assert run(environment, "domus", "plan", "-f", "site.yml", "--out", "kept").returncode == 2
    stack.client.apply_and_wait({"vms": [vm("old", description="another")]})
    refused = run(environment, "domus", "apply", "kept")
    assert refused.returncode == 1 and "changed since" in refused.stdout + refused.stderr
    assert stack.client.get("/api/v1/vms/old")["spec"]["description"] == "another"


def test_bad_input_is_refused_before_anything_is_stored(stack: Stack, environment: dict[str, str], tmp_path: Path) -> None:
    before = stack.client.get("/api/v1/jobs")["items"][:1]
    (tmp_path / "site.yml").write_text("vms: [{name: bad, memory: lots}, {name: worse, nonsense: 1}]")
    refused = run(environment, "domus", "apply", "-f", "site.yml")
    assert refused.returncode == 1 and "vm bad memory" in refused.stderr and "vm worse nonsense" in refused.stderr
    assert stack.client.get("/api/v1/jobs")["items"][:1] == before


def test_single_objects_are_made_replaced_and_deleted(stack: Stack) -> None:
    client = stack.client
    made = client.post("/api/v1/vms", vm("single", description="first"), wait=30)
    assert made["state"] == "succeeded"
    item = client.get("/api/v1/vms/single")
    replaced = client.put(f"/api/v1/vms/{item['id']}", vm("single", description="second"), etag=item["etag"], wait=30)
    assert replaced["state"] == "succeeded"
    with pytest.raises(PreconditionFailed):
        client.put(f"/api/v1/vms/{item['id']}", vm("single", description="third"), etag=item["etag"])
    assert client.delete("/api/v1/vms/single", wait=30)["state"] == "succeeded"
    assert "single" not in [one["name"] for one in client.pages("/api/v1/vms")]


def test_server_is_only_where_a_vm_starts_its_life(stack: Stack) -> None:
    stack.client.apply_and_wait({"vms": [vm("twin")]})
    assert stack.client.apply_and_wait({"vms": [vm("twin", server="s1", description="stays")]})["state"] == "succeeded"
    assert [(one["server"], one["spec"]["description"]) for one in stack.client.pages("/api/v1/vms", name="twin")] == [("s0", "stays")]


def test_who_may_do_what(stack: Stack) -> None:
    authority = str(stack.manager_directory / WEB_AUTHORITY)
    viewer = stack.client.post("/api/v1/tokens", {"name": "a viewer", "role": "viewer"})["token"]
    looks = ManagerClient(stack.url, viewer, authority)
    assert looks.get("/api/v1/vms")["items"] is not None
    with pytest.raises(Forbidden):
        looks.post("/api/v1/apply", {"vms": []})
    with pytest.raises(Unauthorized):
        ManagerClient(stack.url, "domus_wrong", authority).get("/api/v1/vms")


def play(directory: Path, environment: dict[str, str], tasks: list[dict[str, Any]], *options: str) -> subprocess.CompletedProcess[str]:
    """A play on this machine whose modules go through the manager."""
    settings = {"group/domus.virt.all": {"transport": "manager"}}
    plays = [{"hosts": "localhost", "gather_facts": False, "module_defaults": settings, "tasks": tasks}]
    (directory / "play.yml").write_text(yaml.safe_dump(plays, sort_keys=False))
    ansible = {"ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"), "ANSIBLE_LOCALHOST_WARNING": "false", "ANSIBLE_NOCOLOR": "true"}
    ansible |= {"ANSIBLE_PYTHON_INTERPRETER": sys.executable, "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false"}
    return run({**environment, **ansible}, "ansible-playbook", "play.yml", *options)


def test_playbooks_go_through_the_manager(stack: Stack, environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "site.yml").write_text(yaml.safe_dump({"vms": [vm("p1", state="running", description="by a play")]}))
    tasks = [
        {"name": "All", "domus.virt.apply": {"file": "site.yml"}},
        {"name": "One", "domus.virt.vm": {**vm("p2"), "tags": ["play"]}},
        {"name": "Look", "domus.virt.vm_info": {"name": "p1"}, "register": "found"},
        {"name": "It runs", "ansible.builtin.assert": {"that": ["found.vms[0].state == 'running'"]}},
    ]
    planned = play(tmp_path, environment, tasks[:2], "--check", "--diff")
    assert planned.returncode == 0 and "changed=2" in planned.stdout and "by a play" in planned.stdout, planned.stdout
    assert "p1" not in [one["name"] for one in stack.client.pages("/api/v1/vms")]
    done = play(tmp_path, environment, tasks)
    assert done.returncode == 0 and "changed=2" in done.stdout, done.stdout
    again = play(tmp_path, environment, tasks)
    assert again.returncode == 0 and "changed=0" in again.stdout, again.stdout


def test_servers_and_vms_are_hosts(stack: Stack, environment: dict[str, str], tmp_path: Path) -> None:
    stack.client.apply_and_wait({"vms": [vm("host1", tags=["web"], state="running")]})
    (tmp_path / "my.domus.yml").write_text(yaml.safe_dump({"plugin": "domus.virt.domus", "keyed_groups": [{"key": "domus_state", "prefix": "state"}]}))
    told = run({**environment, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections")}, "ansible-inventory", "-i", "my.domus.yml", "--list")
    inventory = json.loads(told.stdout)
    assert {"s0", "s1"} <= set(inventory["domus_servers"]["hosts"])
    assert "host1" in inventory["domus_vms"]["hosts"] and "host1" in inventory["state_running"]["hosts"]
    assert "127.0.0.1" in str(inventory["_meta"]["hostvars"]["s0"]["ansible_host"])


def test_a_local_change_on_an_owned_server_is_refused_or_reported(stack: Stack, environment: dict[str, str], tmp_path: Path) -> None:
    settings = {"uri": "test:///default", "state_directory": str(stack.directory / "state0"), "transport": "local"}
    task = {"name": "Behind its back", "domus.virt.vm": {"name": "behind", "memory": "16MiB", **settings}}
    refused = play(tmp_path, environment, [task])
    assert refused.returncode != 0 and "owned_by_manager" in refused.stdout
    forced = play(tmp_path, environment, [{**task, "domus.virt.vm": {**task["domus.virt.vm"], "force_local": True}}])  # type: ignore[dict-item]
    assert forced.returncode == 0, forced.stdout
    stack.wait_for(lambda: list(stack.client.pages("/api/v1/events", kind="server.forced_local_change"))[0], "the report")


def test_the_environment_is_not_needed_on_the_server_itself(stack: Stack) -> None:
    assert json.loads(stack.agent_command(0, "status", "-o", "json"))
    assert os.path.exists(stack.directory / "state0" / "owner.json")
