"""libvirt's credentials on a server: what is accepted, where it is put, and that nothing is touched unasked."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest
from domus_agent import libvirt_door
from domus_agent.config import AgentConfig
from domus_agent.libvirt_pki import FILES
from domus_agent.libvirt_tls import LibvirtTls
from domus_agent.store import AgentStore
from domus_controller.security.authority import Authority
from domus_core.errors import DriverError, InvalidSpec

ID, OTHER = "6a1f4e0e-0000-4000-8000-000000000001", "6a1f4e0e-0000-4000-8000-000000000002"


class Door:
    """libvirt's door as the tests' own: what is done to it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[Any] = []
        self.opened = False
        self.failing = False
        monkeypatch.setattr(libvirt_door, "has_systemd", lambda: True)
        monkeypatch.setattr(libvirt_door, "is_open", lambda: self.opened)
        monkeypatch.setattr(libvirt_door, "open_door", lambda: self._do("open", True))
        monkeypatch.setattr(libvirt_door, "close_door", lambda: self._do("close", False))
        monkeypatch.setattr(libvirt_door, "reload_certificates", lambda: self._do("reload", True))
        monkeypatch.setattr(libvirt_door, "end_sessions", lambda gone: self._do(("end", *sorted(gone)), True))
        monkeypatch.setattr(libvirt_door, "check_answers", lambda authority, serial: self._do("check", True))

    def _do(self, what: Any, opened: bool) -> int:
        if self.failing:
            raise DriverError("no")
        self.done.append(what)
        self.opened = opened
        return 1


class Bench:
    """A server's part of it in a directory; `follow` is what its thread does in each turn."""

    def __init__(self, directory: Path, door: Door) -> None:
        self.directory, self.pki, self.door = directory, directory / "pki", door
        self.authority = Authority(directory / "manager")
        self.authority.ensure()
        (directory / "agent" / "identity").mkdir(parents=True)
        self.store = AgentStore(str(directory / "agent"))
        self.again()

    def again(self, **settings: Any) -> None:
        """As a restarted agent finds it."""
        told = {"directory": str(self.directory / "agent"), "pki_directory": str(self.pki), "libvirt_tls": True, **settings}
        self.tls = LibvirtTls(AgentConfig(**told), self.store)

    def papers(self, pool: str = "default", authority: Optional[Authority] = None, **changes: Any) -> dict[str, Any]:
        by, asked = authority or self.authority, self.tls.requests() or {}
        certificate, qemu = by.issue_libvirt(asked["libvirt"], ID, pool, ["127.0.0.1"]), by.issue_qemu(asked["qemu"], ID, pool, ["127.0.0.1"])
        return {"authority": by.libvirt_ca_pem, "crl": by.libvirt_crl()[1], "certificate": certificate.pem, "qemu_certificate": qemu.pem, **changes}

    def take(self) -> None:
        self.tls.install(self.tls.check(self.papers()))

    def follow(self) -> list[Any]:
        self.door.done.clear()
        self.tls._follow()
        return list(self.door.done)

    def files(self) -> dict[str, str]:
        return {str(path.relative_to(self.pki)): path.read_text() for path in self.pki.rglob("*") if path.is_file()}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    made = Bench(tmp_path, Door(monkeypatch))
    yield made
    made.store.close()


def test_what_the_manager_gave_is_where_libvirt_and_qemu_look(bench: Bench) -> None:
    bench.take()
    assert bench.follow() == ["open", "check"]
    assert set(bench.files()) == {one.path for one in FILES}
    modes = {one.path: stat.S_IMODE((bench.pki / one.path).stat().st_mode) for one in FILES}
    assert {path for path, mode in modes.items() if mode & 0o007 and "key" in path} == set()
    assert modes["libvirt/private/serverkey.pem"] == 0o600
    assert bench.files()["libvirt/private/serverkey.pem"] != bench.files()["qemu/server-key.pem"]
    assert bench.follow() == [], "the second time there is nothing to do"


def test_a_restarted_agent_puts_right_what_was_changed(bench: Bench) -> None:
    bench.take()
    bench.follow()
    before = bench.files()
    (bench.pki / "libvirt/servercert.pem").write_text("broken")
    bench.again()
    assert bench.follow() == ["reload", "check"]
    assert bench.files() == before


def test_a_release_leaves_nothing_and_gives_back_what_was_there(bench: Bench) -> None:
    (bench.pki / "CA").mkdir(parents=True)
    (bench.pki / "CA/cacert.pem").write_text("the administrator's own")
    bench.take()
    bench.follow()
    bench.tls.remove()
    bench.again()  # an agent that died before it came to it
    assert bench.follow() == ["close"]
    assert bench.files() == {"CA/cacert.pem": "the administrator's own"}
    assert bench.follow() == []


def test_a_release_touches_nothing_that_domus_did_not_install(bench: Bench) -> None:
    (bench.pki / "CA").mkdir(parents=True)
    (bench.pki / "CA/cacert.pem").write_text("the administrator's own")
    bench.tls.remove()
    assert bench.follow() == []
    assert bench.files() == {"CA/cacert.pem": "the administrator's own"}


def test_without_the_setting_nothing_is_asked_for_or_taken(bench: Bench) -> None:
    papers = bench.papers()
    bench.again(libvirt_tls=False)
    assert (bench.tls.requests(), bench.tls.told()) == (None, None)
    with pytest.raises(InvalidSpec, match="libvirt_tls"):
        bench.tls.check(papers)
    bench.tls.start()
    assert not bench.tls._thread.is_alive()


@pytest.mark.parametrize("case", ["missing", "other key", "other authority", "swapped", "other list", "nonsense"])
def test_papers_that_do_not_fit_are_refused(bench: Bench, case: str, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other")
    other.ensure()
    good = bench.papers()
    wrong = {
        "missing": lambda: {name: text for name, text in good.items() if name != "crl"},
        "other key": lambda: {**good, "certificate": _with_another_key(bench)},
        "other authority": lambda: {**bench.papers(authority=other), "authority": bench.authority.libvirt_ca_pem},
        "swapped": lambda: {**good, "certificate": good["qemu_certificate"]},
        "other list": lambda: {**good, "crl": other.libvirt_crl()[1]},
        "nonsense": lambda: {**good, "certificate": "hello"},
    }[case]()
    with pytest.raises(InvalidSpec):
        bench.tls.check(wrong)


def test_a_revocation_list_is_taken_once_and_never_an_older_one(bench: Bench) -> None:
    bench.take()
    bench.follow()
    old = bench.authority.libvirt_crl()[1]
    bench.authority.revoke_libvirt(["abc"])
    number, new = bench.authority.libvirt_crl()
    bench.tls.take_crl(new, [OTHER, "--connect"])
    assert bench.follow() == ["reload", ("end", OTHER), "check"]
    assert (bench.pki / "CA/cacrl.pem").read_text() == (bench.pki / "qemu/ca-crl.pem").read_text() == new
    bench.tls.take_crl(old)
    assert bench.follow() == []
    assert (bench.tls.told() or {})["crl"] == number
    with pytest.raises(InvalidSpec):
        bench.tls.take_crl("hello")


def test_what_fails_is_told_once_and_tried_again(bench: Bench) -> None:
    bench.take()
    bench.door.failing = True
    for dummy in range(2):
        with pytest.raises(DriverError) as caught:
            bench.follow()
        bench.tls._tell(str(caught.value))
    bench.door.failing = False
    assert "open" in bench.follow()
    bench.tls._tell("")
    assert [one["kind"] for one in bench.store.unsent() if one["type"] == "event"] == ["libvirt.tls_failed", "libvirt.tls_ready"]


def test_the_keys_are_nobody_elses(bench: Bench) -> None:
    bench.take()
    assert stat.S_IMODE(os.stat(bench.directory / "agent/identity/libvirt.json").st_mode) == 0o600
    assert all("PRIVATE" not in text for text in bench.papers().values())


def _with_another_key(bench: Bench) -> str:
    from domus_agent.certificates import new_request

    return bench.authority.issue_libvirt(new_request()[1], ID, "default", ["127.0.0.1"]).pem
