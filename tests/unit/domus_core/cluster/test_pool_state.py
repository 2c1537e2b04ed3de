"""The state of a pool from what Pacemaker 2.1.5 and Corosync 3.1.7 printed on test hosts with Debian 12 (the files in samples/)."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from domus_core.cluster.corosync_state import Votes, read_links, read_votes
from domus_core.cluster.pool_problems import VM_ACTIONS
from domus_core.cluster.pool_state import PoolState, pool_state, read_pool_state, told_of
from domus_core.cluster.pool_status import status_from

SAMPLES = Path(__file__).parent / "samples"
IDS = {"h1": 1, "h2": 2, "h3": 3}


def state_of(name: str) -> PoolState:
    """The state as h1 told it when the files of this name were written."""
    status = status_from((SAMPLES / f"{name}-crm_mon.xml").read_bytes())
    votes = read_votes((SAMPLES / f"{name}-quorum.txt").read_text())
    return pool_state("pool1", "h1", status, votes, read_links((SAMPLES / f"{name}-links.txt").read_text(), IDS))


def test_a_healthy_pool_has_nothing_to_tell() -> None:
    told = told_of(state_of("healthy"))
    assert told == json.loads(json.dumps(told))
    assert (told["pool"], told["quorate"], told["coordinator"], told["problems"]) == ("pool1", True, "h1", [])
    assert told["votes"] == {"expected": 3, "total": 3, "quorum": 2}
    assert told["members"] == dict.fromkeys(IDS, "online")
    assert [(link["link"], link["member"], link["connected"]) for link in told["links"]] == [(0, "h2", True), (0, "h3", True)]
    assert told["fence_devices"] == {"power": ["h1"]} and told["vms"] == {"vm0": ["h2"], "vm1": ["h3"]}


def test_a_server_that_can_not_be_cut_is_told_once_with_what_to_do() -> None:
    state = state_of("not-fenced")
    keys = [problem.key for problem in state.problems]
    assert "fencing_failed h2 h2" in keys and "server_unclean h2 h2" in keys and len(keys) == len(set(keys))
    assert all(problem.remedy and "h2" in problem.text for problem in state.problems if problem.server == "h2")
    assert state.is_quorate and state.votes == Votes(3, 2, 2, True)
    assert [link.is_connected for link in state.links] == [False, True]
    assert not [problem for problem in state.problems if problem.kind == "link_down"], "the member is away, not the link"


def test_a_vm_that_could_not_be_started_is_told_with_its_reason_and_fencing_that_succeeded_at_last_is_over() -> None:
    problems = state_of("start-failed").problems
    assert [(one.kind, one.about, one.server, one.action) for one in problems] == [("action_failed", "vm0", server, "start") for server in ("h3", "h1")]
    assert "could not start VM vm0 on h3" in problems[0].text and "Is the pool file system mounted" in problems[0].text


def test_the_part_without_quorum_says_so_first() -> None:
    state = state_of("no-quorum")
    assert not state.is_quorate and state.votes == Votes(3, 1, 2, False)
    assert [problem.kind for problem in state.problems] == ["quorum_lost", "action_failed", "server_unclean", "server_unclean"]
    assert [link.is_connected for link in state.links] == [False, False]


def test_a_link_to_a_living_member_that_is_down_is_a_problem() -> None:
    healthy = state_of("healthy")
    links = tuple(dataclasses.replace(link, is_connected=link.member != "h3") for link in healthy.links)
    (problem,) = pool_state("pool1", "h1", healthy.status, healthy.votes, links).problems
    assert problem.kind == "link_down" and "to h3 is down" in problem.text and problem.remedy


def test_a_member_whose_pacemaker_is_silent_says_why() -> None:
    state = pool_state("pool1", "h1", None, None, (), "crm_mon: not connected")
    assert not state.is_quorate and told_of(state)["members"] == {}
    assert [problem.kind for problem in state.problems] == ["pool_not_told"] and "not connected" in state.problems[0].text


FAILURE = """<pacemaker-result><summary><current_dc name="h1" with_quorum="{quorum}"/></summary>
<resources><resource id="ipmi" resource_agent="stonith:fence_ipmilan"/></resources>
<failures><failure op_key="{key}" node="h2" exitstatus="error" exitreason="{reason}" status="{status}"/></failures></pacemaker-result>"""


def problem_of(key: str, reason: str = "why", status: str = "complete") -> tuple[str, str, str, str]:
    (problem,) = status_from(FAILURE.format(quorum="true", key=key, reason=reason, status=status).encode()).problems
    return problem.kind, problem.about, problem.text, problem.remedy


@pytest.mark.parametrize("action", sorted(VM_ACTIONS))
def test_each_failed_action_of_a_vm_is_said_in_plain_words(action: str) -> None:
    kind, about, text, remedy = problem_of(f"domus-vm-my_web_{action}_0")
    assert (kind, about) == ("action_failed", "my_web")
    assert "VM my_web" in text and "h2" in text and text.endswith(": why") and "{" not in text + remedy
    assert "domus-agent pool clear" in remedy


def test_other_failed_actions() -> None:
    assert problem_of("domus-fence-power_monitor_120000")[:2] == ("fence_device_failed", "power")
    assert problem_of("ipmi_start_0")[:2] == ("fence_device_failed", "ipmi"), "a device that an administrator added"
    assert problem_of("mail_start_0")[2] == "start of mail failed on h2: why"
    assert problem_of("manager-ha-web_start_0")[2] == "start of the manager's part web failed on h2: why"
    assert problem_of("domus-vm-web_start_0", "", "Timed Out")[2].endswith(": it took longer than it may")
    assert problem_of("domus-vm-web_start_0", "")[2].endswith(": error")


def test_no_quorum_is_a_problem() -> None:
    status = status_from(FAILURE.format(quorum="false", key="domus-vm-web_start_0", reason="x", status="complete").encode())
    assert not status.is_quorate and status.problems[0].kind == "quorum_lost"


def test_a_server_without_a_pool_of_ours_has_no_state(tmp_path: Path) -> None:
    assert read_pool_state(str(tmp_path / "missing")) is None
    (tmp_path / "corosync.conf").write_text("totem {\n}\n")
    assert read_pool_state(str(tmp_path / "corosync.conf")) is None
