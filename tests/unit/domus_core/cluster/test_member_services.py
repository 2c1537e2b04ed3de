"""Whether Corosync works by the file that is there."""

from __future__ import annotations

from pathlib import Path

import pytest
from domus_core.cluster import member_services
from domus_core.cluster.corosync import corosync_conf
from domus_core.cluster.pool import Member, Pool

IDS = {"a": 1, "b": 2, "c": 3}


def settings_of(pool: Pool, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The settings in the pool's file, in the words of Corosync's map."""
    path = folder / "corosync.conf"
    path.write_text(corosync_conf(pool, IDS))
    monkeypatch.setattr(member_services, "CONF", str(path))
    return member_services._in_file()


def pool(*names: str, token: int = 3000) -> Pool:
    return Pool("pool1", tuple(Member(name, (f"192.0.2.{IDS[name]}",)) for name in names), token=token)


def test_the_file_is_told_in_the_words_of_the_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = settings_of(pool("a", "b"), tmp_path, monkeypatch)
    assert told["totem.token"] == "3000" and told["quorum.two_node"] == "1"
    assert told["nodelist.node.1.name"] == "b" and told["nodelist.node.1.nodeid"] == "2"


@pytest.mark.parametrize(
    ("wanted", "differs"),
    [
        (pool("a", "b", "c"), False),
        (pool("a", "b"), True),
        (pool("a", "b", "c", token=5000), True),
    ],
)
def test_a_difference_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: Pool, differs: bool) -> None:
    found = settings_of(pool("a", "b", "c"), tmp_path, monkeypatch)
    # Corosync's map has more than its file, and after a member has left the list begins anywhere.
    moved = {name.replace("node.0.", "node.7."): value for name, value in found.items()} | {"runtime.votequorum.this_node_id": "1"}
    assert member_services._differs(moved, settings_of(wanted, tmp_path, monkeypatch)) == differs


def test_a_cluster_that_somebody_else_made_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "corosync.conf"
    monkeypatch.setattr(member_services, "CONF", str(path))
    assert member_services.leave_packaged(check=True) == []
    path.write_text("totem {\n  cluster_name: theirs\n}\nnodelist {\n  node {\n    ring0_addr: 192.0.2.7\n  }\n}\n")
    with pytest.raises(member_services.Conflict):
        member_services.leave_packaged(check=True)
