"""What the commands ask of the manager, what they print, and how they end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.shell_completion import ShellComplete
from domus_cli.commands import domus as root
from domus_core.errors import Conflict, Unauthorized, Unreachable
from domus_core.model.kinds import KINDS
from domus_core.verbs import VERBS

from .conftest import JOB, PLANNED, VM, FakeManager, Said

Domus = Callable[..., Said]
PLAN = "11111111-0000-4000-8000-000000000000"


def ended(**more: object) -> dict[str, object]:
    return {**JOB, "state": "succeeded", "changed": True, **more}


def test_vms_are_listed_as_a_table(manager: FakeManager, domus: Domus) -> None:
    manager.answers["GET", "/api/v1/vms"] = {"items": [VM]}
    said = domus("vm", "list", "--server", "s1", "--tag", "web")
    assert said.code == 0
    assert manager.asked == [("GET", "/api/v1/vms", None, {"server": "s1", "tag": "web"})]
    header, row = said.out.splitlines()
    assert header.split() == ["NAME", "STATE", "SERVER", "ADDRESSES", "CPUS", "MEMORY", "NOTES"]
    assert "web1" in row and "198.18.10.101" in row and "128MiB" in row and "restart required, drift" in row


@pytest.mark.parametrize(("format", "load"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_every_list_has_a_machine_form(manager: FakeManager, domus: Domus, format: str, load: Callable[[str], object]) -> None:
    manager.answers["GET", "/api/v1/vms"] = {"items": [VM]}
    assert load(domus("vm", "list", "-o", format).out) == [VM]


def test_a_query_chooses(manager: FakeManager, domus: Domus) -> None:
    manager.answers["GET", "/api/v1/vms"] = {"items": [VM]}
    assert domus("vm", "list", "--query", "[].name").json() == ["web1"]
    assert domus("vm", "list", "--query", "[").code == 64


def test_an_empty_list_says_so(manager: FakeManager, domus: Domus) -> None:
    manager.answers["GET", "/api/v1/vms"] = {"items": []}
    assert domus("vm", "list").out == "There are no virtual machines.\n"
    assert domus("vm", "list", "-o", "json").json() == []


def test_limit_stops_reading(manager: FakeManager, domus: Domus) -> None:
    manager.answers["GET", "/api/v1/vms"] = {"items": [VM] * 10}
    assert len(domus("vm", "list", "--limit", "3", "-o", "json").json()) == 3


def test_a_vm_is_shown(manager: FakeManager, domus: Domus) -> None:
    manager.answers["GET", "/api/v1/vms/web1"] = VM
    out = domus("vm", "show", "web1").out
    assert "generation" in out and "root (demo/VirtualDisks/web1-root.qcow2)" in out
    assert domus("vm", "show", "web1", "-o", "json").json() == VM


def test_people_are_let_in_and_out(manager: FakeManager, domus: Domus, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("correct horse battery\n")
    manager.answers["POST", "/api/v1/users"] = {"name": "ada", "role": "operator"}
    manager.answers["DELETE", "/api/v1/users/ada"] = None
    manager.answers["GET", "/api/v1/users"] = {"items": [{"name": "ada", "role": "operator"}]}
    said = domus("user", "add", "ada", "--role", "operator", "--password-file", str(tmp_path / "secret"))
    assert said.code == 0 and "ada may log in as operator" in said.out and "horse" not in said.out
    assert manager.asked[0][2] == {"name": "ada", "role": "operator", "password": "correct horse battery"}
    assert "ada" in domus("user", "list").out
    assert "not log in" in domus("user", "remove", "ada").out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_a_command(manager: FakeManager, domus: Domus, verb: str) -> None:
    manager.answers["POST", f"/api/v1/vms/web1/{verb}"] = ended(kind=verb)
    said = domus("vm", verb, "web1", "--timeout", "5", "--force")
    assert (said.code, manager.asked[0][2]) == (0, {"force": True, "timeout": 5})
    assert "job j1: succeeded, changed" in said.out


def test_every_kind_has_a_list(manager: FakeManager, domus: Domus) -> None:
    for kind in KINDS:
        path = kind.section.replace("_", "-")
        manager.answers["GET", f"/api/v1/{path}"] = manager.answers["GET", f"/api/v1/site/{path}"] = {"items": []}
        assert domus({"server_pool": "pool"}.get(kind.name, kind.name.replace("_", "-")), "list").code == 0


def test_what_is_on_many_servers_is_listed_once_and_shown_with_each(manager: FakeManager, domus: Domus) -> None:
    place = {"server": "s1", "state": "active", "stale": False, "drift": [], "differs": ["subnet"], "problem": None, "capacity": 2 << 40, "free": 1 << 40}
    lost = {"server": "s2", "state": None, "stale": True, "drift": [], "differs": [], "problem": "no such bridge"}
    item = {"name": "lan", "spec": {"mode": "nat"}, "count": 1, "states": {"active": 1, "inactive": 2}, "drifted": 2, "servers": [place, lost]}
    manager.answers["GET", "/api/v1/site/networks"] = {"items": [item]}
    manager.answers["GET", "/api/v1/site/networks/lan"] = item
    manager.answers["GET", "/api/v1/networks"] = {"items": [{"name": "lan", "state": "active", "server": "s1", "spec": {}}]}
    assert "1 active, 2 inactive" in domus("network", "list").out and "2 not as wanted" in domus("network", "list").out
    assert "s1" in domus("network", "list", "--server", "s1").out
    shown = domus("network", "show", "lan").out
    assert all(text in shown for text in ("differs: subnet", "missing?", "no such bridge; server silent", "2TiB", "1TiB"))


def test_how_busy_a_server_is_is_drawn(manager: FakeManager, domus: Domus) -> None:
    items = [
        {"at": "2026-11-22T10:00:00Z", "cpu": share, "cpus": 8, "load": [share * 8, 1, 1], "memory": 100 << 30, "memory_available": 60 << 30}
        for share in (0.1, 0.9)
    ]
    items[1] |= {"net": {"eth0": {"received": 2048.0, "sent": None}}, "file_systems": {"main": {"size": 1 << 40, "free": 1 << 39}}}
    manager.answers["GET", "/api/v1/servers/s1/statistics"] = {"step": 60, "items": items}
    out = domus("server", "statistics", "s1").out
    assert all(text in out for text in ("cpu", "90%", "40GiB", "eth0 received", "2KiB/s", "repository main used", "512GiB", "▂▇"))
    assert "eth0 sent" not in out and manager.asked[0][3].keys() == {"from"}
    manager.answers["GET", "/api/v1/servers/s1/statistics"] = {"step": 60, "items": []}
    assert "Nothing was measured" in domus("server", "statistics", "s1").out


def test_a_plan_is_shown_and_tells_by_its_code(manager: FakeManager, domus: Domus, tmp_path: Path) -> None:
    document, kept = tmp_path / "site.yml", tmp_path / "plan"
    document.write_text("vms: [{name: web1, memory: 256MiB}]")
    manager.answers["POST", "/api/v1/plans"] = {"id": PLAN, "changed": True, "objects": PLANNED, "errors": []}
    said = domus("plan", "-f", str(document), "--out", str(kept))
    assert said.code == 2
    assert manager.asked == [("POST", "/api/v1/plans", {"vms": [{"name": "web1", "memory": "256MiB"}]}, {})]
    assert "~ vm web1 on s1: to be changed\n      memory: 128MiB -> 256MiB" in said.out
    assert "+ vm new on s1: to be created (start)" in said.out
    assert "- vm old on s1: to be deleted (kill)" in said.out
    assert "same" not in said.out
    assert "Plan: 1 to create, 1 to change, 1 to delete." in said.out
    manager.answers["POST", f"/api/v1/plans/{PLAN}/apply"] = ended()
    assert domus("apply", str(kept)).code == 0


def test_a_plan_with_nothing_to_do_is_zero(manager: FakeManager, domus: Domus, tmp_path: Path) -> None:
    (tmp_path / "site.yml").write_text("{}")
    manager.answers["POST", "/api/v1/plans"] = {"id": PLAN, "changed": False, "objects": [], "errors": []}
    said = domus("plan", "-f", str(tmp_path / "site.yml"))
    assert (said.code, said.out) == (0, "No changes. The servers match the document.\n")


def test_a_plan_that_can_not_be_carried_out_says_why_and_is_no_plan(manager: FakeManager, domus: Domus, tmp_path: Path) -> None:
    (tmp_path / "site.yml").write_text("{}")
    errors = [Conflict("a disk can not shrink", object=f"vm {name}", field="disks[data].size").as_dict() for name in ("db1", "db2")]
    manager.answers["POST", "/api/v1/plans"] = {"id": PLAN, "changed": False, "objects": [], "errors": errors}
    said = domus("plan", "-f", str(tmp_path / "site.yml"), "--out", str(tmp_path / "kept"))
    assert said.code == 1 and said.out == "" and "vm db1 disks[data].size: a disk can not shrink" in said.err and "vm db2" in said.err
    assert not (tmp_path / "kept").exists()
    assert domus("plan", "-f", str(tmp_path / "site.yml"), "-o", "json").json()["errors"] == errors


def test_what_is_neither_a_plan_nor_a_file_is_told(manager: FakeManager, domus: Domus, tmp_path: Path) -> None:
    assert "neither a file nor the id of a plan" in domus("apply", "missing.plan").err
    (tmp_path / "site.yml").write_text("{}")
    manager.answers["POST", "/api/v1/plans"] = {"id": PLAN, "changed": True, "objects": PLANNED, "errors": []}
    said = domus("plan", "-f", str(tmp_path / "site.yml"), "--out", "/nonexistent/plan")
    assert said.code == 1 and "No such file or directory" in said.err and PLAN in said.err


def test_several_vms_are_one_list_for_programs(manager: FakeManager, domus: Domus) -> None:
    for name in ("web1", "db1"):
        manager.answers["POST", f"/api/v1/vms/{name}/start"] = ended(id=name)
    assert [job["id"] for job in domus("vm", "start", "web1", "db1", "-o", "json").json()] == ["web1", "db1"]


def test_drift_of_large_values_stays_readable(manager: FakeManager, domus: Domus) -> None:
    disk = {"name": "data", "bus": "virtio", "file": "demo/VirtualDisks/a-very-long-name-of-a-disk.qcow2", "size": 1 << 30}
    fields = [{"field": "disks[data]", "asked": disk, "recorded": disk, "defined": None, "running": None}]
    fields.append({"field": "memory", "asked": None, "recorded": 200 << 20, "defined": 180 << 20, "running": None})
    manager.answers["GET", "/api/v1/drift"] = {"items": [{**VM, "drift": fields}]}
    lines = domus("drift").out.splitlines()
    assert all(len(line) < 160 and line == line.rstrip() for line in lines)
    assert lines[1].startswith("vm    web1  s1") and "200MiB" in lines[2] and "180MiB" in lines[2]


def test_an_output_that_can_not_be_written_is_told(manager: FakeManager) -> None:
    done = subprocess.run(["/bin/sh", "-c", f"{sys.executable} -m domus_cli --help >/dev/full"], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


def test_a_document_is_no_plan(manager: FakeManager, domus: Domus, tmp_path: Path) -> None:
    (tmp_path / "site.yml").write_text("vms: []")
    said = domus("apply", str(tmp_path / "site.yml"))
    assert said.code == 1 and "is not a plan" in said.err and not manager.asked


def test_an_apply_follows_its_job(manager: FakeManager, domus: Domus, tmp_path: Path) -> None:
    (tmp_path / "site.yml").write_text("vms: []")
    manager.answers["POST", "/api/v1/apply"] = JOB
    manager.answers["GET", "/api/v1/jobs/j1"] = ended(result={"objects": PLANNED})
    manager.events = [("1", "event", json.dumps({"kind": "progress", "data": {"line": "create vm new"}})), ("2", "end", "{}")]
    said = domus("apply", "-f", str(tmp_path / "site.yml"), "--reason", "why")
    assert said.code == 0
    assert "create vm new" in said.out and "job j1: succeeded, changed" in said.out
    assert manager.asked[0][3]["reason"] == "why"


def test_a_broken_stream_is_taken_up_where_it_broke(manager: FakeManager, domus: Domus) -> None:
    states = iter([{**JOB, "state": "running"}, Unreachable("away"), ended()])

    def job(query: dict[str, object]) -> object:
        state = next(states)
        if isinstance(state, Unreachable):
            raise state
        return state

    manager.answers["GET", "/api/v1/jobs/j1"] = job
    manager.events = [("7", "event", json.dumps({"kind": "progress", "data": {"line": "one"}}))]
    assert domus("job", "tail", "j1").code == 0
    assert [asked[3]["last_event_id"] for asked in manager.asked if asked[0] == "STREAM"] == [None, "7"]


def test_what_should_be_known_of_a_vm_besides_is_said(manager: FakeManager, domus: Domus) -> None:
    done = {"kind": "vm", "name": "old", "changed": True, "actions": ["start"], "changes": [], "note": "is not managed by Domus"}
    manager.answers["POST", "/api/v1/vms/old/start"] = ended(result={"objects": [done]})
    assert "vm old is not managed by Domus" in domus("vm", "start", "old").out


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_job_that_did_not_succeed_is_a_failure(manager: FakeManager, domus: Domus, state: str) -> None:
    error = {"code": "conflict", "message": "is in use", "object": "vm web1", "remedy": "Stop it"}
    manager.answers["POST", "/api/v1/vms/web1/start"] = {**JOB, "state": state, "error": error}
    said = domus("vm", "start", "web1")
    assert said.code == 1 and "error (conflict): vm web1: is in use. Stop it" in said.out


def test_interrupting_leaves_the_job_and_says_how_to_follow_it(manager: FakeManager, domus: Domus) -> None:
    manager.answers["POST", "/api/v1/vms/web1/stop"] = JOB
    manager.answers["GET", "/api/v1/jobs/j1"] = KeyboardInterrupt()
    said = domus("vm", "stop", "web1")
    assert said.code == 130 and "domus job cancel j1" in said.out


def test_drift_is_shown_and_tells_by_its_code(manager: FakeManager, domus: Domus) -> None:
    manager.answers["GET", "/api/v1/drift"] = {"items": [VM]}
    said = domus("drift")
    assert said.code == 2 and said.out.splitlines()[1].split() == ["vm", "web1", "s1", "memory", "1", "2", "2", "2"]
    manager.answers["GET", "/api/v1/drift"] = {"items": []}
    assert domus("drift").code == 0


def test_adopting_prints_a_document(manager: FakeManager, domus: Domus) -> None:
    answer = {"document": {"site": "demo", "vms": [{"name": "old"}]}, "not_managed": {"old": ["devices/sound"]}}
    manager.answers["POST", "/api/v1/servers/s1/adopt"] = answer
    said = domus("adopt", "--server", "s1", "old", "--site", "demo")
    assert yaml.safe_load(said.out) == answer["document"]
    assert "vm old: devices/sound" in said.out
    assert manager.asked[0][2] == {"vms": ["old"], "site": "demo"}
    domus("adopt", "--server", "s1")
    assert manager.asked[1][2] == {"vms": None, "site": None}, "the manager knows its site"


def test_a_server_is_shown_with_its_facts_and_its_agents_problem(manager: FakeManager, domus: Domus) -> None:
    facts = {"hostname": "srv1.example", "memory": 1 << 34, "virtualization": "kvm", "libvirt_version": "9.0.0"}
    manager.answers["GET", "/api/v1/servers/s1"] = {"id": "x", "name": "s1", "state": "running", "problems": ["database: disk full"], "facts": facts}
    out = domus("server", "show", "s1").out
    assert all(text in out for text in ("srv1.example", "16GiB", "kvm", "9.0.0", "database: disk full"))


def test_the_facts_of_a_server_read_well(manager: FakeManager, domus: Domus) -> None:
    facts = {"cpu": {"vendor": "AMD", "model": "EPYC-Rome"}, "cpu_topology": {"sockets": 2, "cores": 16, "threads": 2}, "booted_at": 1795602060}
    facts |= {"numa_cells": [{"id": 0, "memory": 64 << 30, "cpus": [0, 1, 2, 8]}], "huge_pages": [{"cell": 0, "size": 2 << 20, "total": 512}]}
    facts |= {"block_devices": [{"name": "sda", "size": 1 << 40, "rotational": False, "model": "PM9A3", "made_of": []}]}
    facts |= {"interfaces": [{"name": "br0", "kind": "bridge", "link": True, "speed": 25000, "mac": "02:00:00:00:00:01", "ports": ["eth0"]}]}
    manager.answers["GET", "/api/v1/servers/s1"] = {
        "name": "s1",
        "state": "maintenance",
        "maintenance": True,
        "version": "0.1.0",
        "behind": True,
        "facts": facts,
    }
    out = domus("server", "show", "s1").out
    for text in ("AMD EPYC-Rome, 2 sockets x 16 cores x 2 threads", "CPUs 0-2,8, 512 huge pages of 2MiB", "sda  1TiB, solid state, PM9A3", "0.1.0 (behind)"):
        assert text in out
    assert "br0  bridge, link, 25000 Mbit/s, 02:00:00:00:00:01, of eth0" in out


def test_a_server_is_taken_out_of_use_and_back(manager: FakeManager, domus: Domus) -> None:
    manager.answers["PUT", "/api/v1/servers/s1/maintenance"] = {"name": "s1", "maintenance": True}
    assert "s1 is in maintenance" in domus("server", "maintenance", "s1", "on", "--reason", "new memory").out
    assert manager.asked[0][2] == {"enabled": True, "evacuate": False, "reason": "new memory"}
    assert domus("server", "maintenance", "s1", "off", "--evacuate").code == 64


def test_who_takes_a_server_out_of_use_sees_first_what_moves_and_what_stays(manager: FakeManager, domus: Domus) -> None:
    move = {"vm": "web1", "server": "s2", "possible": True, "reason": "least full", "errors": []}
    stays = {"vm": "db1", "reason": "is suspended: what it saved lies on this server"}
    manager.answers["POST", "/api/v1/servers/s1/evacuate?check=true"] = {"server": "s1", "possible": True, "moves": [move], "staying": [stays]}
    manager.answers["PUT", "/api/v1/servers/s1/maintenance"] = {"name": "s1", "maintenance": True}
    words = ("server", "maintenance", "s1", "on", "--evacuate", "--copy-storage", "--stopped")
    out = domus(*words).out
    assert out.index("least full") < out.index("vm db1 stays: is suspended") < out.index("s1 is in maintenance")
    chosen = {"copy_storage": True, "stopped": True}
    assert [asked[2] for asked in manager.asked] == [chosen, {"enabled": True, "evacuate": True, "reason": None, **chosen}]
    assert domus("server", "maintenance", "s1", "on", "--copy-storage").code == 64
    assert "vm db1 stays" in domus("server", "evacuate", "s1", "--check", "--stopped").out and manager.asked[-1][2] == {"stopped": True}


def test_a_server_is_added_with_a_secret_from_a_file(manager: FakeManager, domus: Domus, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("aa:bb\n")
    manager.answers["POST", "/api/v1/servers"] = {"id": "x", "name": "s1", "state": "unknown"}
    assert domus("server", "add", "s1", "192.0.2.1", "--secret", str(tmp_path / "secret")).code == 0
    assert manager.asked[0][2] == {"name": "s1", "address": "192.0.2.1", "port": 8899, "secret": "aa:bb"}


def test_events_are_watched(manager: FakeManager, domus: Domus) -> None:
    event = {"at": "2026-11-22T10:00:00Z", "severity": "info", "kind": "vm.started", "server": "s1", "object": {"kind": "vm", "key": "web1"}}
    manager.events = [("1", "event", json.dumps(event))]
    assert "vm.started  s1  vm web1" in domus("event", "watch").out
    domus("event", "watch", "--kind", "vm.*", "--object", "web1")
    assert manager.asked[-1][3] == {"last_event_id": None, "kind": "vm.*", "object": "web1"}


@pytest.mark.parametrize(("error", "code"), [(Conflict("no"), 1), (Unreachable("away"), 3), (Unauthorized("who"), 3)])
def test_errors_have_documented_codes(manager: FakeManager, domus: Domus, error: Exception, code: int) -> None:
    manager.answers["GET", "/api/v1/vms/web1"] = error
    said = domus("vm", "show", "web1")
    assert (said.code, said.err) == (code, f"error: {error}\n")
    assert json.loads(domus("vm", "show", "web1", "-o", "json").err)["message"] == error.message  # type: ignore[attr-defined]


def test_wrong_usage_is_64(manager: FakeManager, domus: Domus) -> None:
    assert domus("apply").code == 64
    assert domus("vm", "list", "--nonsense").code == 64
    assert domus("nonsense").code == 64


def test_names_are_completed(manager: FakeManager) -> None:
    manager.answers["GET", "/api/v1/vms"] = {"items": [VM, {**VM, "name": "db1"}]}
    completion = ShellComplete(root, {}, "domus", "_DOMUS_COMPLETE")
    assert [item.value for item in completion.get_completions(["vm", "start"], "w")] == ["web1"]
    manager.answers["GET", "/api/v1/vms"] = Unreachable("away")
    assert completion.get_completions(["vm", "start"], "w") == []


def test_the_completion_script_is_printed(domus: Domus) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert "_DOMUS_COMPLETE" in domus("completion", shell).out


def test_cpu_groups_say_what_all_of_their_servers_have(manager: FakeManager, domus: Domus) -> None:
    cpu = {"model": "EPYC", "vendor": "AMD", "require": ["pku"], "disable": ["sha-ni"]}
    members = [{"server": "s1", "cpu": cpu}, {"server": "s2", "cpu": None}]
    groups = [{"name": "rack1", "members": members, "baseline": cpu, "problem": None}, {"name": "rack2", "members": [], "baseline": None, "problem": "no"}]
    manager.answers["GET", "/api/v1/cpu-groups"] = {"items": groups}
    header, first, second = domus("server", "cpu-groups").out.splitlines()
    assert header.split() == ["GROUP", "SERVERS", "BASELINE"]
    assert "s1, s2 (not told)" in first and "EPYC +pku -sha-ni" in first and "none: no" in second


POOL = {"pool": "default", "servers": ["s1", "s2"], "before": 0.5, "after": 0.1, "switches": [], "stuck": {}, "waiting": None, "uncounted": []}


def test_a_balance_shows_each_step_with_its_reason(manager: FakeManager, domus: Domus) -> None:
    move = {"vm": "web1", "id": "1", "source": "s1", "server": "s2", "server_id": "2", "reason": "memory: 90%"}
    switch = {"action": "power off", "server": "s1", "server_id": "1", "reason": "its VMs have room"}
    pool = {**POOL, "moves": [move], "switches": [switch], "stuck": {"db": "no tag"}, "waiting": "enough", "uncounted": ["network"]}
    manager.answers["GET", "/api/v1/balance"] = {"mode": "dpm", "pools": [pool]}
    said = domus("server", "balance", "--mode", "dpm", "--most-moves", "2")
    assert said.code == 0 and manager.asked == [("GET", "/api/v1/balance", None, {"mode": "dpm", "most_moves": 2})]
    for text in ("2 servers, spread 0.5000 -> 0.1000", "move", "web1", "memory: 90%", "power off", "vm db stays: no tag", "enough", "of network"):
        assert text in said.out


def test_an_even_site_needs_nothing(manager: FakeManager, domus: Domus) -> None:
    manager.answers["GET", "/api/v1/balance"] = {"mode": "drs", "pools": [{**POOL, "moves": []}]}
    assert "Nothing is to be done." in domus("server", "balance").out
    assert domus("server", "balance", "-o", "json").json()["pools"][0]["moves"] == []


def test_a_plan_is_carried_out_in_each_pool_that_has_something_to_do(manager: FakeManager, domus: Domus) -> None:
    move = {"vm": "web1", "id": "1", "source": "s1", "server": "s2", "server_id": "2", "reason": "memory: 90%"}
    pools = [{**POOL, "moves": [move]}, {**POOL, "pool": "even", "moves": []}]
    manager.answers["GET", "/api/v1/balance"] = {"mode": "drs", "pools": pools}
    entry = {"kind": "vm", "name": "web1", "server": "s2", "changed": True, "actions": ["migrate"], "note": "memory: 90%"}
    manager.answers["POST", "/api/v1/server-pools/default/balance"] = ended(kind="balance", result={"objects": [entry]})
    said = domus("server", "balance", "--most-moves", "1", "--run")
    assert said.code == 0 and "vm web1 on s2" in said.out and "memory: 90%" in said.out
    assert manager.asked[1:] == [("POST", "/api/v1/server-pools/default/balance", {"mode": "drs", "most_moves": 1}, {})]


def test_a_pools_own_policy_is_shown_and_carried_out_on_request(manager: FakeManager, domus: Domus) -> None:
    manager.answers["POST", "/api/v1/server-pools/rack1/balance?check=true"] = {"mode": "drs", "pools": [{**POOL, "pool": "rack1", "moves": []}]}
    assert "Nothing is to be done." in domus("pool", "balance", "rack1").out
    manager.answers["POST", "/api/v1/server-pools/rack1/balance"] = {"mode": "dpm", "pools": [{**POOL, "pool": "rack1", "moves": []}]}
    said = domus("pool", "balance", "rack1", "--mode", "dpm", "--run")
    assert said.code == 0 and "Nothing is to be done." in said.out
    assert [one[2] for one in manager.asked] == [{}, {"mode": "dpm"}]
    manager.answers["POST", "/api/v1/server-pools/rack1/balance"] = ended(kind="balance", state="failed", error={"code": "conflict", "message": "no room"})
    assert domus("pool", "balance", "rack1", "--run").code == 1


def test_a_server_is_switched_off_and_on(manager: FakeManager, domus: Domus) -> None:
    entry = {"kind": "server", "name": "s1", "server": "s1", "changed": True, "actions": ["power off"]}
    manager.answers["POST", "/api/v1/servers/s1/power-off"] = ended(kind="power_off", result={"objects": [entry]})
    said = domus("server", "power-off", "s1", "--yes", "--reason", "new memory")
    assert said.code == 0 and "server s1 on s1: changed (power off)" in said.out and manager.asked[0][3] == {"reason": "new memory"}
    assert domus("server", "power-off", "s1").code != 0, "it is asked first"
    manager.answers["POST", "/api/v1/servers/s1/power-on"] = ended(kind="power_on", state="failed", error={"code": "unreachable", "message": "no route"})
    said = domus("server", "power-on", "s1")
    assert said.code == 1 and "no route" in said.out


def test_what_if_a_server_dies(manager: FakeManager, domus: Domus) -> None:
    moves = [{"vm": "web1", "server": "s2", "possible": True, "reason": "least full", "errors": []}]
    manager.answers["GET", "/api/v1/servers/s1/loss"] = {"server": "s1", "possible": True, "moves": moves}
    said = domus("server", "what-if", "s1")
    assert said.code == 0 and "least full" in said.out
    error = {"code": "no_capacity", "message": "no server can take it"}
    moves.append({"vm": "web2", "server": None, "possible": False, "reason": "", "errors": [error]})
    manager.answers["GET", "/api/v1/servers/s1/loss"] = {"server": "s1", "possible": False, "moves": moves}
    said = domus("server", "what-if", "s1")
    assert said.code == 1 and "no server can take it" in said.out


def test_a_flag_of_one_document_is_no_column(manager: FakeManager, domus: Domus) -> None:
    found = {"name": "main", "count": 2, "states": {"available": 2}, "spec": {"name": "main", "path": "/srv/main"}}
    manager.answers["GET", "/api/v1/site/repositories"] = {"items": [found]}
    manager.answers["GET", "/api/v1/repositories"] = {"items": [{**found, "server": "s1", "state": "available"}]}
    for words in (("repository", "list"), ("repository", "list", "--server", "s1")):
        heading = domus(*words).out.splitlines()[0]
        assert "PATH" in heading and "UNMOUNT" not in heading
