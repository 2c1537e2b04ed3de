"""Who asks, tokens and people."""

from __future__ import annotations

import pytest

from tests.unit.domus_controller.api.fakes import PASSWORD, Manager, basic
from tests.unit.domus_controller.security.certificates import certificate_headers, person_headers


def test_everybody_is_told_who_they_are(manager: Manager) -> None:
    assert manager.get("/api/v1/me", role="operator") == {"name": "operator", "role": "operator", "permissions": ["read", "operate"]}
    assert manager.get("/api/v1/me", role=None, headers=basic("viewer"))["permissions"] == ["read"]


def test_a_token_is_shown_once_works_and_is_revoked(manager: Manager) -> None:
    made = manager.call("POST", "/api/v1/tokens", role="operator", json={"name": "nightly", "role": "viewer", "expires_at": "2999-01-01T00:00:00Z"})
    assert (made.status_code, made.json["expires_at"]) == (201, "2999-01-01T00:00:00.000Z")
    bearer = {"Authorization": f"Bearer {made.json['token']}"}
    assert manager.get("/api/v1/me", role=None, headers=bearer)["role"] == "viewer"
    listed = manager.call("GET", "/api/v1/tokens", role="operator")
    assert made.json["id"] in [token["id"] for token in listed.json["items"]]
    assert made.json["token"] not in listed.text
    assert manager.call("DELETE", f"/api/v1/tokens/{made.json['id']}", role="operator").status_code == 204
    assert manager.call("GET", "/api/v1/me", role=None, headers=bearer).status_code == 401


def test_a_token_may_do_no_more_than_its_maker_and_belongs_to_them(manager: Manager) -> None:
    refused = manager.call("POST", "/api/v1/tokens", role="viewer", json={"name": "more", "role": "administrator"})
    assert (refused.status_code, refused.json["field"]) == (403, "role")
    made = manager.call("POST", "/api/v1/tokens", role="operator", json={"name": "mine"}).json
    assert made["role"] == "operator"
    assert made["id"] not in [token["id"] for token in manager.get("/api/v1/tokens", role="viewer")["items"]]
    assert manager.call("DELETE", f"/api/v1/tokens/{made['id']}", role="viewer").status_code == 404
    assert manager.call("DELETE", f"/api/v1/tokens/{made['id']}", role="administrator").status_code == 204


def test_people_come_change_their_password_and_go(manager: Manager) -> None:
    made = manager.call("POST", "/api/v1/users", json={"name": "ada", "password": PASSWORD, "role": "operator"})
    assert (made.status_code, made.json["role"]) == (201, "operator")
    assert PASSWORD not in made.text
    assert "ada" in [user["name"] for user in manager.get("/api/v1/users")["items"]]
    assert manager.get("/api/v1/me", role=None, headers=basic("ada"))["name"] == "ada"
    assert manager.call("PUT", "/api/v1/users/ada/password", json={"password": "quite another one"}).status_code == 204
    assert manager.get("/api/v1/me", role=None, headers=basic("ada", "quite another one"))["name"] == "ada"
    assert manager.call("DELETE", "/api/v1/users/ada").status_code == 204
    assert manager.call("DELETE", "/api/v1/users/ada").status_code == 404


def test_nobody_removes_themselves(manager: Manager) -> None:
    assert manager.call("DELETE", "/api/v1/users/administrator").json["code"] == "forbidden"


@pytest.mark.parametrize("password", ["short", "", 5, None, "x" * 2000])
def test_a_poor_password_is_refused_and_never_repeated(manager: Manager, password: object) -> None:
    answer = manager.call("POST", "/api/v1/users", json={"name": "ada", "password": password, "role": "viewer"})
    assert (answer.status_code, answer.json["field"]) == (400, "password")
    assert "value" not in answer.json


def test_a_certificate_lets_its_person_in_until_it_is_revoked(manager: Manager) -> None:
    made = manager.call("POST", "/api/v1/users/operator/certificates", role="operator", json={"csr": "PEM", "name": "laptop"}).json
    headers = person_headers("operator", int(made["serial"], 16))
    assert manager.get("/api/v1/me", role=None, headers=headers)["role"] == "operator"
    assert manager.call("POST", "/api/v1/users", role=None, headers=headers, json={}).status_code == 403, "the role counts"
    assert manager.call("GET", "/api/v1/me", role=None, headers={**headers, "X-Client-Verify": "NONE"}).status_code == 401
    assert manager.call("GET", "/api/v1/me", role=None, headers={**headers, "Origin": "https://elsewhere.example"}).status_code == 403
    assert manager.call("GET", "/api/v1/me", role=None, headers=person_headers("administrator", int(made["serial"], 16))).status_code == 401
    assert manager.call("GET", "/api/v1/me", role=None, headers=certificate_headers("operator", int(made["serial"], 16))).status_code == 403
    assert [one["serial"] for one in manager.get("/api/v1/certificates", role="operator")["items"]] == [made["serial"]]
    assert manager.get("/api/v1/certificates", role="viewer")["items"] == []
    assert manager.call("DELETE", f"/api/v1/certificates/{made['serial']}", role="viewer").status_code == 404
    assert manager.call("DELETE", f"/api/v1/certificates/{made['serial']}", role="operator").status_code == 204
    assert manager.call("GET", "/api/v1/me", role=None, headers=headers).status_code == 401


def test_a_certificate_gives_no_more_than_who_asks_for_it_has(manager: Manager) -> None:
    token = manager.call("POST", "/api/v1/tokens", role="administrator", json={"name": "weak", "role": "viewer"}).json["token"]
    bearer = {"Authorization": f"Bearer {token}"}
    made = manager.call("POST", "/api/v1/users/administrator/certificates", role=None, headers=bearer, json={"csr": "PEM"}).json
    assert made["role"] == "viewer"
    assert manager.call("POST", "/api/v1/users/operator/certificates", role="viewer", json={"csr": "PEM"}).status_code == 403
    assert manager.call("POST", "/api/v1/users/operator/certificates", json={"csr": "PEM"}).json["role"] == "administrator"
    headers = person_headers("operator", 11)
    assert manager.get("/api/v1/me", role=None, headers=headers)["role"] == "operator", "but no more than its person"
    assert manager.call("POST", "/api/v1/users/nobody/certificates", json={"csr": "PEM"}).status_code == 404


def test_the_certificates_of_somebody_who_has_gone_are_gone(manager: Manager) -> None:
    manager.call("POST", "/api/v1/users", json={"name": "ada", "password": PASSWORD, "role": "operator"})
    serial = manager.call("POST", "/api/v1/users/ada/certificates", json={"csr": "PEM"}).json["serial"]
    headers = person_headers("ada", int(serial, 16))
    assert manager.get("/api/v1/me", role=None, headers=headers)["name"] == "ada"
    assert manager.call("DELETE", "/api/v1/users/ada").status_code == 204
    assert manager.call("GET", "/api/v1/me", role=None, headers=headers).status_code == 401
