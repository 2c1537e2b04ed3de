"""`python -m domus_core snapshot` and `adopt`, as a person types them, on libvirt's test driver."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

SOURCES = Path(__file__).parents[2] / "plugins" / "module_utils"


def command(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
    return subprocess.run([sys.executable, "-m", "domus_core", *words], cwd=folder, env=environment, capture_output=True, text=True, check=False)


NODE = """<node><domain type='test'><name>test</name><memory>65536</memory><vcpu>1</vcpu><os><type>hvm</type></os>
<devices><disk type='file'><source file='{folder}/disk.img'/><target dev='vda' bus='virtio'/>
<iotune><total_iops_sec>9</total_iops_sec></iotune></disk></devices>
</domain></node>"""


def on_test_driver(name: str, *words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "disk.img").write_bytes(bytes(1 << 20))
    (folder / "node.xml").write_text(NODE.format(folder=folder))
    done = command(name, "--uri", f"test://{folder}/node.xml", "--state-directory", str(folder / "state"), *words, folder=folder)
    assert done.returncode == 0, done.stderr
    return done


def test_an_adopted_document_planned_on_a_snapshot_only_takes_charge(tmp_path: Path) -> None:
    (tmp_path / "site.yml").write_text(on_test_driver("adopt", folder=tmp_path).stdout)
    (tmp_path / "snapshot.json").write_text(on_test_driver("snapshot", "site.yml", folder=tmp_path).stdout)
    done = command("-o", "json", "site.yml", "snapshot.json", folder=tmp_path)
    assert done.returncode == 2, done.stderr
    steps = {step["kind"]: step for step in json.loads(done.stdout)["steps"]}
    assert steps.keys() == {"repository", "vm"} and steps["repository"]["action"] == "create"
    assert [(change["field"], change["after"]) for change in steps["vm"]["changes"]] == [("managed", True)]


def test_the_adopted_document_names_the_vm_and_what_it_can_not_hold(tmp_path: Path) -> None:
    done = on_test_driver("adopt", "test", folder=tmp_path)
    document = yaml.safe_load(done.stdout)
    assert [(vm["name"], vm["adopted"], vm["state"]) for vm in document["vms"]] == [("test", True, "running")]
    as_json = json.loads(on_test_driver("adopt", "-o", "json", "test", folder=tmp_path).stdout)
    assert as_json["document"] == document
    assert [line.rsplit(": ", 1)[1] for line in done.stdout.splitlines() if line.startswith("# not managed")] == as_json["not_managed"]["test"]


def test_an_edited_document_is_planned_with_exit_code_2(tmp_path: Path) -> None:
    document = yaml.safe_load(on_test_driver("adopt", folder=tmp_path).stdout)
    document["vms"][0]["description"] = "changed"
    (tmp_path / "site.json").write_text(json.dumps(document))
    (tmp_path / "snapshot.json").write_text(on_test_driver("snapshot", "site.json", folder=tmp_path).stdout)
    done = command("-o", "json", "site.json", "snapshot.json", folder=tmp_path)
    assert done.returncode == 2
    assert [step["action"] for step in json.loads(done.stdout)["steps"]] == ["create", "update"]


def test_errors_are_one_line_without_traceback(tmp_path: Path) -> None:
    for words in (
        ["absent.yml", "absent.json"],
        ["adopt", "--uri", "nonsense:///"],
        ["adopt", "--uri", "test:///default", "--state-directory", "state", "unknown-vm"],
    ):
        done = command(*words, folder=tmp_path)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
