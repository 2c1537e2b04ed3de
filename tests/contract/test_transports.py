"""The transports of real plays: a manager in place of the hosts, and `local` on a server that a manager owns."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from domus_core.owner import mark, owner

from tests.contract.fake_manager import FakeManager, running_manager
from tests.contract.test_modules import ALL, CANARY, KINDS, SECRETS, as_apply, base
from tests.contract.test_playbooks import playbook

FORCED = "forced-changes.jsonl"
VM = {"name": "web1", "memory": "64MiB"}


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[FakeManager]:
    """A manager with an empty server."""
    with running_manager(tmp_path) as made:
        yield made


def play(tasks: list[dict[str, Any]], options: dict[str, Any]) -> list[dict[str, Any]]:
    """A play on this machine with options for all modules."""
    return [{"hosts": "localhost", "gather_facts": False, "module_defaults": {"group/domus.virt.all": options}, "tasks": tasks}]


@pytest.mark.slow
def test_apply_goes_from_the_control_node_to_the_manager(manager: FakeManager, tmp_path: Path) -> None:
    (tmp_path / "site.yml").write_text(yaml.safe_dump({**base(tmp_path), "vms": [{**VM, **SECRETS, "state": "running"}]}))
    task = {"domus.virt.apply": {"file": "site.yml", "wait_for": "address", "wait_timeout": 7}, "register": "done"}
    show = {"ansible.builtin.debug": {"var": "done.objects"}}
    foretold = playbook(tmp_path, play([task], manager.options), "--check", "--diff")
    assert foretold.returncode == 0 and "+name: web1" in foretold.stdout and "changed=1" in foretold.stdout, foretold.stdout + foretold.stderr
    assert not manager.jobs
    done = playbook(tmp_path, play([task, show], manager.options), "-vvvv", "--diff")
    assert done.returncode == 0 and "changed=1" in done.stdout and '"server": "srv1"' in done.stdout, done.stdout + done.stderr
    assert [path for method, path, dummy in manager.requests if method == "POST"][1:] == ["/api/v1/apply?wait_for_address=7"]
    again = playbook(tmp_path, play([task], manager.options))
    assert "changed=0" in again.stdout, again.stdout
    told = "".join(text for one in (foretold, done, again) for text in (one.stdout, one.stderr))
    assert CANARY not in told and manager.token not in told


@pytest.mark.slow
def test_an_error_of_the_manager_fails_the_task_as_an_error_of_the_engine_does(manager: FakeManager, tmp_path: Path) -> None:
    (tmp_path / "site.yml").write_text(json.dumps({"vms": [{**VM, "disks": [{"name": "root", "template": "nothing"}]}]}))
    tasks = [
        {"domus.virt.apply": {"file": "site.yml"}, "ignore_errors": True},
        {"domus.virt.vm": VM | {"disks": [{"name": "root", "template": "nothing"}]}, "ignore_errors": True},
        {"domus.virt.apply": {"file": "site.yml", "manager_token": "{{ wrong }}"}, "ignore_errors": True},
        {"domus.virt.apply": {"file": "site.yml", "wait_timeout": -1}, "ignore_errors": True},
        {"domus.virt.apply": {"file": "site.yml", "wait_for": "godot"}},
    ]
    done = playbook(tmp_path, play(tasks, manager.options), "-e", "wrong=domus_other")
    assert done.returncode == 2 and "Traceback" not in done.stdout + done.stderr and "domus_other" not in done.stdout + done.stderr
    assert done.stdout.count("disks[root].template") >= 2, done.stdout
    for told in ("the token is not valid", "is less than 0", "godot"):
        assert told in done.stdout, done.stdout


@pytest.mark.slow
def test_the_environment_says_the_transport(manager: FakeManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "site.yml").write_text(json.dumps({"vms": [VM]}))
    for name, value in {"TRANSPORT": "manager", "URL": manager.url, "TOKEN": manager.token, "CA": str(manager.authority)}.items():
        monkeypatch.setenv(f"DOMUS_{name}", value)
    done = playbook(tmp_path, play([{"domus.virt.apply": {"file": "site.yml"}}, {"domus.virt.vm": {**VM, "cpus": 2}}, {"domus.virt.vm_info": {}}], {}))
    assert done.returncode == 0 and "changed=2" in done.stdout and len(manager.jobs) == 2, done.stdout + done.stderr


@pytest.mark.slow
def test_the_environment_of_a_host_does_not_decide_for_the_control_node(manager: FakeManager, tmp_path: Path) -> None:
    (tmp_path / "site.yml").write_text(json.dumps({"vms": [VM]}))
    task = {"domus.virt.apply": {"file": "site.yml"}, "environment": {"DOMUS_TRANSPORT": "manager"}}
    done = playbook(tmp_path, play([task], {"uri": manager.uri, "state_directory": str(tmp_path)}))
    assert done.returncode == 0 and "changed=1" in done.stdout and not manager.requests, done.stdout + done.stderr


@pytest.mark.slow
def test_the_site_playbook_sends_its_document_once_for_all_hosts(manager: FakeManager, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("[servers]\none\ntwo\n[servers:vars]\nansible_connection=local\n")
    (tmp_path / "site.yml").write_text(json.dumps({"vms": [VM]}))
    variables = {"domus_site_file": f"{tmp_path}/site.yml", "domus_transport": "manager", "domus_manager_url": manager.url}
    variables |= {"domus_manager_ca": str(manager.authority), "domus_manager_token": manager.token}
    done = playbook(tmp_path, [{"import_playbook": "domus.virt.site"}], "-i", "hosts", "--tags", "site", "-e", json.dumps(variables))
    assert done.returncode == 0 and len(manager.jobs) == 1, done.stdout + done.stderr


@pytest.mark.parametrize("server", ["fake"], indirect=True)
def test_on_an_owned_server_only_what_changes_is_refused(run: Any, server: Any) -> None:
    assert run("vm", VM)["changed"]
    mark(str(server.directory), "manager-1", "https://manager.example.org:7002")
    before = server.written()
    for arguments in (VM, {**VM, "force_local": True}):
        assert run("vm", arguments)["changed"] is False
    assert run("vm", {**VM, "cpus": 2}, check=True)["changed"] is True
    assert [vm["name"] for vm in run("vm_info", {})["vms"]] == ["web1"]
    for name, arguments in (("vm", {**VM, "cpus": 2}), ("apply", as_apply({"vms": [{**VM, "cpus": 2}]}))):
        refused = run(name, arguments)
        assert (refused["failed"], refused["changed"], refused["error"]["code"]) == (True, False, "owned_by_manager")
        assert "https://manager.example.org:7002" in refused["msg"] and "domus_transport" in refused["msg"]
    assert server.written() == before


@pytest.mark.parametrize("server", ["fake"], indirect=True)
def test_a_forced_change_is_written_down_before_it_happens(run: Any, server: Any) -> None:
    mark(str(server.directory), "manager-1", "https://manager.example.org:7002")
    assert run("vm", {**VM, **SECRETS, "force_local": True})["changed"] is True
    assert run("vm", {**VM, "cpus": 2, "force_local": True})["changed"] is True
    path = server.directory / FORCED
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["actions"] for line in lines] == [["create vm web1"], ["update vm web1"]]
    assert {(line["site"], line["user"], line["count"]) for line in lines} == {("default", os.getuid(), 1)}
    assert path.stat().st_mode & 0o777 == 0o600 and CANARY not in path.read_text()
    path.unlink()
    path.mkdir()
    refused = run("vm", {**VM, "cpus": 3, "force_local": True})
    assert refused["failed"] and FORCED in refused["msg"]
    assert run("vm_info", {})["vms"][0]["spec"]["cpus"] == 2
    assert owner(str(server.directory)) is not None


@pytest.mark.parametrize("server", ["fake"], indirect=True)
@pytest.mark.parametrize("name", ALL)
def test_what_is_missing_for_a_manager_is_named(name: str, run: Any, server: Any) -> None:
    arguments = as_apply({}) if name == "apply" else {"name": "a", "repository": "main"} if name == "virtual_disk" else {"name": "a"} if name in KINDS else {}
    for given, missing in (({}, "manager_url"), ({"manager_url": "https://127.0.0.1:1"}, "manager_token")):
        refused = run(name, {**arguments, **given, "transport": "manager"})
        assert (refused["error"]["code"], refused["error"]["field"]) == ("invalid_spec", missing)


@pytest.mark.parametrize("server", ["fake"], indirect=True)
def test_an_unexpected_error_is_told_without_traceback_and_without_its_words(run: Any, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(dummy: Any) -> Any:
        raise KeyError(CANARY)

    monkeypatch.setattr("ansible_collections.domus.virt.plugins.module_utils.module_glue.open_driver_for", stumble)
    result = run("vm", VM)
    assert result["failed"] and result["error"]["code"] == "unexpected" and "Please report this" in result["msg"]
    assert "KeyError" in result["msg"] and "Traceback" not in json.dumps(result) and CANARY not in json.dumps(result)


@pytest.mark.parametrize("server", ["manager"], indirect=True)
def test_adoption_through_a_manager_is_refused(run: Any, server: Any) -> None:
    refused = run("vm_info", {"as_document": True})
    assert (refused["error"]["code"], refused["error"]["field"]) == ("unsupported", "as_document")
