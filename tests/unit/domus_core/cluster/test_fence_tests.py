"""Fence devices are asked as Pacemaker would ask_device, and what they said is remembered."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from domus_core.cluster import fence_tests
from domus_core.cluster.fence_tests import FenceTest, Question, ask_device, ask_devices, cut_power, judged, keep, questions, recall
from domus_core.cluster.pool_status import PoolStatus
from domus_core.errors import Conflict, DriverError, NotFound
from domus_core.libvirt_driver import tools
from domus_core.libvirt_driver.xml_fields import etree

SAMPLES = Path(__file__).parent / "samples"
CIB = etree.fromstring((SAMPLES / "cib.xml").read_bytes())
STATUS = PoolStatus(True, "h1", {"h1": "online", "h2": "online", "h3": "offline"}, {"domus-vm-web": ("h2",), "domus-fence-power": ("h1",)}, ())


def cib(*attributes: tuple[str, str]) -> object:
    """A pool of a and b with one device that has these options."""
    pairs = "".join(f'<nvpair name="{name}" value="{value}"/>' for name, value in attributes)
    device = f'<primitive id="domus-fence-ipmi" class="stonith" type="fence_ipmilan"><instance_attributes>{pairs}</instance_attributes></primitive>'
    return etree.fromstring(f'<cib><configuration><nodes><node uname="a"/><node uname="b"/></nodes><resources>{device}</resources></configuration></cib>')


def test_the_other_servers_are_asked_for_with_the_devices_options_and_no_secret() -> None:
    asked = questions(CIB, "h1")
    assert [(one.device, one.agent, one.server) for one in asked] == [("power", "fence_domus_test", "h2"), ("power", "fence_domus_test", "h3")]
    options = dict(asked[0].options)
    assert (options["action"], options["plug"], options["nodename"]) == ("status", "h2", "h2")
    assert options["password_script"] == "/etc/domus/fencing/power.password" and "ip" in options
    assert not [name for name in options if name.startswith("pcmk_")]


@pytest.mark.parametrize(
    ("options", "plugs"),
    [
        ([("pcmk_host_map", "a:1;b:2")], [("b", "2")]),
        ([("pcmk_host_map", "a:1 b:2")], [("b", "2")]),
        ([("pcmk_host_list", "a,b")], [("b", "b")]),
        ([("pcmk_host_list", "a")], []),
        ([], [("b", "b")]),
    ],
)
def test_which_plug_is_which_server(options: list[tuple[str, str]], plugs: list[tuple[str, str]]) -> None:
    assert [(one.server, dict(one.options)["plug"]) for one in questions(cib(*options), "a")] == plugs


def test_the_plug_is_named_as_the_device_wants_it() -> None:
    (asked,) = questions(cib(("pcmk_host_argument", "port")), "a")
    assert dict(asked.options)["port"] == "b" and "plug" not in dict(asked.options)
    (asked,) = questions(cib(("pcmk_host_argument", "none")), "a")
    assert set(dict(asked.options)) == {"action", "nodename"}


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fence agent that a test writes, where it is looked for."""
    monkeypatch.setattr(tools, "SEARCH_PATH", f"{tmp_path}:{tools.SEARCH_PATH}")
    return tmp_path / "fence_test"


@pytest.mark.parametrize(
    ("script", "state", "problem"),
    [
        ("grep -q '^plug=2$' || exit 1", "on", None),
        ("echo Status: OFF; exit 2", "off", None),
        ("echo no route to host >&2; exit 1", None, "no route to host"),
    ],
)
def test_an_agents_exit_code_says_the_state(agent: Path, script: str, state: str | None, problem: str | None) -> None:
    agent.write_text(f"#!/bin/sh\n{script}\n")
    agent.chmod(0o755)
    test = ask_device(Question("ipmi", "fence_test", "b", (("action", "status"), ("plug", "2"))))
    assert (test.device, test.server, test.state) == ("ipmi", "b", state)
    assert test.problem is None if problem is None else problem in str(test.problem)


def test_only_fence_agents_are_run() -> None:
    assert "is no fence agent" in str(ask_device(Question("x", "external/ssh", "b", ())).problem)


def test_a_device_that_says_a_living_member_is_off_has_failed() -> None:
    assert "right plug" in str(judged(FenceTest("power", "h2", 1.0, "off"), STATUS).problem)
    assert judged(FenceTest("power", "h3", 1.0, "off"), STATUS).problem is None
    assert judged(FenceTest("power", "h2", 1.0, "on"), STATUS).problem is None


@pytest.fixture
def pacemaker(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Pacemaker as in the samples; what it is told to do is in the list. `refuses` makes it refuse."""
    told: list[list[str]] = []

    def run(argv: list[str], **dummy: object) -> str:
        told.append(argv)
        if argv[2] == "h3" and len(told) > 1:
            raise DriverError("no device could do it")
        return ""

    monkeypatch.setattr(fence_tests.Pacemaker, "read", lambda self: CIB)
    monkeypatch.setattr(fence_tests, "read_status", lambda: STATUS)
    monkeypatch.setattr(fence_tests, "run", run)
    return told


@pytest.mark.usefixtures("pacemaker")
def test_the_last_test_of_each_is_remembered(tmp_path: Path) -> None:
    directory = str(tmp_path)
    assert recall(directory) == []
    keep(directory, [FenceTest("gone", "h2", 1.0, "on"), FenceTest("power", "h2", 1.0, None, "why"), FenceTest("power or ups", "h3", 1.0, "on", None, True)])
    tests = ask_devices(directory, "h1", lambda question: FenceTest(question.device, question.server, 2.0, "on"))
    assert [(one.server, one.state) for one in tests] == [("h2", "on"), ("h3", "on")]
    assert recall(directory) == [
        FenceTest("power", "h2", 2.0, "on"),
        FenceTest("power or ups", "h3", 1.0, "on", None, True),
        FenceTest("power", "h3", 2.0, "on"),
    ]
    (tmp_path / fence_tests.FILE).write_text('[{"unknown": 1}]')
    assert recall(directory) == []


def test_power_is_really_cut_only_where_no_ha_vm_runs(tmp_path: Path, pacemaker: list[list[str]]) -> None:
    for server, error in (("h1", Conflict), ("h2", Conflict), ("h9", NotFound)):
        with pytest.raises(error):
            cut_power(str(tmp_path), "h1", server)
    assert pacemaker == []
    (test,) = cut_power(str(tmp_path), "h1", "h3")
    assert pacemaker[0][:3] == ["stonith_admin", "--reboot", "h3"] and (test.device, test.state, test.cut, test.problem) == ("power", "on", True, None)
    (test,) = cut_power(str(tmp_path), "h1", "h3")
    assert test.state is None and "no device could" in str(test.problem) and recall(str(tmp_path)) == [test]
    assert os.listdir(tmp_path) == [fence_tests.FILE]
