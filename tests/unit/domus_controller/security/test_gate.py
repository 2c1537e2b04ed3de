"""The gate: who is let in, who is slowed down, and whose page may not act for whom."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from domus_controller.errors import Throttled, headers_of
from domus_controller.security import gate as gate_module
from domus_controller.security import passwords
from domus_controller.security.gate import FREE_TRIES, LONGEST_PENALTY, SERVER_URN, Gate, identify
from domus_controller.store import tokens, users
from domus_controller.store.database import Store
from domus_core.errors import Forbidden, Unauthorized
from flask import Request
from werkzeug.test import EnvironBuilder

from tests.unit.domus_controller.api.fakes import PASSWORD, basic, route_like
from tests.unit.domus_controller.security.certificates import certificate_pem

READ = route_like("read")


class Setting:
    """A gate with one person, and a clock that is set by hand."""

    def __init__(self, directory: Path) -> None:
        self.store = Store(directory)
        users.create(self.store, "ada", passwords.hash(PASSWORD), "operator")
        self.now = 1000.0
        self.gate = Gate(self.store, clock=lambda: self.now)

    def ask(self, headers: dict[str, str], route: Any = READ) -> Any:
        return self.gate.require(route, Request(EnvironBuilder(path="/api/v1/me", headers=headers, base_url="https://manager:7002/").get_environ()))


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    made = Setting(tmp_path)
    yield made
    made.store.close()


def test_password_and_token_say_who_it_is(setting: Setting) -> None:
    assert setting.ask(basic("ada")).name == "ada"
    token = tokens.create(setting.store, "ada", "tests", "viewer")[1]
    assert setting.ask({"Authorization": f"Bearer {token}"}).role == "viewer"
    with pytest.raises(Forbidden):
        setting.ask({"Authorization": f"Bearer {token}"}, route_like("operate"))


@pytest.mark.parametrize(
    "header", ["", "Basic", "Basic !!", "Basic YWRh", "Bearer", "Bearer domus_x", "Digest a", "Bearer \xff", "Basic " + "QQ==" * 10], ids=repr
)
def test_what_is_no_proof_is_refused(setting: Setting, header: str) -> None:
    with pytest.raises(Unauthorized) as raised:
        setting.ask({"Authorization": header} if header else {})
    assert "Basic" in headers_of(raised.value)["WWW-Authenticate"]


@pytest.mark.parametrize("permission", ["", "everything", "READ"])
def test_a_permission_that_nobody_knows_is_granted_to_nobody(setting: Setting, permission: str) -> None:
    with pytest.raises(Forbidden):
        setting.ask(basic("ada"), route_like(permission))
    with pytest.raises(Forbidden):
        setting.ask(basic("ada"), None)


def test_a_verified_password_is_not_worked_out_again_for_a_minute(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []
    verify = passwords.verify
    monkeypatch.setattr(gate_module.passwords, "verify", lambda stored, password: checked.append(password) or verify(stored, password))
    for dummy in range(3):
        setting.ask(basic("ada"))
    assert checked == [PASSWORD]
    setting.now += 61
    setting.ask(basic("ada"))
    assert len(checked) == 2


def test_what_is_remembered_ends_with_the_password_and_with_the_person(setting: Setting) -> None:
    setting.ask(basic("ada"))
    users.set_password(setting.store, "ada", passwords.hash("another long one"))
    with pytest.raises(Unauthorized):
        setting.ask(basic("ada"))
    setting.ask(basic("ada", "another long one"))
    users.remove(setting.store, "ada")
    with pytest.raises(Unauthorized):
        setting.ask(basic("ada", "another long one"))


@pytest.mark.parametrize("name", ["ada", "nobody"])
def test_wrong_passwords_are_slowed_down_name_by_name(setting: Setting, name: str) -> None:
    for dummy in range(FREE_TRIES + 1):
        with pytest.raises(Unauthorized):
            setting.ask(basic(name, "wrong password"))
    with pytest.raises(Throttled) as raised:
        setting.ask(basic(name))
    assert int(raised.value.headers["Retry-After"]) >= 1
    with pytest.raises(Unauthorized):
        setting.ask(basic("somebody else", "wrong password"))
    setting.now += LONGEST_PENALTY
    if name == "ada":
        assert setting.ask(basic("ada")).name == "ada"


def test_somebody_elses_tries_do_not_lock_out_who_is_in(setting: Setting) -> None:
    setting.ask(basic("ada"))
    for dummy in range(FREE_TRIES + 1):
        with pytest.raises(Unauthorized):
            setting.ask(basic("ada", "wrong password"))
    assert setting.ask(basic("ada")).name == "ada"


@pytest.mark.parametrize(("origin", "passes"), [("https://manager:7002", True), ("https://evil.example", False), ("null", False), ("https://manager", False)])
def test_a_foreign_page_does_not_act_for_the_person(setting: Setting, origin: str, passes: bool) -> None:
    if passes:
        setting.ask({**basic("ada"), "Origin": origin})
        return
    with pytest.raises(Forbidden):
        setting.ask({**basic("ada"), "Origin": origin})


def quoted(*uris: str) -> str:
    return urllib.parse.quote(certificate_pem(uris, 7))


def test_a_certificate_says_which_server_it_is() -> None:
    assert identify(quoted("urn:domus:server:abc"), SERVER_URN, "server") == ("abc", 7)


@pytest.mark.parametrize(
    ("certificate", "error"),
    [
        (quoted(), Unauthorized),
        ("", Unauthorized),
        ("%ff%fe", Unauthorized),
        (quoted("urn:domus:job:abc", "urn:domus:for:abc"), Forbidden),
        (quoted("urn:domus:manager:abc"), Forbidden),
        (quoted("urn:domus:server:a", "urn:domus:server:b"), Forbidden),
    ],
)
def test_other_certificates_are_no_servers(certificate: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        identify(certificate, SERVER_URN, "server")
