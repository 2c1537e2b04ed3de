"""Operations of a real agent: an apply and verbs, once for each id, over kills, cancelling and a stop."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

from domus_core.clients.agent import AgentClient

from tests.support.agent_process import NETWORK, Owner, RunningAgent, ended, hold, lines, raises_code, submit_apply, wait_until

SECRET = "not-to-be-found-anywhere"


def described(client: AgentClient, kind: str, key: str) -> Any:
    """What the agent tells the manager of an object, None when it is gone."""
    return next((one for one in client.call("inventory")["objects"] if (one["kind"], one["key"]) == (kind, key)), None)


def test_an_apply_changes_once_and_describes_what_it_made(agent: RunningAgent, client: AgentClient) -> None:
    plan = client.call("plan", document=NETWORK)
    assert plan["check"] is True and plan["changed"] is True
    first = submit_apply(client, NETWORK, expected=plan["fingerprint"])
    assert (first["state"], first["error"], lines(first)) == ("succeeded", None, ["create network lan", "start network lan"])
    (entry,) = first["result"]["objects"]
    assert entry["name"] == "lan" and described(client, "network", "lan")["state"] == "active"
    assert first["mark"] > 0
    assert client.call("plan", document=NETWORK)["changed"] is False
    assert submit_apply(client, NETWORK)["result"]["changed"] is False
    gone = submit_apply(client, {"networks": [{"name": "lan", "state": "absent"}]})
    assert gone["state"] == "succeeded" and described(client, "network", "lan") is None
    outdated = submit_apply(client, {"networks": [{"name": "lan", "state": "absent"}]}, expected=plan["fingerprint"])
    assert (outdated["state"], outdated["error"]["code"]) == ("failed", "conflict")


def test_the_same_id_is_the_same_operation(client: AgentClient) -> None:
    first = submit_apply(client, NETWORK, "op-1")
    again = client.call("submit", operation="op-1", kind="apply", document=NETWORK)
    assert again == first
    with raises_code("conflict"):
        client.call("submit", operation="op-1", kind="apply", document={"networks": []})
    with raises_code("conflict"):
        client.call("submit", operation="op-1", kind="verb", vm="test", verb="start")


def test_what_is_wrong_is_refused_before_it_is_kept(client: AgentClient) -> None:
    wrong: list[dict[str, Any]] = [
        {"kind": "apply", "document": {"nonsense": []}},
        {"kind": "apply", "document": []},
        {"kind": "apply"},
        {"kind": "apply", "document": {}, "patience": -1},
        {"kind": "verb", "vm": "test", "verb": "explode"},
        {"kind": "verb", "vm": "test", "verb": "start", "force": "yes"},
    ]
    for parameters in wrong:
        with raises_code("invalid_spec"):
            client.call("submit", operation="op", **parameters)
    for parameters in ({"kind": "sing", "document": {}}, {"kind": "apply", "document": {}, "chekc": True}):
        with raises_code("unsupported"):  # what an agent does not know came from a newer caller, as far as a client can tell
            client.call("submit", operation="op", **parameters)
    with raises_code("invalid_spec"):
        client.call("submit", operation="../op", kind="apply", document={})
    with raises_code("not_found"):
        client.call("status", operation="op")


def test_verbs_change_the_run_state(client: AgentClient) -> None:
    for number, (verb, state) in enumerate([("kill", "stopped"), ("start", "running"), ("restart", "running"), ("start", "running")]):
        client.call("submit", operation=f"v{number}", kind="verb", vm="test", verb=verb, force=True)
        status = ended(client, f"v{number}")
        assert (status["state"], status["error"]) == ("succeeded", None)
        assert described(client, "vm", "test")["state"] == state
    assert status["result"]["changed"] is False
    client.call("submit", operation="none", kind="verb", vm="nobody", verb="start")
    assert ended(client, "none")["error"]["code"] == "not_found"


def test_cancel_ends_what_waits_and_what_never_began(agent: RunningAgent, client: AgentClient) -> None:
    names = [f"op{number}" for number in range(6)]
    with hold(agent, "network", "lan"):
        for name in names:
            client.call("submit", operation=name, kind="apply", document=NETWORK)
        for name in reversed(names):
            client.call("cancel", operation=name)
        assert [ended(client, name)["state"] for name in names] == ["cancelled"] * 6
    assert client.call("plan", document=NETWORK)["changed"] is True
    assert client.call("cancel", operation="op0")["state"] == "cancelled"


def test_an_agent_that_is_killed_does_the_same_operation_again(agent: RunningAgent, owner: Owner, client: AgentClient) -> None:
    with hold(agent, "network", "lan"):
        client.call("submit", operation="op", kind="apply", document=NETWORK)
        wait_until(lambda: client.call("status", operation="op")["state"] == "running")
        agent.kill()
    agent.start()
    after = owner.client(agent)
    status = after.call("status", operation="op")
    assert (status["state"], status["error"]["code"]) == ("failed", "interrupted")
    with raises_code("conflict"):
        after.call("submit", operation="op", kind="apply", document={"networks": []})
    assert submit_apply(after, NETWORK, "op")["state"] == "succeeded"


def test_sigterm_lets_work_end_and_takes_nothing_new(agent: RunningAgent, owner: Owner, client: AgentClient) -> None:
    with hold(agent, "network", "lan"):
        client.call("submit", operation="op", kind="apply", document=NETWORK)
        wait_until(lambda: client.call("status", operation="op")["state"] == "running")
        assert agent.process is not None
        agent.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "ending; 1 operations" in agent.log.read_text())
    assert agent.process.wait(30) == 0
    agent.start()
    assert owner.client(agent).call("status", operation="op")["state"] == "succeeded"


def test_secrets_stay_in_memory(agent: RunningAgent, client: AgentClient) -> None:
    document = {"vms": [{"name": "v", "cpus": 1, "memory": "64MiB", "cloud_init": {"user_data": f"#cloud-config\npassword: {SECRET}\n"}}]}
    with hold(agent, "vm", "v"):
        client.call("submit", operation="op", kind="apply", document=document)
        wait_until(lambda: client.call("status", operation="op")["state"] == "running")
        assert files_with(agent.directory / "agent", SECRET) == []
    status = ended(client, "op")
    assert SECRET not in json.dumps(status) + json.dumps(client.call("inventory"))
    assert files_with(agent.directory / "agent", SECRET) == []
    assert SECRET not in agent.log.read_text()


def files_with(directory: Path, text: str) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]
