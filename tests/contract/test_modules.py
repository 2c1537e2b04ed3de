"""The contract of every module: check, apply, apply again, check; and a real run of its examples."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.server_under_test import PREFIX

ROOT = Path(__file__).resolve().parents[2]
GROUP = yaml.safe_load((ROOT / "meta/runtime.yml").read_text())["action_groups"]["all"]
# What manages no object of a document has tests of its own (tests/unit/plugins): the servers of a manager, and files of a host.
ABOUT_SERVERS, OF_HOSTS = {"managed_server", "server_maintenance"}, {"libvirt_config", "tree"}
ALL = [name for name in GROUP if name not in ABOUT_SERVERS]
KINDS = [name for name in ALL if f"{name}_info" in ALL]
SECTIONS = {"repository": "repositories"}

CANARY = "canary-7f3a"
SECRETS = {"vnc": {"password": CANARY[:8]}, "cloud_init": {"user_data": f"password: {CANARY}", "network_config": f"# {CANARY}"}}
LAN, WEB1, WEB2, WEB3 = (f"{PREFIX}-{name}" for name in ("lan", "web1", "web2", "web3"))
DISK = {"name": "root", "template": "debian12", "size": "2GiB"}
NIC = {"name": "eth0", "network": LAN}


def base(directory: Path, *, lan: str = LAN) -> dict[str, Any]:
    """What VMs need, as a document."""
    return {
        "networks": [{"name": lan, "mode": "isolated", "subnet": "198.18.254.0/24", "dhcp": {"start": "198.18.254.100", "end": "198.18.254.200"}}],
        "repositories": [{"name": "main", "path": str(directory / "main")}],
        "templates": [{"name": "debian12", "image": "main/debian-12.qcow2"}],
        "isos": [{"name": "debian12-netinst", "image": "main/debian-12-netinst.iso"}],
    }


# For each module the tasks that follow each other on one server; `base` names the sections of the base document that must be there first.
TASKS: dict[str, tuple[tuple[str, ...], list[dict[str, Any]]]] = {
    "server": ((), [{"name": "srv1", "virtualization": "qemu"}, {"name": "srv1", "description": "rack 1"}]),
    "network": (
        (),
        [
            {"name": LAN, "mode": "isolated", "subnet": "198.51.100.0/24"},
            {"name": LAN, "subnet": "198.51.100.0/24", "dhcp": {"start": "198.51.100.10", "end": "198.51.100.20"}, "autostart": False},
            {"name": LAN, "state": "inactive"},
            {"name": LAN, "state": "absent"},
        ],
    ),
    "repository": ((), [{"name": "main", "path": "DIRECTORY/main"}, {"name": "main", "description": "local disks"}, {"name": "main", "state": "absent"}]),
    "server_pool": (
        (),
        [
            {"name": "lab", "servers": ["srv1", "srv2"], "clustered": False},
            {"name": "lab", "servers": ["srv1"], "description": "two servers on a desk"},
            {"name": "lab", "start_policy": "current"},
            {"name": "lab", "state": "absent"},
        ],
    ),
    "virtual_disk": (
        ("repositories",),
        [
            {"name": "data1", "repository": "main", "size": "1MiB"},
            {"name": "data1", "repository": "main", "size": "2MiB"},
            {"name": "data1", "repository": "main", "state": "absent"},
        ],
    ),
    "iso": (("repositories",), [{"name": "cd", "image": "main/debian-12-netinst.iso"}, {"name": "cd", "description": "it"}, {"name": "cd", "state": "absent"}]),
    "template": (("repositories",), [{"name": "t", "image": "main/debian-12.qcow2"}, {"name": "t", "description": "it"}, {"name": "t", "state": "absent"}]),
    "vm": (
        ("networks", "repositories", "templates", "isos"),
        [
            {"name": WEB1, "memory": "64MiB", "memory_max": "128MiB", "disks": [DISK], "nics": [NIC], **SECRETS},
            {"name": WEB1, "description": "front <end> & more", "tags": ["web"], "cpus_max": 2},
            {"name": WEB1, "state": "running"},
            {"name": WEB1, "cdroms": [{"name": "cd", "iso": "debian12-netinst"}], "memory_max": "256MiB"},
            {"name": WEB1, "disks": [{"name": "data", "repository": "main", "size": "1MiB"}], "cloud_init": {"user_data": f"other {CANARY}"}},
            {"name": WEB1, "state": "stopped", "stop_timeout": 1, "force_stop": True},
            {"name": WEB1, "state": "absent", "delete_disks": True},
        ],
    ),
    "apply": (
        (),
        [
            {"document": {"vms": [{"name": WEB1, "memory": "64MiB", "disks": [DISK], "nics": [NIC], **SECRETS}]}},
            {"document": {"vms": [{"name": WEB1, "cpus": 2}, {"name": WEB2, "server": "srv1"}, {"name": WEB3, "server": "srv2"}]}},
            {"document": {"vms": [{"name": WEB1, "state": "absent", "delete_disks": True}, {"name": WEB2, "state": "absent"}]}},
        ],
    ),
}


def tasks_for(name: str, server: Any) -> list[dict[str, Any]]:
    """The tasks of a module on this server; where nothing runs that could be changed, only those that define."""
    tasks = TASKS[name][1]
    if server.has_guests:
        return tasks
    idle = {"state": "inactive"} if name == "network" else {}
    return [{**idle, **task} for task in tasks if task.get("state") in (None, "absent")]


def arguments_of(name: str, task: dict[str, Any], directory: Path) -> dict[str, Any]:
    """A task's options, for this server's directory; `apply` gets its document as its action plugin would give it."""
    if name == "apply":
        return as_apply({**base(directory), **task["document"]})
    return json.loads(json.dumps(task).replace("DIRECTORY", str(directory)))


def as_apply(document: dict[str, Any]) -> dict[str, Any]:
    """The options of `apply` for a document."""
    return {"file": "site.yml", "document_json": json.dumps(document), "server": "srv1"}


def prepare(run: Any, server: Any, sections: tuple[str, ...]) -> None:
    """Bring these sections of the base document onto the server."""
    if sections:
        result = run("apply", as_apply({section: base(server.directory)[section] for section in sections}))
        assert not result.get("failed"), result


def test_every_module_has_its_tasks() -> None:
    assert set(TASKS) | {f"{name}_info" for name in KINDS} == set(ALL)
    assert {path.stem for path in (ROOT / "plugins/modules").glob("*.py")} == set(GROUP) | OF_HOSTS


@pytest.mark.parametrize("name", sorted(TASKS))
def test_check_apply_apply_check(name: str, run: Any, server: Any) -> None:
    prepare(run, server, TASKS[name][0])
    for task in tasks_for(name, server):
        arguments = arguments_of(name, task, server.directory)
        before = server.written()
        foretold = run(name, arguments, check=True)
        assert server.written() == before, "check mode has written something"
        done = run(name, arguments)
        assert not foretold.get("failed") and not done.get("failed"), (foretold, done)
        assert foretold["changed"] is done["changed"] is True
        assert foretold["diff"] == done["diff"] != []
        assert foretold["actions"] == done["actions"]
        assert sorted(foretold["restart_required"]) == sorted(done["restart_required"])
        for check in (False, True):
            after = server.written()
            again = run(name, arguments, check=check)
            assert (again["changed"], again["diff"], again["actions"]) == (False, [], []), again
            assert server.written() == after


@pytest.mark.parametrize("kind", KINDS)
def test_info_modules_tell_and_change_nothing(kind: str, run: Any, server: Any) -> None:
    sections, tasks = TASKS[kind]
    prepare(run, server, sections)
    made = run(kind, arguments_of(kind, tasks[0], server.directory))["object"]
    before = server.written()
    for check in (False, True):
        told = run(f"{kind}_info", {"name": tasks[0]["name"]}, check=check)
        (one,) = told[SECTIONS.get(kind, f"{kind}s")]
        assert told["changed"] is False
        steady = set(made) & set(one) - {"free", "facts", *(("state",) if kind == "server" else ())}
        assert {"kind", "name"} <= steady
        assert {name: one[name] for name in steady} == {name: made[name] for name in steady}
        assert one["spec"]["name"] == tasks[0]["name"]
    assert run(f"{kind}_info", {"name": "nothing-of-this-name"})[SECTIONS.get(kind, f"{kind}s")] == []
    assert server.written() == before


def test_an_apply_takes_what_concerns_its_server(run: Any, server: Any) -> None:
    run("apply", arguments_of("apply", TASKS["apply"][1][1], server.directory))
    assert {vm["name"] for vm in run("vm_info", {})["vms"] if vm["name"].startswith(PREFIX)} == {WEB1, WEB2}


@pytest.mark.parametrize(
    ("name", "arguments", "code", "field"),
    [
        ("vm", {"name": "-rf"}, "invalid_spec", "name"),
        ("vm", {"name": "web9", "memory": "2 gigs"}, "invalid_spec", "memory"),
        ("vm", {"name": "web9", "disks": [{"name": "root", "template": "none"}]}, "not_found", "disks[root].template"),
        ("vm_info", {"name": "../../etc/passwd"}, "invalid_spec", ""),
        ("virtual_disk", {"name": "a", "repository": "main", "size": "512"}, "not_found", "repository"),
        ("network", {"name": "n", "wait_timeout": -1}, "invalid_spec", "wait_timeout"),
        ("apply", {"file": "x", "document_json": "[" * 100_000}, "invalid_spec", ""),
        ("apply", {"file": "x", "document_json": '{"vmz": []}'}, "invalid_spec", "vmz"),
        ("apply", {"file": "x"}, "invalid_spec", "document_json"),
    ],
)
def test_what_can_not_be_is_refused_with_code_and_field(name: str, arguments: dict[str, Any], code: str, field: str, run: Any, server: Any) -> None:
    before = server.written()
    for check in (True, False):
        result = run(name, arguments, check=check)
        assert (result["failed"], result["changed"], result["error"]["code"], result["error"].get("field", "")) == (True, False, code, field)
        assert result["error"]["message"] in result["msg"]
        assert "Traceback" not in json.dumps(result) and "exception" not in result
    assert server.written() == before


@pytest.mark.parametrize("server", ["fake"], indirect=True)
def test_a_file_that_is_no_server_is_refused(run: Any, server: Any) -> None:
    result = run("server", {"name": "srv1", "uri": "fake:///etc/passwd"})
    assert (result["failed"], result["error"]["code"], result["error"]["field"]) == (True, "invalid_spec", "uri")


WITHOUT = """
import sys
sys.modules["{missing}"] = None
sys.path.insert(0, "{collections}")
from ansible.module_utils.testing import patch_module_args
from ansible_collections.domus.virt.plugins.modules import vm
with patch_module_args({{"name": "web1", "uri": "test:///default", "state_directory": "{directory}"}}):
    vm.main()
"""


@pytest.mark.parametrize(("missing", "package"), [("libvirt", "python3-libvirt"), ("lxml", "python3-lxml")])
def test_a_missing_package_is_named(missing: str, package: str, tmp_path: Path) -> None:
    program = WITHOUT.format(missing=missing, collections=ROOT / ".collections", directory=tmp_path)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    result = json.loads(done.stdout)
    assert result["error"]["code"] == "unsupported" and package in result["msg"], result


def test_a_secret_is_in_no_result_and_no_log(run: Any, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[str] = []
    monkeypatch.setattr("ansible.module_utils.basic.has_journal", False)
    monkeypatch.setattr("syslog.syslog", lambda *words: logged.append(str(words)))
    sections, tasks = TASKS["vm"]
    prepare(run, server, sections)
    wrong = {"name": WEB2, "vnc": {"password": CANARY}, "cloud_init": {"user_data": f"{CANARY}\0"}}
    told = [run("vm", task) for task in (tasks[0], tasks[4], wrong)]
    told += [run("apply", as_apply({"vms": [vm]})) for vm in ({**SECRETS, "name": WEB3}, wrong)]
    told += [run("vm_info", {}), run("vm", {"name": WEB1, "state": "absent"})]
    assert [result.get("failed", False) for result in told] == [False, False, True, False, True, False, False]
    assert len(logged) >= len(told) and WEB1 in "".join(logged)
    assert "salt" not in json.dumps(told), "a digest can be guessed at"
    for secret in (CANARY, CANARY[:8]):
        assert secret not in json.dumps(told)
        assert secret not in "".join(logged)
