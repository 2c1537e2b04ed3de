"""Another manager for a server whose own is lost, and another address of the same one: whole, or not at all."""

from __future__ import annotations

import json
import os
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from domus_agent import ownership, rescue
from domus_agent.identity_files import read_identity
from domus_agent.ownership import FREE, MANAGER, Caller, Ownership
from domus_agent.store import AgentStore
from domus_core.clients.wire import split_invitation
from domus_core.errors import Conflict, DomusError, Forbidden, InvalidSpec, TooLarge, Unauthorized
from domus_core.owner import owner

from tests.support.small_authority import SmallAuthority

OLD, NEW = "6a1f4e0e-0000-4000-8000-000000000001", "6a1f4e0e-0000-4000-8000-000000000002"


class PowerCut(Exception):
    """The machine is off from here on."""


class Bench:
    """A server that belongs to the manager OLD, and the authorities of another one."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.now = directory, time.time()
        self.store = AgentStore(str(directory))
        self.authorities = {id: (SmallAuthority("servers"), SmallAuthority("web")) for id in (OLD, NEW)}
        self.again()
        self.take_over(OLD, split_invitation(self.own.invitation() or "")[1])

    def again(self) -> Ownership:
        """As a restarted agent finds it."""
        self.own = Ownership(str(self.directory), str(self.directory / "state"), self.store, lambda: self.now)
        return self.own

    def take_over(self, manager: str, secret: str, **changes: str) -> dict[str, Any]:
        servers, web = self.authorities[manager]
        certificate = servers.sign(self.own.certificate_request() or self._request(), f"urn:domus:server:{self.own.server_id}")
        papers = {"secret": secret, "manager": manager, "url": f"https://{manager}:7002", "authority": servers.pem, "callback_authority": web.pem}
        return self.own.take_over(**{**papers, "certificate": certificate, "name": f"name by {manager}", **changes})

    def _request(self) -> str:
        from domus_agent import certificates

        return certificates.request(self.file("key.pem").read_text(), f"urn:domus:server:{self.own.server_id}")

    def rescue(self) -> str:
        """Root opens it, the agent sees it; the secret."""
        told = split_invitation(self.own.rescue())[1]
        self.own.look()
        assert self.own.inviting
        return told

    def file(self, name: str) -> Path:
        return self.directory / "identity" / name

    def whose(self) -> str:
        """The one manager that every file speaks of; fails when they do not agree."""
        identity = json.loads(self.file("identity.json").read_text())
        assert ownership.MOVING not in identity
        servers, web = self.authorities[identity["manager"]]
        assert self.file("authority.pem").read_text() == servers.pem
        assert self.file("callback_authority.pem").read_text() == web.pem
        from domus_agent import certificates

        certificates.check_signed(self.file("certificate.pem").read_text(), servers.pem, f"urn:domus:server:{identity['server']}")
        assert (owner(str(self.directory / "state")) or {})["manager"] == identity["manager"] == self.own.manager
        return str(identity["manager"])

    def events(self) -> list[str]:
        return [record["kind"] for record in self.store.unsent() if record["type"] == "event"]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.store.close()


def shown(manager: str) -> dict[str, Any]:
    return {"serialNumber": "0AB1", "notAfter": "Jan  1 00:00:00 2090 GMT", "subjectAltName": (("URI", f"urn:domus:manager:{manager}"),)}


def test_until_the_take_over_nothing_changes_for_the_old_manager(bench: Bench) -> None:
    before = bench.own.context
    assert bench.own.certificate_request() is None and not bench.own.inviting
    invitation = bench.own.rescue()
    with pytest.raises(Unauthorized):  # not before the agent has seen it
        bench.own.caller(None)
    assert bench.own.look() and not bench.own.look()
    assert bench.own.context is not before and bench.own.context.verify_mode == ssl.CERT_OPTIONAL
    assert split_invitation(invitation)[0] == bench.own.fingerprint()
    assert bench.own.caller(None) == Caller(FREE) and bench.own.certificate_request()
    assert bench.own.caller(shown(OLD)).role == MANAGER
    assert bench.whose() == OLD and bench.events() == ["server.rescue_opened"]
    assert bench.file(rescue.FILE).stat().st_mode & 0o777 == 0o600


def test_a_new_manager_takes_over_once(bench: Bench) -> None:
    changed: list[str] = []
    secret = bench.rescue()
    bench.own.revoke("ab1", 9e9)
    bench.own.changed = lambda: changed.append(str(bench.own.manager))
    server, epoch = bench.own.server_id, bench.store.epoch
    assert bench.take_over(NEW, secret) == {"server": server}
    assert changed == [NEW] and bench.whose() == NEW and bench.store.epoch != epoch
    assert bench.own.context.verify_mode == ssl.CERT_REQUIRED
    assert bench.events() == ["server.rescued"]
    assert bench.own.caller(shown(NEW)).role == MANAGER  # what the old one had revoked are other certificates
    with pytest.raises(Forbidden):
        bench.own.caller(shown(OLD))
    with pytest.raises(Unauthorized):
        bench.own.caller(None)
    for own in (bench.own, bench.again()):
        assert not own.look() and not own.inviting
        with pytest.raises(Conflict):
            bench.take_over(OLD, secret)
    assert sorted(path.name for path in bench.file(".").iterdir()) == sorted(
        ["authority.pem", "callback_authority.pem", "certificate.pem", "identity.json", "key.pem"]
    )
    assert read_identity(str(bench.directory))["name"] == f"name by {NEW}"


def test_the_way_in_ends_after_an_hour_and_with_wrong_secrets(bench: Bench) -> None:
    secret = bench.rescue()
    bench.now += rescue.SECONDS + 1
    with pytest.raises(Unauthorized):
        bench.own.caller(None)
    with pytest.raises(Conflict):
        bench.take_over(NEW, secret)
    assert bench.own.look() and bench.own.context.verify_mode == ssl.CERT_REQUIRED
    secret = bench.rescue()
    for dummy in range(rescue.WRONG_TRIES):
        with pytest.raises(Unauthorized):
            bench.take_over(NEW, "0" * 32)
    with pytest.raises(Conflict):
        bench.take_over(NEW, secret)
    assert bench.own.look() and not bench.own.inviting and bench.whose() == OLD


def test_a_clock_that_was_set_back_makes_it_no_longer_than_an_hour(bench: Bench) -> None:
    bench.own.rescue()
    bench.now -= 7200
    assert not bench.own.look() and not bench.own.inviting


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"secret": "x", "manager": "another", "until": 2e9, "user": 0}', '{"secret": 1, "manager": "x", "until": "x", "user": 0}']
)
def test_what_can_not_be_read_lets_nobody_in(bench: Bench, content: str) -> None:
    bench.file(rescue.FILE).write_text(content)
    assert not bench.own.look() and not bench.own.inviting


def test_a_free_server_needs_no_rescue(bench: Bench) -> None:
    bench.own.rescue()
    bench.own.look()
    bench.own.release()
    assert not bench.file(rescue.FILE).exists() and not bench.own.look()
    bench.take_over(NEW, split_invitation(bench.own.invitation() or "")[1])
    assert bench.own.manager == NEW and bench.events() == []


def test_the_same_manager_with_another_address(bench: Bench) -> None:
    changed: list[str] = []
    bench.own.changed = lambda: changed.append(bench.own.url)
    other = SmallAuthority("web")
    for wrong in ({"url": "http://x", "callback_authority": other.pem}, {"url": "https://x", "callback_authority": "x"}):
        with pytest.raises(InvalidSpec):
            bench.own.readdress(**wrong)
    assert changed == [] and bench.whose() == OLD
    context = bench.own.context
    assert bench.own.readdress(url="https://new:7002", callback_authority=other.pem) == {"changed": True}
    assert bench.own.readdress(url="https://new:7002", callback_authority=other.pem) == {"changed": False}
    assert changed == ["https://new:7002"] and bench.own.context is not context
    for own in (bench.own, bench.again()):
        assert (own.manager, own.url, own.name) == (OLD, "https://new:7002", f"name by {OLD}")
        assert own.client_context()
    assert bench.file("callback_authority.pem").read_text() == other.pem
    assert owner(str(bench.directory / "state")) == {"manager": OLD, "url": "https://new:7002"}
    assert bench.events() == ["server.manager_moved"]


def test_notes_are_kept_for_a_manager_that_is_rebuilt_and_go_with_a_release(bench: Bench) -> None:
    assert bench.own.notes == {}
    bench.own.remember({"pool": "rack1"})
    assert bench.again().notes == {"pool": "rack1"} and bench.file("notes.json").stat().st_mode & 0o777 == 0o600
    with pytest.raises(TooLarge):
        bench.own.remember({"pool": "x" * ownership.MOST_NOTES})
    assert bench.own.notes == {"pool": "rack1"}
    bench.file("notes.json").write_text("[1")
    assert bench.own.notes == {}
    bench.own.remember({"pool": "rack2"})
    bench.own.release()
    assert bench.own.notes == {}


def _crash_after(monkeypatch: pytest.MonkeyPatch, count: int) -> list[int]:
    """Let so many files be put in place or removed; then nothing happens any more."""
    left, did = [count], {name: getattr(os, name) for name in ("replace", "remove")}

    def limited(name: str) -> Any:
        def call(*paths: Any, **more: Any) -> None:
            if left[0] <= 0:
                raise PowerCut
            left[0] -= 1
            did[name](*paths, **more)

        return call

    for name in did:
        monkeypatch.setattr(os, name, limited(name))
    return left


def test_a_power_cut_at_any_moment_leaves_it_with_one_manager(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    owners = []
    for count in range(40):
        secret = bench.rescue()
        with monkeypatch.context() as patched:
            left = _crash_after(patched, count)
            try:
                bench.take_over(NEW, secret)
            except PowerCut:
                pass
        bench.again()
        owners.append(bench.whose())
        if owners[-1] == OLD:
            bench.own.look()
            assert bench.own.inviting  # and it can be tried again
        else:
            assert not bench.own.look() and not bench.own.inviting  # once is once
        if left[0] > 0:
            break
        if owners[-1] == NEW:
            bench.take_over(OLD, bench.rescue())
    else:
        raise AssertionError("it never came to its end")
    assert owners == sorted(owners) and set(owners) == {OLD, NEW}, owners


def test_a_full_disk_while_the_last_switch_is_completed_mixes_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = bench.rescue()
    with monkeypatch.context() as patched:
        patched.setattr(Ownership, "_complete", _refuse)
        with pytest.raises(DomusError):
            bench.take_over(NEW, secret)
        bench.again()  # the same on a disk that stays full: it starts, and knows whose it is
        assert bench.own.manager == NEW
        with pytest.raises(DomusError):
            bench.own.readdress(url="https://elsewhere", callback_authority=SmallAuthority("web").pem)
    bench.again()
    assert bench.whose() == NEW


def _refuse(own: Ownership) -> None:
    if ownership.MOVING in own._identity:
        raise DomusError("no room")
