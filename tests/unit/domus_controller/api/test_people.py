"""Who asks, tokens and people."""

from __future__ import annotations

import pytest

from tests.unit.domus_controller.api.fakes import PASSWORD, Manager, basic


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
