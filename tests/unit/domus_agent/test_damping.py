"""What repeats is told once, then with how often it came."""

from __future__ import annotations

from domus_agent.damping import SECONDS, Damper
from domus_agent.libvirt_events import Seen

REBOOT = Seen("vm.rebooted", object_kind="vm", name="a")
OTHER = Seen("vm.rebooted", object_kind="vm", name="b")
STOPPED = Seen("vm.stopped", "stopped", "vm", "a")


def test_a_guest_that_reboots_every_second_is_told_every_ten() -> None:
    now = [0.0]
    damper = Damper(lambda: now[0])
    told = []
    for dummy in range(25):
        told += damper.let_pass([REBOOT])
        now[0] += SECONDS / 10
    assert [seen.data for seen in told] == [{}, {"count": 9}, {"count": 10}]
    now[0] += SECONDS
    assert [seen.data for seen in damper.let_pass([])] == [{"count": 5}]
    now[0] += SECONDS
    assert damper.let_pass([]) == [] and damper.let_pass([REBOOT]) == [REBOOT]


def test_what_is_held_back_is_waited_for_and_the_rest_passes() -> None:
    damper = Damper(lambda: 3.0)
    assert damper.wait() is None
    assert damper.let_pass([REBOOT, STOPPED, OTHER, STOPPED, REBOOT]) == [REBOOT, STOPPED, OTHER, STOPPED]
    assert damper.wait() == SECONDS
