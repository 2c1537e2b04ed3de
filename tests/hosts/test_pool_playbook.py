"""From a site document to a clustered pool in one command: the playbook `server_pools`, over SSH, with a manager; a second run changes nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.hosts.conftest import Hosts
from tests.hosts.lab.commands import wait_until
from tests.hosts.lab.host import Host
from tests.hosts.lab.lab import Lab
from tests.hosts.site import Site

FOLDER = "/srv/shared/pool"
SECRET = "a secret of {{ nobody }}"


@pytest.fixture(scope="module")
def place(lab: Lab, module_hosts: Hosts, tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, list[Host]]:
    """A manager and two servers; they are in no pool yet."""
    hosts = module_hosts(3)
    site = Site(lab, tmp_path_factory.mktemp("site"), hosts[0], hosts[1:])
    assert min(site.done("site").values()) > 0
    return site, hosts


def document(lab: Lab, servers: list[Host]) -> dict[str, Any]:
    """A pool of these servers, whose fence device is never asked: nobody listens there."""
    names = [host.name for host in servers]
    options = [{"name": "ip", "value": "192.0.2.1"}, {"name": "username", "value": "root"}, {"name": "password", "secret": SECRET}]
    device = {"name": "bmc", "agent": "fence_ipmilan", "servers": [{"name": name} for name in names], "options": options}
    subnet = ".".join(lab.network.gateway.split(".")[:3]) + ".0/24"
    pool = {"name": "rack1", "servers": names, "file_system": "pool", "heartbeat": [{"name": "lan", "subnet": subnet}], "fencing": [device]}
    repository = {"name": "pool", "path": FOLDER, "shared": True, "servers": names}
    return {"site": "tests", "repositories": [repository], "server_pools": [pool]}


def test_one_command_forms_the_pool_and_the_second_changes_nothing(lab: Lab, place: tuple[Site, list[Host]]) -> None:
    site, (manager, *servers) = place
    (site.directory / "pools.json").write_text(json.dumps(document(lab, servers)))
    file = str(site.directory / "pools.json")
    refused = site.play("server_pools")
    assert refused.returncode != 0 and "domus_site_file: is missing" in refused.stdout
    run = site.play("server_pools", domus_site_file=file)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert SECRET not in run.stdout + run.stderr
    for host in servers:
        told = json.loads(host.attempt("domus-agent", "pool", "status", "-o", "json").output)
        assert told["quorate"] and told["members"] == {one.name: "online" for one in servers}
        assert host.run("/etc/domus/fencing/bmc.password").strip() == SECRET, "what is in a document is no template"
        assert f'file_lockspace_dir = "{FOLDER}/lockspace"' in host.run("cat", "/etc/libvirt/qemu-lockd.conf")

    def is_told() -> bool:
        pool = site.client().get("/api/v1/server-pools/rack1")
        return bool(pool["quorate"]) and [one["state"] for one in pool["servers"]] == ["present", "present"]

    wait_until(is_told, 60, "the manager hearing of the pool", every=1)
    assert set(site.done("server_pools", domus_site_file=file).values()) == {0}
    assert site.tokens() == []
