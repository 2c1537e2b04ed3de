"""corosync.conf: what it says for each kind of pool, node ids that stay, and that Corosync itself takes it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from domus_core.cluster.corosync import assign_node_ids, corosync_conf, known_node_ids, read_conf
from domus_core.cluster.pool import Member, QuorumDevice

from tests.unit.domus_core.cluster.pools import pool

IDS = {f"srv{number}": number for number in range(1, 8)}


def test_node_ids_stay_when_members_come_and_go() -> None:
    first = assign_node_ids(["srv1", "srv2", "srv3"], {})
    assert first == {"srv1": 1, "srv2": 2, "srv3": 3}
    left = assign_node_ids(["srv3", "srv1"], first)
    assert left == {"srv3": 3, "srv1": 1}
    assert assign_node_ids(["srv1", "srv4", "srv3", "srv2"], left) == {"srv1": 1, "srv4": 4, "srv3": 3, "srv2": 5}


def test_node_ids_are_read_back() -> None:
    ids = {"srv1": 7, "srv2": 2, "srv3": 9}
    assert known_node_ids(corosync_conf(pool(3), ids)) == ids
    assert known_node_ids("") == {} and known_node_ids("nodelist {\n node {\n name: a\n nodeid: x\n }\n}") == {}


def test_encrypted_links_one_for_each_network() -> None:
    members = tuple(Member(f"srv{number}", (f"192.0.2.{number}", f"198.51.100.{number}")) for number in (1, 2, 3))
    told = dict(read_conf(corosync_conf(pool(members=members, token=1500), IDS)))
    assert told["totem.1.transport"] == "knet" and told["totem.1.token"] == "1500"
    assert (told["totem.1.crypto_cipher"], told["totem.1.crypto_hash"]) == ("aes256", "sha256")
    assert told["totem.1.interface.2.linknumber"] == "1"
    assert told["nodelist.1.node.3.ring1_addr"] == "198.51.100.3"


def test_two_members_wait_for_each_other_three_do_not() -> None:
    two, three = (dict(read_conf(corosync_conf(pool(number), IDS))) for number in (2, 3))
    assert two["quorum.1.two_node"] == "1" and two["quorum.1.wait_for_all"] == "1"
    assert "quorum.1.two_node" not in three


def test_a_quorum_device_takes_the_place_of_two_node() -> None:
    told = dict(read_conf(corosync_conf(pool(2, quorum_device=QuorumDevice("qnetd")), IDS)))
    assert told["quorum.1.device.1.net.1.host"] == "qnetd" and told["quorum.1.device.1.votes"] == "1"
    assert "quorum.1.two_node" not in told
    told = dict(read_conf(corosync_conf(pool(5, quorum_device=QuorumDevice("qnetd", "lms")), IDS)))
    assert told["quorum.1.device.1.votes"] == "4"


@pytest.mark.parametrize("servers", [1, 2, 3])
def test_corosync_takes_it(servers: int, tmp_path: Path) -> None:
    assert os.path.exists("/usr/sbin/corosync"), "corosync is missing: apt-get install --no-install-recommends corosync"
    members = tuple(Member(f"srv{number}", (f"127.0.0.{number}",)) for number in range(1, servers + 1))
    (tmp_path / "key").write_bytes(os.urandom(256))
    good = corosync_conf(pool(members=members), IDS).replace("token:", f"keyfile: {tmp_path}/key\n    token:")
    for text, taken in ((good, True), (good.replace("aes256", "rot13"), False)):
        (tmp_path / "corosync.conf").write_text(text, encoding="utf-8")
        command = [shutil.which("corosync") or "/usr/sbin/corosync", "-t", "-c", str(tmp_path / "corosync.conf")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode == 0) == taken, done.stderr + done.stdout
