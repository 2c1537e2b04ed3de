"""What only a real ansible-playbook shows: the examples run, and a document stays data on its way to the server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from domus_core.engine import apply
from domus_core.fake_driver.file_driver import open_file_driver
from domus_core.model.document import parse_document

from tests.contract.servers import FakeServer
from tests.contract.test_modules import ALL, CANARY, as_apply, base

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
MARK = "template-ran"


def play(directory: Path, tasks: list[dict[str, Any]], hosts: str = "localhost", **defaults: str) -> dict[str, Any]:
    """A play whose modules all work on the fake server of this directory."""
    uri = defaults.pop("uri", f"fake://{directory}/server.json")
    settings = {"uri": uri, "state_directory": str(directory), **defaults}
    return {"hosts": hosts, "gather_facts": False, "module_defaults": {"group/domus.virt.all": settings}, "tasks": tasks}


def playbook(directory: Path, plays: list[dict[str, Any]], *options: str) -> subprocess.CompletedProcess[str]:
    """Run a playbook of these plays in the directory."""
    (directory / "play.yml").write_text(yaml.safe_dump(plays, sort_keys=False))
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")},
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"),
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false",
        "ANSIBLE_NOCOLOR": "true",
        "ANSIBLE_HOME": str(directory / "ansible"),
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    command = [str(BIN / "ansible-playbook"), "play.yml", *options]
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=300, check=False)


def changed(output: str) -> int:
    """How many tasks of the first host in the recap changed something."""
    return int(output.rsplit("PLAY RECAP", 1)[1].split("changed=", 1)[1].split()[0])


def examples_of(name: str) -> list[dict[str, Any]]:
    """The tasks in a module's EXAMPLES."""
    text = (ROOT / f"plugins/modules/{name}.py").read_text()
    return list(yaml.safe_load(text.split('EXAMPLES = r"""\n', 1)[1].split('"""\n', 1)[0]))


# What must be there before a module's examples run.
NEEDED = {"network": (), "repository": (), "iso": ("repositories",), "template": ("repositories",)}


@pytest.mark.slow
def test_the_examples_of_every_module_run(tmp_path: Path) -> None:
    plays = []
    for name in ALL:
        directory = tmp_path / name
        directory.mkdir()
        server, all_sections = FakeServer(directory), base(directory, lan="lan")
        needed = {section: all_sections[section] for section in NEEDED.get(name, all_sections)}
        apply(parse_document(needed if name != "apply" else {}), open_file_driver(server.parameters["uri"]))
        examples = examples_of(name)
        assert any(f"domus.virt.{name}" in task for task in examples)
        # Adoption reads libvirt's own XML, so the examples of vm_info need libvirt: its test driver.
        plays.append(play(directory, examples, **({"uri": "test:///default"} if name == "vm_info" else {})))
    vms = [{"name": "web1", "nics": [{"name": "eth0", "network": "lan"}], "state": "running"}]
    (tmp_path / "site.yml").write_text(json.dumps({**base(tmp_path / "apply", lan="lan"), "vms": vms}))
    done = playbook(tmp_path, plays)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "WARNING" not in done.stderr, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("server", ["fake"], indirect=True)
def test_nothing_of_a_document_is_a_template_and_no_secret_is_told(run: Any, server: Any) -> None:
    lookup = "{{ lookup('pipe', 'touch " + str(server.directory / MARK) + "') }}"
    document = {**base(server.directory), "vms": [{"name": "web1", "description": lookup, "cloud_init": {"user_data": f"{CANARY} {lookup}"}}]}
    (server.directory / "site.yml").write_text(yaml.safe_dump(document))
    done = playbook(server.directory, [play(server.directory, [{"domus.virt.apply": {"file": "site.yml"}}])], "-vvvv", "--diff")
    assert done.returncode == 0 and changed(done.stdout) == 1, done.stdout[-3000:]
    assert CANARY not in done.stdout + done.stderr
    assert lookup in json.dumps(run("vm_info", {})["vms"][0]["spec"]["description"]).replace('\\"', '"')
    assert run("apply", as_apply(document), check=True)["changed"] is False, "the user data that arrived is not that of the document"
    assert not (server.directory / MARK).exists(), "something of the document was run as a template"
    assert CANARY not in (server.directory / "server.json").read_text()


@pytest.mark.slow
def test_a_play_with_several_hosts_needs_a_server_for_every_vm(tmp_path: Path) -> None:
    FakeServer(tmp_path)
    (tmp_path / "hosts").write_text("one ansible_connection=local\ntwo ansible_connection=local\n")
    task = {"domus.virt.apply": {"file": "site.yml", "uri": "fake://" + str(tmp_path) + "/{{ inventory_hostname }}.json"}}
    (tmp_path / "site.yml").write_text(json.dumps({"vms": [{"name": "web1", "server": "one"}, {"name": "web2"}]}))
    refused = playbook(tmp_path, [play(tmp_path, [task], hosts="all")], "-i", "hosts")
    assert refused.returncode == 2 and "vm web2 server: 1 VMs do not say on which of the 2 hosts" in refused.stdout, refused.stdout
    assert not list(tmp_path.glob("one.json")) + list(tmp_path.glob("two.json"))
    (tmp_path / "site.yml").write_text(json.dumps({"vms": [{"name": name, "server": name} for name in ("one", "two", "three")]}))
    done = playbook(tmp_path, [play(tmp_path, [task], hosts="all")], "-i", "hosts")
    assert done.returncode == 0 and "servers that are no hosts of this play: three" in done.stderr, done.stdout + done.stderr
    for name in ("one", "two"):
        assert list(json.loads((tmp_path / f"{name}.json").read_text())["objects"]["vm"]) == [name]


@pytest.mark.slow
def test_a_vaulted_document_is_decrypted_and_errors_are_told_without_traceback(tmp_path: Path) -> None:
    FakeServer(tmp_path)
    (tmp_path / "password").write_text("open sesame\n")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "site.yml").write_text(f"vms:\n- name: web1\n  cloud_init: {{user_data: {CANARY}}}\n- name: ../web2\n")
    encrypt = [str(BIN / "ansible-vault"), "encrypt", "--vault-password-file", "password", "files/site.yml"]
    subprocess.run(encrypt, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    assert CANARY not in (tmp_path / "files" / "site.yml").read_text()
    tasks = [
        {"domus.virt.apply": {"file": "site.yml"}, "ignore_errors": True},
        {"domus.virt.apply": {"file": "nothing.yml"}, "ignore_errors": True},
        {"domus.virt.apply": {"file": "site.yml", "document_json": "{}"}},
    ]
    done = playbook(tmp_path, [play(tmp_path, tasks)], "--vault-password-file", "password", "-vvv")
    assert done.returncode == 2
    for told in ("name: is not a name", "nothing.yml", "document_json: is not for tasks"):
        assert told in done.stdout, done.stdout
    assert "Traceback" not in done.stdout + done.stderr and CANARY not in done.stdout + done.stderr
