"""A secret is seen nowhere: canaries in every secret field, looked for in everything that prints."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
from domus_core.__main__ import main
from domus_core.engine import apply
from domus_core.errors import DomusError
from domus_core.fake_driver.driver import FakeDriver
from domus_core.model.document import parse_document
from domus_core.model.fields import Object, Objects, fields_of, plain
from domus_core.model.kinds import KINDS
from domus_core.model.secrets import MASK, Digest, Secret
from domus_core.model.snapshot import snapshot_as_dict
from domus_core.planning.reconcile import plan
from domus_core.rendering import render_diff, render_plan
from domus_core.snapshots import dump_snapshot, load_snapshot

CANARIES = ("canary-a", "canary-b", "canary-c", "canary-d", "canary-e")
VM: dict[str, Any] = {"name": "a", "state": "running", "vnc": {"password": "canary-a"}, "cloud_init": {"user_data": "canary-b", "network_config": "canary-c"}}


POOL: dict[str, Any] = {
    "name": "rack1",
    "servers": ["srv1"],
    "file_system": "main",
    "fencing": [{"name": "bmc", "agent": "fence_ipmilan", "servers": [{"name": "srv1"}], "options": [{"name": "password", "secret": "canary-d"}]}],
    "cluster": {"members": [{"name": "srv1", "node_id": 1, "addresses": ["192.0.2.1"]}], "authkey": "canary-e"},
}


def document(**fields: Any) -> dict[str, Any]:
    """One VM, and one pool, with a canary in every secret field."""
    repositories = [{"name": "main", "path": "/srv/main", "shared": True}]
    return {"site": "paris", "repositories": repositories, "server_pools": [copy.deepcopy(POOL)], "vms": [{**copy.deepcopy(VM), **fields}]}


def assert_clean(*texts: Any) -> None:
    """No canary in any of the texts, nor in the repr of anything else."""
    for text in texts:
        shown = text if isinstance(text, str) else repr(text) + str(text)
        assert not [canary for canary in CANARIES if canary in shown], shown[:300]


def secret_fields(spec: type, way: str = "") -> list[str]:
    """Every secret field of a table, with the way to it."""
    found = []
    for field in fields_of(spec):
        found += [f"{way}{field.name}"] if field.secret else []
        found += secret_fields(field.type.spec, f"{way}{field.name}.") if isinstance(field.type, (Object, Objects)) else []
    return found


def test_every_secret_field_holds_a_canary() -> None:
    of_vms = ["cloud_init.network_config", "cloud_init.user_data", "vnc.password"]
    assert sorted(field for kind in KINDS for field in secret_fields(kind.spec)) == sorted([*of_vms, "cluster.authkey", "fencing.options.secret"])


def test_nothing_that_prints_shows_a_secret() -> None:
    site = parse_document(document())
    driver = FakeDriver()
    planned = plan(site, driver.snapshot)
    assert_clean(site, planned, render_plan(planned), json.dumps(planned.as_dict()), [render_diff(step.changes) for step in planned.steps])
    for check in (True, False):
        report = apply(site, driver, check=check)
        assert_clean(report, json.dumps(report.as_dict()))
    assert_clean(driver.snapshot, json.dumps(snapshot_as_dict(driver.snapshot)), dump_snapshot(driver.snapshot))
    assert MASK in render_plan(planned)


def test_a_changed_secret_is_shown_as_a_mask() -> None:
    driver = FakeDriver()
    apply(parse_document(document(vnc={"password": "old"})), driver)
    site = parse_document(document())
    planned = plan(site, driver.snapshot)
    assert [change.field for step in planned.steps for change in step.changes] == ["vnc.password"]
    assert_clean(render_plan(planned), planned, planned.as_dict())
    assert f"vnc.password: {MASK} -> {MASK}" in render_plan(planned)


def test_a_saved_snapshot_knows_the_secret_without_holding_it() -> None:
    driver = FakeDriver()
    site = parse_document(document())
    apply(site, driver)
    text = dump_snapshot(driver.snapshot)
    assert_clean(text)
    assert plan(site, load_snapshot(text)).steps == ()
    assert plan(parse_document(document(vnc={"password": "other"})), load_snapshot(text)).steps
    assert text != dump_snapshot(driver.snapshot), "each salt is new"


@pytest.mark.parametrize("where", ["vnc.password", "cloud_init.user_data", "cloud_init.network_config"])
@pytest.mark.parametrize(
    "value",
    [["canary-a"], {"canary-a": "canary-b"}, "canary-a\x00", "canary-a" + "x" * (2 << 20), "canary-a\ud800"],
    ids=["list", "mapping", "NUL", "long", "surrogate"],
)
def test_a_refused_secret_is_not_repeated(where: str, value: Any) -> None:
    outer, inner = where.split(".")
    with pytest.raises(DomusError) as caught:
        parse_document({"vms": [{"name": "a", outer: {inner: value}}]})
    assert caught.value.field == where
    assert_clean(caught.value, repr(caught.value), json.dumps(caught.value.as_dict()))


@pytest.mark.parametrize(
    "entry",
    [
        {"vnc": "canary-a"},
        {"vnc": ["canary-a"]},
        {"vnc": {"pasword": "canary-a"}},
        {"vnc": {"password": "canary-a", "listen": "x"}},
        {"cloud-init": {"user_data": "canary-b"}},
    ],
)
def test_a_secret_in_the_wrong_place_is_not_repeated(entry: dict[str, Any]) -> None:
    with pytest.raises(DomusError) as caught:
        parse_document({"vms": [{"name": "a", **entry}]})
    assert_clean(caught.value, json.dumps(caught.value.as_dict()))


def test_the_command_shows_no_secret(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    wanted, snapshot = tmp_path / "wanted.json", tmp_path / "snapshot.json"
    wanted.write_text(json.dumps(document()))
    snapshot.write_text(dump_snapshot(FakeDriver().snapshot))
    for output in ("text", "json"):
        assert main([str(wanted), str(snapshot), "-o", output]) == 2
    wanted.write_text(json.dumps(document())[:-4])
    assert main([str(wanted), str(snapshot)]) == 1
    captured = capsys.readouterr()
    assert MASK in captured.out
    assert_clean(captured.out, captured.err)


def test_secrets_compare_with_each_other_and_with_digests() -> None:
    secret, digest = Secret("canary-a"), Secret("canary-a").digest("00")
    assert secret == Secret("canary-a") and secret == digest and digest == secret and secret != Secret("x") and Secret("x") != digest and digest != Secret("x")
    assert digest == Digest("00", digest.digest) and digest != Digest("01", digest.digest) and digest != 5 and secret != "canary-a"
    assert secret.reveal() == "canary-a" and hash(secret) == hash(Secret("canary-a"))
    assert_clean(secret, f"{secret} {secret!r}", [secret], plain(secret), plain(secret, mask=False), digest.as_dict())
    assert plain(digest) == plain({"a": secret})["a"] == MASK


def test_json_does_not_take_a_secret() -> None:
    with pytest.raises(TypeError):
        json.dumps({"password": Secret("canary-a")})
    with pytest.raises(TypeError):
        pickle.dumps(Secret("canary-a"), protocol=0)
