"""Policies at work with the real store and fake agents: when they look, what they do, what keeps them from it, and that they back off."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest
from domus_controller.jobs import room_needed, unattended
from domus_controller.jobs import schedule as module
from domus_controller.jobs.schedule import Schedule, backed_off, shown_policy
from domus_controller.store import callbacks, events, jobs, objects, policies, policy_looks, server_states
from domus_core.errors import Conflict, DomusError, DriverError
from domus_core.model.policy import PolicySpec
from hypothesis import given
from hypothesis import strategies as st

from tests.support.manager_room import Room
from tests.support.movers import Movers, Power, add

CARD = {"name": "eth0", "kind": "physical", "link": True, "speed": 1000, "mac": "02:00:00:00:00:01", "wakes": True}
START = 1_800_000_000.0
MINUTE = 60.0


class Clock:
    """The time of day and the time since the start, both the test's."""

    def __init__(self) -> None:
        self.at = START

    def __call__(self) -> float:
        return self.at


class Site:
    """Three servers of one pool, its policy, and the schedule that a test winds."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = Clock()
        monkeypatch.setattr(module, "LOOK_SECONDS", 1e6)
        self.room = Room(directory, ("srv1", "srv2", "srv3"), self.clock)
        self.room.agents.__dict__["_inventory"] = self._silent
        self.movers, self.power = Movers(self.room), Power(self.room)
        self.hear()
        self.policy: Optional[PolicySpec] = None
        self.asked_at: Optional[float] = START
        monkeypatch.setattr(policies, "policies_of", self.policies)
        self.schedule = self.begin()

    def _silent(self, server_id: str) -> dict[str, Any]:
        raise DriverError("not now")

    def begin(self) -> Schedule:
        """As a manager that has just been started."""
        room = self.room
        begin, wake = functools.partial(unattended.begin_policy, room.jobs), functools.partial(room_needed.wake_for, room.jobs, room.store)
        return Schedule(room.store, begin, wake, room.config, room.jobs._tools.stopping, self.clock)

    def policies(self, store: Any) -> dict[str, policies.PoolPolicy]:
        return {} if self.policy is None else {"default": policies.PoolPolicy("default", self.policy, self.asked_at)}

    def hear(self, *names: str) -> None:
        self.room.hear(*names, interfaces=[CARD])

    def fill(self, count: int = 6, server: str = "srv1", mib: int = 1024) -> None:
        for number in range(count):
            add(self.room, f"{server}-{number}", server, mib)
        self.complete()

    def complete(self) -> None:
        for id in self.room.servers.values():
            if (epoch := callbacks.position(self.room.store, id)["epoch"]) is not None:
                callbacks.completed(self.room.store, id, epoch)

    def after(self, minutes: float) -> None:
        """Some minutes later, all having been heard meanwhile."""
        self.clock.at += minutes * MINUTE
        self.hear(*(name for name, id in self.room.servers.items() if id not in self.silent()))

    def silent(self) -> set[str]:
        return {row["id"] for row in self.room.store.rows("SELECT id FROM servers WHERE state NOT IN ('running', 'maintenance')")}

    def jobs(self, kind: str = "balance") -> list[dict[str, Any]]:
        return list(jobs.page(self.room.store, filters={"kind": kind})["items"])

    def done(self) -> dict[str, Any]:
        """The newest job at its end, counted."""
        ended = self.room.ended(self.jobs()[0])
        self.complete()
        self.schedule.look()
        return ended

    def waits(self) -> Optional[str]:
        return policy_looks.find(self.room.store, "default").waits

    def told(self, what: str) -> list[dict[str, Any]]:
        return [one["data"] for one in events.page(self.room.store, since=0, filters={"kind": f"pool.{what}"})["items"]]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    made = Site(tmp_path, monkeypatch)
    yield made
    made.room.close()


def there(site: Site, server: str) -> int:
    return len(objects.page(site.room.store, "vm", filters={"server": server})["items"])


def test_a_policy_looks_every_period_and_does_what_it_finds_as_one_job(site: Site) -> None:
    site.fill()
    site.policy = PolicySpec(mode="drs", period=5, most_moves=2)
    site.after(4)
    site.schedule.look()
    (job,) = site.jobs()
    assert (job["created_by"], job["reason"]) == ("policy of default", "policy drs: 2 moves")
    ended = site.done()
    assert (ended["state"], ended["changed"]) == ("succeeded", True) and there(site, "srv1") == 4
    entries = ended["result"]["objects"]
    assert len(entries) == 2 and all("of srv1 is used" in one["note"] for one in entries), "each move with its reason"
    moves = [one for one in jobs.page(site.room.store)["items"] if one["kind"] == "migrate"]
    assert len(moves) == 2 and all("of srv1 is used" in one["reason"] for one in moves), "each is a job as a person's"
    (acted,), (done,) = site.told("policy_acts"), site.told("policy_done")
    assert acted["job"] == done["job"] == job["id"] and len(acted["moves"]) == 2 and done["done"] == "2 moves"
    site.after(4)
    site.schedule.look()
    assert len(site.jobs()) == 1, "the next look is not due"
    site.after(1)
    site.schedule.look()
    assert len(site.jobs()) == 2
    site.done()
    site.after(5)
    site.schedule.look()
    assert len(site.jobs()) == 2 and site.told("policy_acts")[2:] == [], "where nothing is to be done there is no job"
    shown = shown_policy(site.room.store, "default")
    assert shown is not None and shown["on"] and shown["waits"] is None and shown["found"]["moves"] == [] and shown["looked_at"] < shown["next_at"]


@pytest.mark.parametrize("policy", [None, PolicySpec(), PolicySpec(mode="off", period=1)])
def test_without_a_policy_that_is_on_nothing_happens(site: Site, policy: Optional[PolicySpec]) -> None:
    site.fill()
    site.policy = policy
    site.after(60)
    site.schedule.look()
    assert jobs.page(site.room.store)["items"] == [] and policy_looks.pools(site.room.store) == []


def test_nothing_happens_in_the_first_minutes_nor_while_a_server_is_not_heard(site: Site) -> None:
    site.fill()
    site.policy = PolicySpec(mode="drs")
    site.schedule.look()
    assert "the manager has been started" in str(site.waits())
    site.power.falls_silent("srv3")
    site.after(4)
    site.schedule.look()
    assert site.waits() == "server srv3 is disconnected" and site.jobs() == []
    site.schedule.look()
    assert [one["reason"] for one in site.told("policy_waits")][1:] == ["server srv3 is disconnected"], "told once"
    site.hear("srv3")
    site.schedule.look()
    assert len(site.jobs()) == 1 and site.waits() is None


def test_nothing_happens_while_it_is_not_known_what_is_on_a_server(site: Site) -> None:
    site.fill()
    site.policy = PolicySpec(mode="drs")
    site.after(4)
    site.room.store.write(lambda connection: connection.execute("UPDATE callback_positions SET complete = 0").rowcount)
    site.schedule.look()
    assert site.waits() == "what is on srv1 is not known completely yet" and site.jobs() == []


def test_nothing_happens_while_a_move_of_the_last_look_runs(site: Site) -> None:
    site.fill()
    site.policy = PolicySpec(mode="drs", period=1, most_moves=1)
    site.movers.at_once = False
    site.after(4)
    site.schedule.look()
    operation = site.room.until(lambda: next(iter(site.room.agents.operations), None))
    site.after(30)
    site.schedule.look()
    assert len(site.jobs()) == 1
    site.movers.finish(operation)
    site.done()
    assert len(site.jobs()) == 2, "its next look was due long ago"


def test_a_restored_manager_moves_nothing_until_somebody_has_said_again_what_is_wanted(site: Site) -> None:
    site.fill()
    site.policy, site.asked_at = PolicySpec(mode="drs"), START - 100
    site.room.store.write(lambda connection: connection.execute("INSERT INTO about VALUES ('restored_at', ?)", (str(START - 50),)).rowcount)
    site.after(600)
    site.schedule.look()
    assert "restored from a backup" in str(site.waits()) and site.jobs() == []
    site.asked_at = START
    site.schedule.look()
    assert len(site.jobs()) == 1


def test_a_policy_that_nobody_has_asked_this_manager_for_does_nothing(site: Site) -> None:
    site.fill()
    site.policy, site.asked_at = PolicySpec(mode="drs"), None
    site.after(600)
    site.schedule.look()
    assert "no document of the pool has been applied by this manager" in str(site.waits()) and site.jobs() == []


def test_what_has_failed_is_not_tried_again_at_once(site: Site) -> None:
    site.fill(1, "srv1", 4096)
    site.fill(2, "srv1", 3000)
    site.policy = PolicySpec(mode="drs", period=5, most_moves=1)
    site.movers.fails.add("srv1-0")
    site.after(4)
    site.schedule.look()
    moved = site.room.ended(site.jobs()[0])
    assert moved["state"] == "failed" and moved["error"]["message"] == "broke off"
    site.complete()
    site.schedule.look()
    (failed,) = site.told("policy_failed")
    assert (failed["failures"], failed["resting"], failed["error"]["message"]) == (1, ["srv1-0"], "broke off")
    site.after(6)
    site.schedule.look()
    assert len(site.jobs()) == 1, "it waits twice as long"
    site.after(5)
    site.schedule.look()
    assert site.done()["state"] == "succeeded" and there(site, "srv1") == 1 and policy_looks.find(site.room.store, "default").failures == 0
    assert objects.find(site.room.store, "vm", "srv1-0")["server_id"] == site.room.servers["srv1"], "another one moved: that one rests"


def test_a_cancelled_job_counts_as_one_that_failed(site: Site) -> None:
    site.fill()
    site.policy = PolicySpec(mode="drs", period=5)
    site.movers.at_once = False
    site.after(4)
    site.schedule.look()
    site.room.until(lambda: site.room.agents.operations)
    site.room.jobs.cancel(site.jobs()[0]["id"], by="ann")
    assert site.done()["state"] == "cancelled" and site.told("policy_failed")[0]["failures"] == 1


def test_a_plan_is_given_up_when_a_server_falls_silent_or_the_policy_is_switched_off(site: Site) -> None:
    site.fill(8, mib=900)
    site.policy = PolicySpec(mode="drs", most_moves=4)
    site.movers.at_once = False
    site.after(4)
    site.schedule.look()
    first = site.room.until(lambda: next(iter(site.room.agents.operations), None))
    site.room.until(lambda: len(site.room.agents.operations) == 2)
    site.policy = PolicySpec(mode="off")
    for operation in list(site.room.agents.operations):
        site.movers.finish(operation)
    ended = site.room.ended(site.jobs()[0])
    assert ended["state"] == "failed" and "the pool's policy was changed meanwhile" in ended["error"]["message"] and first
    assert len(site.room.agents.operations) == 2 and there(site, "srv1") == 6


def test_what_does_not_hold_any_more_is_left_out(site: Site) -> None:
    """Two of the three moves are not what the plan meant any more when their turn comes."""
    for name in "abcd":
        add(site.room, name, "srv1", 1024)
    site.complete()
    site.policy = PolicySpec(mode="drs", most_moves=4)
    plan = unattended.Seen(site.room.store).plan("default", site.policy)
    assert len(plan["moves"]) >= 2
    first, second = plan["moves"][:2]
    site.room.forget("srv1", "vm", first["vm"])
    add(site.room, "full", second["server"], 7500)
    job = unattended.begin_policy(site.room.jobs, {**plan, "moves": [first, second]}, policies.PoolPolicy("default", site.policy))
    ended = site.room.ended(job)
    notes = {one["name"]: (one["note"], bool(one.get("error"))) for one in ended["result"]["objects"]}
    assert notes[first["vm"]] == ("is gone", False)
    assert notes[second["vm"]][1] and "of memory free" in notes[second["vm"]][0] and site.movers.begun == []


def test_dpm_empties_a_server_switches_it_off_and_wakes_it_when_it_is_needed(site: Site) -> None:
    site.fill(2, "srv1", 1500)
    site.fill(1, "srv2", 1000)
    site.policy = PolicySpec(mode="dpm", period=5, least_on=1)
    site.after(4)
    site.schedule.look()
    assert [one["actions"] for one in site.done()["result"]["objects"]] == [["power off"]]
    assert site.power.told == [("off", "srv3", "its VMs have room on the others")]
    site.after(5)
    site.schedule.look()
    ended = site.done()
    assert {(one["name"], *one["actions"]) for one in ended["result"]["objects"]} == {("srv2-0", "migrate"), ("srv2", "power off")}
    assert there(site, "srv1") == 3 and len(site.silent()) == 2
    for number in range(4):
        add(site.room, f"more{number}", "srv1", 1000)
    site.complete()
    site.after(5)
    site.schedule.look()
    (job,) = [one for one in site.jobs() if one["state"] in ("queued", "running")]
    woken = site.room.until(lambda: next((one for one in site.jobs("power_on")), None))
    name = woken["objects"][0]["name"]
    assert "above the threshold of memory" in woken["reason"]
    site.room.until(lambda: site.power.told[-1][0] == "on")
    site.hear(name)
    assert site.room.ended(job)["state"] == "succeeded" and len(site.silent()) == 1


def asleep(site: Site) -> None:
    """srv3 was switched off by the policy, srv1 and srv2 are nearly full."""
    site.fill(3, "srv1", 900)
    site.fill(3, "srv2", 900)
    site.policy = PolicySpec(mode="dpm", period=60, least_on=1)
    site.after(4)
    site.schedule.look()
    assert [one["actions"] for one in site.done()["result"]["objects"]] == [["power off"]] and site.power.told[0][:2] == ("off", "srv3")


def waiting(site: Site, *names: str) -> None:
    """srv1 tells that these HA VMs wait for a server, and srv2 has died with them."""
    problems = [{"kind": "vm_waits", "about": name, "text": f"VM {name} waits", "remedy": ""} for name in names]
    pool = {"pool": "default", "server": "srv1", "quorate": True, "coordinator": "srv1", "members": {"srv1": "online"}, "problems": problems}
    site.clock.at += MINUTE
    site.room.hear("srv1", interfaces=[CARD], server_pool=pool)
    site.power.falls_silent("srv2")


def test_an_ha_vm_that_waits_has_a_sleeping_server_woken_though_another_is_silent(site: Site) -> None:
    asleep(site)
    waiting(site, "srv2-0")
    site.schedule.look()
    (job,) = site.jobs("power_on")
    assert job["created_by"] == "policy of default" and job["reason"] == "vm srv2-0 finds no room elsewhere"
    site.room.until(lambda: site.power.told[-1][0] == "on")
    assert site.told("policy_acts")[-1] | {"mode": "dpm"} == {
        "pool": "default",
        "mode": "dpm",
        "job": job["id"],
        "moves": [],
        "switches": [{"action": "wake", "server": "srv3"}],
    }
    site.schedule.look()
    waiting(site, "srv2-0")
    site.schedule.look()
    assert len(site.jobs("power_on")) == 1
    site.hear("srv3")
    assert site.room.ended(job)["state"] == "succeeded"


@pytest.mark.parametrize("mib", [900, 100_000], ids=["not asked", "no help"])
def test_no_server_is_woken_for_who_does_not_wait_or_has_no_room_there_either(site: Site, mib: int) -> None:
    asleep(site)
    add(site.room, "large", "srv2", mib)
    waiting(site, *(["large"] if mib > 900 else []))
    site.schedule.look()
    assert site.jobs("power_on") == []


def test_a_restored_manager_wakes_nobody(site: Site) -> None:
    asleep(site)
    waiting(site, "srv2-0")
    site.asked_at = None
    site.schedule.look()
    assert site.jobs("power_on") == []


def test_a_vm_that_is_refused_for_want_of_room_has_a_sleeping_server_woken(site: Site) -> None:
    asleep(site)
    document = {"vms": [{"name": "new", "memory": 6500 * 1024**2, "cpus": 1, "state": "running"}]}
    with pytest.raises(DomusError) as checked:
        site.room.jobs.apply(document, by="joe", check=True)
    assert "woken" not in checked.value.remedy and site.jobs("power_on") == []
    for dummy in range(2):
        with pytest.raises(DomusError) as refused:
            site.room.jobs.apply(document, by="joe")
        (job,) = site.jobs("power_on")
        assert f"is being woken for it: apply again when it is on (domus job show {job['id']})" in str(refused.value) and "Server srv3" in str(refused.value)
    site.room.until(lambda: site.power.told[-1][0] == "on")
    site.hear("srv3")
    assert site.room.ended(job)["state"] == "succeeded"
    site.room.jobs.apply(document, by="joe")


def test_a_server_that_can_not_be_emptied_stays_on(site: Site) -> None:
    site.fill(3, "srv1", 1500)
    site.fill(1, "srv2", 1000)
    site.policy = PolicySpec(mode="dpm", servers=("srv2",))
    site.movers.fails.add("srv2-0")
    site.after(4)
    site.schedule.look()
    ended = site.done()
    notes = {one["name"]: one.get("note") for one in ended["result"]["objects"]}
    assert ended["state"] == "failed" and notes["srv2"] == "not everything before it was done" and site.power.told == []


def test_a_manager_that_was_restarted_goes_on_with_nothing(site: Site) -> None:
    site.fill(8, mib=900)
    site.policy = PolicySpec(mode="drs", most_moves=4)
    site.movers.at_once = False
    site.after(4)
    site.schedule.look()
    site.room.until(lambda: len(site.room.agents.operations) == 2)
    site.room.restart()
    for operation in list(site.room.agents.operations):
        site.movers.finish(operation)
    ended = site.room.ended(site.jobs()[0])
    assert ended["error"]["code"] == "interrupted" and len(site.room.agents.operations) == 2 and there(site, "srv1") == 6


def test_a_person_has_a_plan_carried_out_once(site: Site) -> None:
    site.fill()
    spec = PolicySpec(mode="drs", most_moves=1)
    job = unattended.balance(site.room.jobs, site.room.store, "default", spec, by="ann", reason="before the weekend")
    assert job is not None and site.room.ended(job)["state"] == "succeeded" and there(site, "srv1") == 5
    site.movers.at_once = False
    job = unattended.balance(site.room.jobs, site.room.store, "default", spec, by="ann")
    with pytest.raises(Conflict, match="balances it already"):
        unattended.balance(site.room.jobs, site.room.store, "default", spec, by="ben")
    site.movers.finish(site.room.until(lambda: next((id for id, one in site.room.agents.operations.items() if one["state"] == "running"), None)))
    assert job is not None
    site.room.ended(job)
    site.movers.at_once = True
    relaunched = site.room.jobs.relaunch(job["id"], by="ben")
    assert site.room.ended(relaunched)["state"] == "succeeded" and relaunched["relaunch_of"] == job["id"]
    even = dataclasses.replace(spec, tolerance=100)
    assert unattended.balance(site.room.jobs, site.room.store, "default", even, by="ann") is None


def test_a_server_in_maintenance_takes_no_part_and_holds_nothing_up(site: Site) -> None:
    site.fill()
    server_states.set_maintenance(site.room.store, site.room.servers["srv2"], True, "", "ann")
    site.policy = PolicySpec(mode="drs")
    site.after(4)
    site.schedule.look()
    site.done()
    assert there(site, "srv2") == 0 and there(site, "srv3") > 0


@given(st.floats(60, 86400), st.integers(0, 10**6))
def test_who_fails_waits_longer_each_time_and_never_for_ever(period: float, failures: int) -> None:
    assert period <= backed_off(period, failures) <= backed_off(period, failures + 1) <= 86400
