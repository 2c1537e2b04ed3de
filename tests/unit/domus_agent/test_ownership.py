"""Whose a server is, and who may call what."""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from domus_agent.identity_files import read_identity
from domus_agent.ownership import FREE, JOB, MANAGER, Caller, Ownership, normal_serial
from domus_agent.store import AgentStore
from domus_core.clients.wire import split_invitation
from domus_core.errors import Conflict, DriverError, Forbidden, InvalidSpec, NotFound, Unauthorized

from tests.support.small_authority import SmallAuthority

NOW = 1_800_000_000.0
ID = "6a1f4e0e-0000-4000-8000-000000000001"


class Bench:
    """A server's identity in a directory, and the CA of a manager."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = AgentStore(str(directory))
        self.authority = SmallAuthority("servers")
        self.again()

    def again(self) -> Ownership:
        """As a restarted agent finds it."""
        self.own = Ownership(str(self.directory), str(self.directory / "state"), self.store, lambda: NOW)
        return self.own

    def papers(self, **changes: str) -> dict[str, str]:
        secret = split_invitation(self.own.invitation() or "")[1]
        certificate = self.authority.sign(self.own.certificate_request() or "", f"urn:domus:server:{self.own.server_id}")
        told = {"secret": secret, "manager": ID, "url": "https://manager:7002", "authority": self.authority.pem, "name": "srv1"}
        return {**told, "callback_authority": SmallAuthority("web").pem, "certificate": certificate, **changes}

    def file(self, name: str) -> Path:
        return self.directory / "identity" / name


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.store.close()


def certificate(*uris: str, serial: str = "0AB1", ends: str = "Jan  1 00:00:00 2030 GMT") -> dict[str, Any]:
    return {"serialNumber": serial, "notAfter": ends, "subjectAltName": (*(("URI", uri) for uri in uris), ("DNS", f"urn:domus:manager:{ID}"))}


def test_a_free_server_keeps_its_identity_and_its_secret(bench: Bench) -> None:
    before = bench.own.server_id, bench.own.invitation()
    assert (bench.again().server_id, bench.own.invitation()) == before
    assert read_identity(str(bench.directory)) == {"server": before[0], "manager": None, "url": None, "name": None, "invitation": before[1]}
    assert bench.own.caller(None) == Caller(FREE)
    assert bench.own.context.verify_mode == ssl.CERT_NONE
    assert {path.stat().st_mode & 0o777 for path in bench.file(".").iterdir()} == {0o600}


def test_an_owned_one_has_a_manager_and_no_secret(bench: Bench) -> None:
    changed: list[bool] = []
    bench.own.changed = lambda: changed.append(bench.own.owned)
    bench.store.add_event("vm.started")
    server, context = bench.own.server_id, bench.own.context
    assert bench.own.take_over(**bench.papers()) == {"server": server}
    assert changed == [True]
    assert bench.store.unsent() == []
    for own in (bench.own, bench.again()):
        assert (own.server_id, own.manager, own.url, own.name, own.owned) == (server, ID, "https://manager:7002", "srv1", True)
        assert (own.invitation(), own.certificate_request()) == (None, None)
        assert own.context is not context and own.context.verify_mode == ssl.CERT_REQUIRED
    assert json.loads((bench.directory / "state/owner.json").read_text())["manager"] == ID
    with pytest.raises(Conflict):
        bench.own.take_over(**dict.fromkeys(("secret", "manager", "url", "authority", "callback_authority", "certificate", "name"), ""))


@pytest.mark.parametrize(
    "wrong",
    [{"url": "http://manager"}, {"url": "https://"}, {"url": "https://a:b@manager"}, {"url": "https://manager:99999"}, {"authority": "x"}, {"certificate": ""}],
    ids=str,
)
def test_what_does_not_fit_leaves_everything_as_it_was(bench: Bench, wrong: dict[str, str]) -> None:
    before = {path.name: path.read_bytes() for path in bench.file(".").iterdir()}
    with pytest.raises(InvalidSpec):
        bench.own.take_over(**bench.papers(**wrong))
    assert {path.name: path.read_bytes() for path in bench.file(".").iterdir()} == before
    assert not bench.own.owned


def test_a_certificate_of_another_server_or_authority_is_refused(bench: Bench) -> None:
    request = bench.own.certificate_request() or ""
    other = bench.authority.sign(request, "urn:domus:server:another")
    ended = bench.authority.sign(request, f"urn:domus:server:{bench.own.server_id}", days=-1)
    for text in (other, ended, SmallAuthority("x").sign(request, f"urn:domus:server:{bench.own.server_id}")):
        with pytest.raises(InvalidSpec):
            bench.own.take_over(**bench.papers(certificate=text))


def test_five_wrong_secrets_make_a_new_one(bench: Bench) -> None:
    first = bench.own.invitation()
    for wrong in ("", "x", "ä", "0" * 32):
        with pytest.raises(Unauthorized):
            bench.own.take_over(**bench.papers(secret=wrong))
    assert bench.own.invitation() == first
    with pytest.raises(Unauthorized):
        bench.own.take_over(**bench.papers(secret="0" * 31))
    assert bench.own.invitation() != first
    bench.own.take_over(**bench.papers())


def test_a_released_one_is_free_with_another_key(bench: Bench) -> None:
    before, server = bench.file("key.pem").read_text(), bench.own.server_id
    bench.own.take_over(**bench.papers())
    bench.own.revoke("ab", 9e9)
    bench.own.release()
    assert bench.file("key.pem").read_text() != before
    assert not (bench.directory / "state/owner.json").exists()
    assert sorted(path.name for path in bench.file(".").iterdir()) == ["certificate.pem", "identity.json", "key.pem", "secret"]
    bench.own.take_over(**bench.papers())
    assert bench.own.server_id == server
    assert bench.own.caller(certificate(f"urn:domus:manager:{ID}", serial="AB")).role == MANAGER


def test_a_crash_within_a_release_leaves_it_free(bench: Bench) -> None:
    bench.own.take_over(**bench.papers())
    bench.file("identity.json").write_text(json.dumps({"server": bench.own.server_id}))
    assert not bench.again().owned
    assert bench.own.invitation()
    bench.own.take_over(**bench.papers())


def test_a_damaged_identity_is_told(bench: Bench) -> None:
    bench.file("identity.json").write_text("{")
    for call in (bench.again, lambda: read_identity(str(bench.directory))):
        with pytest.raises(DriverError):
            call()
    with pytest.raises(NotFound):
        read_identity(str(bench.directory / "nowhere"))


def test_the_manager_and_its_jobs_for_this_server_may_call(bench: Bench) -> None:
    bench.own.take_over(**bench.papers())
    here = f"urn:domus:for:{bench.own.server_id}"
    assert bench.own.caller(certificate(f"urn:domus:manager:{ID}")) == Caller(MANAGER, ID, "ab1")
    assert bench.own.caller(certificate("urn:domus:job:7", "urn:domus:for:other", here)) == Caller(JOB, "7", "ab1")
    refused = [
        ("urn:domus:job:7",),
        (here,),
        ("urn:domus:job:7", "urn:domus:for:other"),
        ("urn:domus:manager:2",),
        (f"urn:domus:server:{bench.own.server_id}",),
        (),
    ]
    for uris in refused:
        with pytest.raises(Forbidden):
            bench.own.caller(certificate(*uris))
    with pytest.raises(Forbidden):
        bench.own.caller(certificate(f"urn:domus:manager:{ID}", ends="Jan  1 00:00:00 2027 GMT"))
    for nobody in (None, {}):
        with pytest.raises(Unauthorized):
            bench.own.caller(nobody)


def test_a_revoked_certificate_is_refused_also_by_a_new_database(bench: Bench) -> None:
    bench.own.take_over(**bench.papers())
    assert bench.own.revoke("0AB1", 9e9) == "ab1"
    for own in (
        bench.own,
        bench.again(),
        Ownership(str(bench.directory), str(bench.directory / "state"), AgentStore(str(bench.directory / "new")), lambda: NOW),
    ):
        with pytest.raises(Forbidden):
            own.caller(certificate(f"urn:domus:manager:{ID}"))
    assert bench.own.caller(certificate(f"urn:domus:manager:{ID}", serial="0AB2"))


def test_serial_numbers_have_one_form() -> None:
    assert {normal_serial(text) for text in ("0AB1", "ab1", "0x0ab1")} == {"ab1"}
    with pytest.raises(InvalidSpec):
        normal_serial("serial")


def owned(bench: Bench) -> dict[str, str]:
    papers = bench.papers()
    bench.own.take_over(**papers)
    return papers


def renewed(bench: Bench) -> str:
    return bench.authority.sign(bench.own.renewal_request(), f"urn:domus:server:{bench.own.server_id}")


def test_a_renewed_server_has_another_key_and_the_same_manager(bench: Bench) -> None:
    owned(bench)
    key, context, changes = bench.file("key.pem").read_text(), bench.own.context, []
    bench.own.changed = lambda: changes.append(1)
    certificate = renewed(bench)
    bench.own.renew(certificate)
    assert (bench.file("certificate.pem").read_text(), bench.own.manager, changes) == (certificate, ID, [1])
    assert bench.file("key.pem").read_text() != key
    assert bench.own.context is not context
    assert bench.again().serial() == bench.own.serial()
    assert "moving" not in bench.file("identity.json").read_text()


@pytest.mark.parametrize("case", ["key", "server", "authority", "nonsense", "twice"])
def test_a_renewal_that_does_not_fit_changes_nothing(bench: Bench, case: str) -> None:
    owned(bench)
    before = {path.name: path.read_text() for path in bench.file("").iterdir()}
    request, urn = bench.own.renewal_request(), f"urn:domus:server:{bench.own.server_id}"
    wrong = {
        "key": lambda: bench.authority.issue([urn])[0],
        "server": lambda: bench.authority.sign(request, "urn:domus:server:other"),
        "authority": lambda: SmallAuthority("another").sign(request, urn),
        "nonsense": lambda: "hello",
        "twice": lambda: bench.authority.sign(request, urn),
    }[case]()
    if case == "twice":
        bench.again()  # restarted: the key is forgotten
    with pytest.raises((InvalidSpec, Conflict)):
        bench.own.renew(wrong)
    assert {path.name: path.read_text() for path in bench.file("").iterdir()} == before


@pytest.mark.parametrize("done", range(6))
def test_a_renewal_that_a_power_cut_ended_leaves_a_key_and_its_certificate(bench: Bench, monkeypatch: pytest.MonkeyPatch, done: int) -> None:
    owned(bench)
    certificate, before = renewed(bench), bench.file("certificate.pem").read_text()
    steps, replace = [0], os.replace

    def cut(source: str, target: str) -> None:
        if steps[0] == done:
            raise KeyboardInterrupt
        steps[0] += 1
        replace(source, target)

    monkeypatch.setattr(os, "replace", cut)
    with contextlib.suppress(KeyboardInterrupt):
        bench.own.renew(certificate)
    monkeypatch.setattr(os, "replace", replace)
    own = bench.again()  # would raise if key and certificate did not belong together
    assert bench.file("certificate.pem").read_text() == (certificate if done > 2 else before)
    assert own.manager == ID


def test_two_that_start_at_once_make_one_identity(tmp_path: Path) -> None:
    code = "import sys; from domus_agent.ownership import Ownership; from domus_agent.store import AgentStore;"
    code += "print(Ownership(sys.argv[1], sys.argv[1] + '/state', AgentStore(sys.argv[1])).invitation())"
    running = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) for dummy in range(6)]
    assert len({one.communicate(timeout=60)[0] for one in running}) == 1
    assert all(one.returncode == 0 for one in running)


def test_two_authorities_are_believed_if_ours_is_one_of_them(bench: Bench) -> None:
    bench.own.take_over(**bench.papers())
    other, stranger = SmallAuthority("servers"), SmallAuthority("servers")
    for wrong in (other.pem, other.pem + stranger.pem, "no certificate", ""):
        with pytest.raises(InvalidSpec):
            bench.own.believe(wrong)
    assert bench.file("authority.pem").read_text() == bench.authority.pem
    before, both = bench.own.context, bench.authority.pem + other.pem
    assert bench.own.believe(both) == {"changed": True} and bench.own.context is not before
    assert bench.own.believe(both) == {"changed": False}
    assert bench.again().context.cert_store_stats()["x509_ca"] == 2, "a restarted agent believes both, too"
    renewed = other.sign(bench.own.renewal_request(), f"urn:domus:server:{bench.own.server_id}")
    bench.own.renew(renewed)
    assert bench.own.believe(other.pem) == {"changed": True}, "the one before may go then"
    with pytest.raises(InvalidSpec):
        bench.own.renew(bench.authority.sign(bench.own.renewal_request(), f"urn:domus:server:{bench.own.server_id}"))
