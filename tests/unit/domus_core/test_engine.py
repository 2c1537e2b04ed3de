"""The engine on a server in memory: what it holds, in which order it works, what happens when a step fails."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, Optional

import pytest
from domus_core import engine
from domus_core.driver import Target
from domus_core.engine import Report, apply, needs
from domus_core.errors import Busy, Conflict, DomusError, DriverError, Unreachable
from domus_core.fake_driver.driver import FakeDriver
from domus_core.model.document import Site, parse_document
from domus_core.model.server import ServerState
from domus_core.model.snapshot import Found, ImageFile, Snapshot
from domus_core.planning.steps import Step

SITE: dict[str, Any] = {
    "site": "paris",
    "networks": [{"name": "lan", "subnet": "192.0.2.0/24"}, {"name": "back", "mode": "isolated"}],
    "repositories": [{"name": "main", "path": "/srv/main"}],
    "templates": [{"name": "debian", "image": "main/debian.qcow2"}],
    "vms": [
        {"name": "a", "state": "running", "disks": [{"name": "root", "template": "debian"}], "nics": [{"name": "eth0", "network": "lan"}]},
        {"name": "b", "state": "running", "nics": [{"name": "eth0", "network": "back"}]},
        {"name": "c", "disks": [{"name": "data", "repository": "main", "size": "1GiB"}]},
    ],
}


class BreakingDriver(FakeDriver):
    """Fails, or is changed by somebody else, where a test wants it to."""

    def __init__(self, fails: Optional[dict[str, Exception]] = None) -> None:
        super().__init__(Snapshot(ServerState(), {}, {"main/Templates/debian.qcow2": ImageFile("qcow2", 1 << 30)}))
        self.fails = fails or {}
        self.held: list[tuple[list[Target], list[Target], float]] = []
        self.stranger: set[Target] = set()
        self.asked = 0

    def locked(self, changing: Iterable[Target], using: Iterable[Target], *, patience: float) -> AbstractContextManager[None]:
        """Note what is held."""
        self.held.append((list(changing), list(using), patience))
        if patience == 0:
            raise Busy("another apply holds this server")
        return super().locked(changing, using, patience=patience)

    def carry_out(self, step: Step, site: str) -> None:
        """Take the step, or fail."""
        error = self.fails.get(f"{step.action} {step.name}")
        if error is not None:
            raise error
        super().carry_out(step, site)

    def fingerprint(self, kind: str, key: str) -> str:
        """The fingerprint, or another one."""
        return "changed" if (kind, key) in self.stranger else super().fingerprint(kind, key)

    def addresses(self, vm: str) -> tuple[str, ...]:
        """An address at the third time of asking, for VM a only."""
        self.asked += 1
        return ("192.0.2.100",) if vm == "a" and self.asked > 2 else ()


def site(**changes: Any) -> Site:
    """The site of these tests, with other sections."""
    return parse_document({**SITE, **changes})


def result(report: Report, name: str) -> Any:
    """What a report says about one object, by kind and key."""
    return next(one for one in report.as_dict()["objects"] if f"{one['kind']} {one['name']}" == name)


def names(driver: FakeDriver) -> list[str]:
    """The steps taken."""
    return [f"{step.action} {step.name}" for step in driver.taken]


def test_everything_is_made_in_order_and_once() -> None:
    driver = BreakingDriver()
    report = apply(site(), driver)
    assert report.changed and not report.errors and not report.check
    taken = names(driver)
    assert taken.index("create network lan") < taken.index("start network lan") < taken.index("create vm a") < taken.index("start vm a")
    assert taken.index("create template debian") < taken.index("create virtual_disk main/a-root") < taken.index("create vm a")
    assert len(taken) == len(set(taken))
    before = driver.snapshot
    again = apply(site(), driver)
    assert not again.changed and driver.snapshot is before and names(driver) == taken


def test_check_mode_touches_nothing() -> None:
    driver = BreakingDriver()
    report = apply(site(), driver, check=True)
    assert report.changed and report.check and driver.taken == [] and result(report, "vm a")["actions"] == ["create", "start"]


def test_every_object_has_a_result_and_so_has_what_it_brought_along() -> None:
    found = {f"{one['kind']} {one['name']}" for one in apply(site(), BreakingDriver()).as_dict()["objects"]}
    assert found == {
        "network lan",
        "network back",
        "repository main",
        "template debian",
        "vm a",
        "vm b",
        "vm c",
        "virtual_disk main/a-root",
        "virtual_disk main/c-data",
    }


def test_what_is_changed_and_what_is_used_is_held() -> None:
    driver = BreakingDriver()
    apply(site(), driver)
    apply(parse_document({"site": "paris", "vms": SITE["vms"]}), driver, patience=7.0)
    changing, using, patience = driver.held[-1]
    assert changing == [("vm", "a"), ("vm", "b"), ("vm", "c")] and patience == 7.0
    assert {("network", "lan"), ("network", "back"), ("template", "debian"), ("repository", "main"), ("virtual_disk", "main/c-data")} <= set(using)


def test_busy_is_raised() -> None:
    with pytest.raises(Busy):
        apply(site(), BreakingDriver(), patience=0)


@pytest.mark.parametrize("error", [DriverError("libvirt says no", remedy="Look at its log"), RuntimeError("surprise")])
def test_a_failure_stops_what_needs_it_and_nothing_else(error: Exception) -> None:
    driver = BreakingDriver({"create network lan": error})
    report = apply(site(), driver)
    assert {one.object for one in report.errors} == {"network lan", "vm a"}
    assert result(report, "network lan")["error"]["code"] == "driver_error" and not result(report, "network lan")["changed"]
    told = result(report, "vm a")["error"]
    assert told["message"] == "needs network lan, which failed" and told["code"] == "conflict" and told["remedy"] and not result(report, "vm a")["changed"]
    assert {"create vm b", "start vm b", "create vm c"} <= set(names(driver)) and "create vm a" not in names(driver)
    driver.fails.clear()
    assert not apply(site(), driver).errors and not apply(site(), driver).changed


def test_a_failed_disk_stops_only_its_vm() -> None:
    driver = BreakingDriver({"create virtual_disk main/c-data": DriverError("disk full")})
    report = apply(site(), driver)
    assert {one.object for one in report.errors} == {"virtual_disk main/c-data", "vm c"} and "start vm a" in names(driver)


def test_a_failure_in_the_middle_tells_what_was_done() -> None:
    driver = BreakingDriver({"start vm a": DriverError("no memory")})
    told = result(apply(site(), driver), "vm a")
    assert told["changed"] and told["actions"] == ["create"] and told["error"]["message"] == "no memory" and told["error"]["object"] == "vm a"
    driver.fails.clear()
    assert result(apply(site(), driver), "vm a")["actions"] == ["start"]


def test_an_object_that_somebody_changed_meanwhile_is_left_alone() -> None:
    driver = BreakingDriver()
    driver.stranger = {("vm", "c")}
    report = apply(site(), driver)
    (error,) = report.errors
    assert isinstance(error, Conflict) and error.object == "vm c" and "changed since" in error.message and error.remedy == "Apply again"


def test_a_refused_document_touches_nothing() -> None:
    driver = BreakingDriver()
    with pytest.raises(DomusError):
        apply(site(vms=[*SITE["vms"], {"name": "d", "disks": [{"name": "root", "template": "none"}]}]), driver)
    assert driver.taken == []


def test_what_waits_for_a_restart_is_predicted_and_measured() -> None:
    driver = BreakingDriver()
    apply(site(), driver)
    changed = parse_document({"site": "paris", "vms": [{"name": "b", "clock": "localtime", "cpus": 1}, {"name": "c", "clock": "localtime"}]})
    predicted, applied = apply(changed, driver, check=True), apply(changed, driver)
    for report in (predicted, applied):
        assert result(report, "vm b")["restart_required"] == ["clock"]
        assert result(report, "vm c")["restart_required"] == [], "it does not run"
    assert result(apply(changed, driver), "vm b")["restart_required"] == ["clock"] and not apply(changed, driver).changed


def test_waiting_for_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "POLL", 0.001)
    driver = BreakingDriver()
    report = apply(site(), driver, wait_for_address=0.05)
    assert result(report, "vm a")["state"]["addresses"] == ["192.0.2.100"]
    (error,) = report.errors
    assert isinstance(error, Unreachable) and error.object == "vm b" and error.remedy
    assert "error" not in result(report, "vm c"), "nobody asked for it to run"


def test_progress_is_told_step_by_step() -> None:
    lines: list[str] = []
    driver = BreakingDriver()
    apply(site(), driver, progress=lines.append)
    assert sorted(lines) == sorted(names(driver))


def test_independent_objects_go_side_by_side() -> None:
    """Two VMs are worked on at once: each waits until the other has come as far."""
    both = threading.Barrier(2, timeout=10)

    class Meeting(BreakingDriver):
        def carry_out(self, step: Step, site: str) -> None:
            if step.action == "create" and step.name in ("vm a", "vm b"):
                both.wait()
            super().carry_out(step, site)

    assert not apply(site(), Meeting()).errors


def test_two_applies_at_once_take_turns() -> None:
    driver = BreakingDriver()
    documents = [site(), parse_document({"site": "paris", "networks": [{"name": "other", "mode": "isolated"}]})]
    threads = [threading.Thread(target=apply, args=(document, driver)) for document in documents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not apply(documents[0], driver).changed and not apply(documents[1], driver).changed


def test_deleting_needs_nothing() -> None:
    driver = BreakingDriver()
    apply(site(), driver)
    gone = parse_document({"site": "paris", "networks": [{"name": "lan", "state": "absent"}], "vms": [{"name": "a", "state": "absent", "delete_disks": True}]})
    assert not apply(gone, driver).errors
    assert (
        driver.snapshot.find("vm", "a") is None
        and driver.snapshot.find("virtual_disk", "main/a-root") is None
        and driver.snapshot.find("network", "lan") is None
    )


def test_what_an_object_needs() -> None:
    document = parse_document(
        {
            "virtual_disks": [{"name": "d", "repository": "main", "template": "t"}],
            "isos": [{"name": "i", "image": "main/i.iso"}],
            "vms": [{"name": "v", "cdroms": [{"name": "cd", "iso": "i"}], "disks": [{"name": "x", "virtual_disk": "main/d"}]}],
        }
    )
    assert set(needs("virtual_disk", document.wanted("virtual_disk")["main/d"])) == {("repository", "main"), ("template", "t")}
    assert set(needs("iso", document.wanted("iso")["i"])) == {("repository", "main")}
    assert set(needs("vm", document.wanted("vm")["v"])) == {("iso", "i"), ("virtual_disk", "main/d")}


def test_an_object_that_is_gone_afterwards_is_told_without_state() -> None:
    driver = BreakingDriver()
    apply(site(), driver)
    told = result(apply(parse_document({"site": "paris", "vms": [{"name": "c", "state": "absent"}]}), driver), "vm c")
    assert told["changed"] and told["actions"] == ["delete"] and "state" not in told and isinstance(driver.snapshot.find("vm", "b"), Found)


def test_a_plan_is_carried_out_as_it_was_made_or_not_at_all() -> None:
    driver = BreakingDriver()
    planned = apply(site(), driver, check=True)
    assert planned.fingerprint == apply(site(), driver, check=True, expected=planned.fingerprint).fingerprint
    applied = apply(site(), driver, expected=planned.fingerprint)
    assert applied.changed and applied.fingerprint == planned.fingerprint and not applied.errors
    taken = names(driver)
    with pytest.raises(Conflict) as raised:
        apply(site(), driver, expected=planned.fingerprint)
    assert raised.value.message == "the server has changed since the plan was made" and raised.value.remedy and names(driver) == taken


def test_the_fingerprint_of_a_plan_changes_with_the_plan_and_with_what_was_found() -> None:
    driver = BreakingDriver()
    apply(site(), driver)
    wanted = {"site": "paris", "vms": [{"name": "c", "description": "x"}]}
    before = apply(parse_document(wanted), driver, check=True).fingerprint
    assert apply(parse_document({"site": "paris", "vms": [{"name": "c", "description": "y"}]}), driver, check=True).fingerprint != before
    apply(parse_document({"site": "paris", "vms": [{"name": "a", "description": "another VM"}]}), driver)
    assert apply(parse_document(wanted), driver, check=True).fingerprint == before, "only what is involved counts"
    apply(parse_document({"site": "paris", "vms": [{"name": "c", "tags": ["t"]}]}), driver)
    with pytest.raises(Conflict):
        apply(parse_document(wanted), driver, expected=before)
    assert not any(step.spec.description for step in driver.taken if step.name == "vm c")


def test_cancelled_before_anything_nothing_is_done() -> None:
    driver = BreakingDriver()
    report = apply(site(), driver, cancelled=lambda: True)
    assert driver.taken == [] and not report.changed and report.errors
    assert {error.code for error in report.errors} == {"cancelled"} and all(error.object and error.remedy for error in report.errors)
    assert len(report.errors) == len([one for one in apply(site(), driver, check=True).results if one.changed])


@pytest.mark.parametrize("most", range(1, 14))
def test_cancelled_in_the_middle_tells_what_was_done_and_what_was_not(most: int) -> None:
    driver = BreakingDriver()
    whole = {(one.kind, one.key): [step.action for step in one.steps] for one in apply(site(), driver, check=True).results}
    report = apply(site(), driver, cancelled=lambda: len(driver.taken) >= most)
    for one in report.results:
        done = [step.action for step in one.steps]
        assert done == whole[(one.kind, one.key)][: len(done)]
        assert (one.error is None) == (done == whole[(one.kind, one.key)]) and (one.error is None or one.error.code == "cancelled")
    assert sum(len(one.steps) for one in report.results) == len(driver.taken) >= min(most, sum(map(len, whole.values())))
    assert not apply(site(), driver).errors and not apply(site(), driver).changed


def test_no_step_is_begun_after_cancelling() -> None:
    driver = BreakingDriver()
    (told,) = apply(parse_document({"vms": [{"name": "d", "state": "running"}]}), driver, cancelled=lambda: bool(driver.taken)).results
    assert names(driver) == ["create vm d"] and told.changed and told.error is not None and told.error.code == "cancelled"


def test_waiting_for_an_address_ends_when_cancelled() -> None:
    driver = BreakingDriver()
    report = apply(site(), driver, wait_for_address=3600, cancelled=lambda: driver.asked > 0)
    assert {(error.code, error.object) for error in report.errors} == {("cancelled", "vm a"), ("cancelled", "vm b")}
    assert result(report, "vm a")["changed"] and "start vm b" in names(driver)
