"""The inventory plugin, run by ansible-inventory against a manager."""

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

from tests.contract.fake_manager import FakeManager, running_manager
from tests.contract.test_modules import LAN, base

ROOT = Path(__file__).resolve().parents[3]
BIN = Path(sys.executable).parent
PLUGIN = ROOT / "plugins/inventory/domus.py"


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[FakeManager]:
    """A manager with a server and three VMs: one runs and has an address, one bears the server's name."""
    lookup = "{{ lookup('pipe', 'touch " + str(tmp_path / "mark") + "') }}"
    vms: list[dict[str, Any]] = [
        {"name": "web1", "tags": ["front", "web"], "description": lookup, "nics": [{"name": "eth0", "network": LAN}], "state": "running"},
        {"name": "web2", "tags": ["web"]},
        {"name": "srv1"},
    ]
    with running_manager(tmp_path) as made:
        made.answer("POST", "/api/v1/apply", {"wait_for_address": "5"}, {**base(tmp_path), "vms": vms})
        made.items_changed = lambda item: {**item, "addresses": ["192.0.2.7", "2001:db8::7"]} if item["name"] == "web1" else item
        yield made


def ansible(manager: FakeManager, directory: Path, command: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command of Ansible in the directory, with the manager in its environment."""
    settings = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "DOMUS_"))},
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"),
        "ANSIBLE_HOME": str(directory / "ansible"),
        "ANSIBLE_NOCOLOR": "true",
        "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "true",
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
        "DOMUS_URL": manager.url,
        "DOMUS_TOKEN": manager.token,
        "DOMUS_CA": str(manager.authority),
        "PATH": f"{BIN}:{os.environ['PATH']}",
        **environment,
    }
    return subprocess.run([str(BIN / command), *arguments], cwd=directory, env=settings, capture_output=True, text=True, timeout=120, check=False)


def listed(manager: FakeManager, directory: Path, source: str, **environment: str) -> dict[str, Any]:
    """What ansible-inventory tells of a source; the marks of unsafe text are taken away."""
    (directory / "inventory.domus.yml").write_text(source)
    done = ansible(manager, directory, "ansible-inventory", "-i", "inventory.domus.yml", "--list", **environment)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    return dict(json.loads(done.stdout, object_hook=lambda data: data.get("__ansible_unsafe", data)))


def hosts_of(told: dict[str, Any]) -> set[str]:
    """The names of all hosts."""
    return set(told["_meta"]["hostvars"])


def test_servers_and_vms_are_hosts_with_addresses_and_groups(manager: FakeManager, tmp_path: Path) -> None:
    source = {
        "plugin": "domus.virt.domus",
        "keyed_groups": [{"key": "domus_tags", "prefix": "tag"}],
        "groups": {"up": "domus_spec is defined and domus_state == 'running'"},
    }
    source |= {"compose": {"memory": "domus_spec.memory"}, "strict": False}
    told = listed(manager, tmp_path, json.dumps(source))
    variables = told["_meta"]["hostvars"]
    assert told["domus_servers"]["hosts"] == ["srv1"] and set(told["domus_vms"]["hosts"]) == {"web1", "web2", "srv1.srv1"}
    assert told["up"]["hosts"] == ["web1"] and set(told["tag_web"]["hosts"]) == {"web1", "web2"} and told["tag_front"]["hosts"] == ["web1"]
    assert variables["srv1"]["ansible_host"] == "192.0.2.1" and variables["srv1"]["domus_state"] == "running"
    web1 = variables["web1"]
    assert (web1["ansible_host"], web1["domus_server"], web1["domus_state"]) == ("192.0.2.7", "srv1", "running")
    assert web1["memory"] == web1["domus_spec"]["memory"] > 0 and web1["domus_tags"] == ["front", "web"]
    assert "ansible_host" not in variables["web2"] and variables["web2"]["domus_addresses"] == []


@pytest.mark.slow
def test_what_a_vm_says_of_itself_is_no_template(manager: FakeManager, tmp_path: Path) -> None:
    source = {"plugin": "domus.virt.domus", "compose": {"copied": "domus_spec.description"}, "keyed_groups": [{"key": "domus_spec.description"}]}
    (tmp_path / "inventory.domus.yml").write_text(json.dumps(source))
    tasks = [
        {"ansible.builtin.debug": {"msg": f"{{{{ {name} }}}}"}} for name in ("domus_spec.description", "copied", "group_names", "hostvars[inventory_hostname]")
    ]
    (tmp_path / "play.yml").write_text(json.dumps([{"hosts": "web1", "gather_facts": False, "tasks": tasks}]))
    done = ansible(manager, tmp_path, "ansible-playbook", "-i", "inventory.domus.yml", "play.yml")
    assert done.returncode == 0 and done.stdout.count("lookup('pipe'") >= 3, done.stdout + done.stderr
    assert not (tmp_path / "mark").exists()


def test_filters_leave_out(manager: FakeManager, tmp_path: Path) -> None:
    plugin = "plugin: domus.virt.domus\n"
    assert hosts_of(listed(manager, tmp_path, plugin + "what: servers")) == {"srv1"}
    assert hosts_of(listed(manager, tmp_path, plugin + "what: vms")) == {"web1", "web2", "srv1"}
    assert hosts_of(listed(manager, tmp_path, plugin + "what: vms\nstate: [running, paused]\nsite: default")) == {"web1"}
    assert "/api/v1/vms?limit=500&site=default" in [path for dummy, path, dummy in manager.requests]


def test_the_cache_spares_the_manager(manager: FakeManager, tmp_path: Path) -> None:
    source = f"plugin: domus.virt.domus\ncache: true\ncache_plugin: ansible.builtin.jsonfile\ncache_connection: {tmp_path}/cache\n"
    first = listed(manager, tmp_path, source)
    asked = len(manager.requests)
    assert asked and listed(manager, tmp_path, source) == first and len(manager.requests) == asked
    assert manager.token not in "".join(path.read_text() for path in (tmp_path / "cache").iterdir())


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"DOMUS_TOKEN": "domus_wrong"}, "the token is not valid"),
        ({"DOMUS_URL": "http://192.0.2.1"}, "Use https"),
        ({"DOMUS_CA": "/nowhere"}, "can not be read"),
    ],
)
def test_errors_are_told_without_traceback(environment: dict[str, str], told: str, manager: FakeManager, tmp_path: Path) -> None:
    (tmp_path / "inventory.domus.yml").write_text("plugin: domus.virt.domus\n")
    done = ansible(manager, tmp_path, "ansible-inventory", "-i", "inventory.domus.yml", "--list", **environment)
    assert done.returncode != 0 and told in done.stderr and "Traceback" not in done.stderr and "domus_wrong" not in done.stderr, done.stderr


def test_the_examples_run(manager: FakeManager, tmp_path: Path) -> None:
    examples = PLUGIN.read_text().split('EXAMPLES = r"""', 1)[1].split('"""', 1)[0]
    found = [one for one in examples.split("---\n") if "plugin:" in one]
    assert len(found) == 3
    for example in found:
        example = example.replace("/tmp/domus-inventory", str(tmp_path / "cache"))
        assert yaml.safe_load(example)["plugin"] == "domus.virt.domus"
        assert "web1" in hosts_of(listed(manager, tmp_path, example))
