"""A repository on a real NFS server, mounted by the agents of two servers; its server hangs for a minute, and goes for good.

Three machines with kernels of their own, in the order of a bad day: the tests depend on each other.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.hosts.agents import install_agent, prepare_migration, secret_of
from tests.hosts.conftest import Hosts
from tests.hosts.lab.host import Host
from tests.hosts.lab.lab import Lab
from tests.hosts.site import changes, play_on
from tests.support.stack import Stack
from tests.support.stack_faults import ended, items

ROOT = Path(__file__).parents[2]
MOUNTED, POOL = "/var/lib/domus/repositories/nas", "/srv/rack1"
UNIT = "var-lib-domus-repositories-nas.mount"
# In a lab the locks of a client that died should fall soon.
LEASE = 15
# How long a machine without hardware virtualization may take for what takes a real one a second or two.
PATIENCE = 240.0
SETTINGS = {"heartbeat": 3, "statistics": 5, "libvirt_tls": True}
Item = dict[str, Any]


class Fleet:
    """An NFS server, two servers `s1` and `s2`, and their manager on this machine."""

    def __init__(self, lab: Lab, nas: Host, servers: list[Host]) -> None:
        self.nas, self.servers = nas, servers
        gateway = lab.network.gateway
        self.stack = Stack((), settings={"web_address": gateway})
        self.stack.url = f"https://{gateway}:{self.stack.port}"
        settings = json.loads((self.stack.directory / "manager.yml").read_text())
        (self.stack.directory / "manager.yml").write_text(json.dumps({**settings, "url": self.stack.url}))

    def up(self) -> Fleet:
        """Export a directory, and take the servers over."""
        with ThreadPoolExecutor(4) as pool:
            work = [pool.submit(export, self.nas), *(pool.submit(_install, server) for server in self.servers)]
            self.stack.up()  # not in a thread: its processes end with whoever started them
            for one in work:
                one.result()
        for number, server in enumerate(self.servers, 1):
            self.stack.client.post("/api/v1/servers", {"name": f"s{number}", "address": server.address, "secret": secret_of(server)})
        for server in self.servers:  # with its certificates libvirtd is started anew
            server.shell("until ss -ltn | grep -q :16514 && virsh version >/dev/null; do sleep 0.3; done", timeout=PATIENCE)
        self.wait_for(lambda: all(one["state"] == "running" and not one["problems"] for one in self.states()), "servers without a problem")
        return self

    def states(self) -> list[Item]:
        """The servers, as the manager sees them."""
        return items(self.stack, "servers")

    def wait_for(self, question: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
        """The answer, once it is one."""
        return self.stack.wait_for(lambda: question() or False, what, patience)

    def apply(self, *, succeeds: bool = True, **sections: Any) -> Item:
        """Apply a document, and return the job once it has ended."""
        job = ended(self.stack, self.stack.client.post("/api/v1/apply", {"site": "paris", **sections})["id"], PATIENCE)
        if (job["state"] == "succeeded") != succeeds:
            pytest.fail(f"the job {job['state']}: {json.dumps([job['error'], (job['result'] or {}).get('objects')])}", pytrace=False)
        return job

    def repository(self, server: str, name: str = "nas") -> Item:
        """A repository as one server tells of it. Raises LookupError."""
        return next(one for one in items(self.stack, "repositories") if (one["name"], one["server"]) == (name, server))

    def vm(self, name: str) -> Item:
        """A VM, as the manager knows it."""
        return dict(self.stack.client.get(f"/api/v1/vms/{name}"))

    def events(self, kind: str) -> list[Item]:
        """The events of this kind, of all servers."""
        return items(self.stack, "events", kind=kind)


def export(nas: Host) -> None:
    """Be an NFS server."""
    nas.write(
        "/etc/exports",
        "/export/vms *(rw,no_root_squash,no_subtree_check)\n/export/photos *(rw,no_root_squash,no_subtree_check)\n/export/isos *(ro,no_subtree_check)\n"
        "/export/pool *(rw,no_root_squash,no_subtree_check)\n",
    )
    nas.write("/etc/nfs.conf.d/lab.conf", f"[nfsd]\nlease-time={LEASE}\ngrace-time={LEASE}\n")
    nas.run("mkdir", "-p", "/export")
    nas.shell(
        "cd /export; mkdir -p vms photos isos/ISOs pool; touch photos/holiday.jpg isos/ISOs/debian.iso; systemctl start nfs-server",
        timeout=PATIENCE,
    )


def _install(server: Host) -> None:
    prepare_migration(server, PATIENCE)
    install_agent(server, SETTINGS, PATIENCE)


@pytest.fixture(scope="module")
def fleet(lab: Lab, module_hosts: Hosts) -> Iterator[Fleet]:
    nas, *servers = module_hosts(3, kind="machine", memory=768)
    made = Fleet(lab, nas, servers)
    try:
        yield made.up()
    finally:
        made.stack.close()


@pytest.fixture(name="server_document")
def _server_document(fleet: Fleet) -> Item:
    return document_of(fleet)


def document_of(fleet: Fleet) -> Item:
    """What each document begins with: where QEMU emulates, and the repositories."""
    nas = {"name": "nas", "nfs": {"server": fleet.nas.address, "export": "/export/vms"}, "servers": ["s1", "s2"]}
    local = {"name": "local", "path": "/var/lib/domus/local", "servers": ["s1"]}
    return {"servers": [{"name": name, "virtualization": "qemu"} for name in ("s1", "s2")], "repositories": [nas, local]}


def vm(name: str, repository: str, server: str = "s1", **more: Any) -> Item:
    """A small VM with one disk; nothing in it hears a power button."""
    disk = {"name": "root", "repository": repository, "size": "16MiB"}
    return {
        "name": name,
        "server": server,
        "memory": "32MiB",
        "machine": "pc",
        "disks": [disk],
        "state": "running",
        "force_stop": True,
        "stop_timeout": 0,
        **more,
    }


def write_to_disk(server: Host, name: str) -> None:
    """Have QEMU write to the first disk of a VM, as its guest would."""
    server.run("virsh", "qemu-monitor-command", name, "--hmp", 'qemu-io -d libvirt-1-format "aio_write -q 0 64k"')


def test_one_document_presents_it_to_two_servers(fleet: Fleet, server_document: Item) -> None:
    fleet.apply(**server_document, vms=[vm("web1", "nas", cloud_init={"user_data": "#cloud-config"}), vm("web2", "local")])
    one, two = fleet.wait_for(lambda: [fleet.repository("s1"), fleet.repository("s2")], "both servers telling of it")
    assert one["id"] == two["id"] == one["measured"]["uuid"]
    for told in (one["measured"], two["measured"]):
        assert told["available"] and told["mounted"] and told["shared"] and told["problem"] is None
        assert (told["file_system"], told["lease"], told["not_for_ha"]) == ("nfs4", LEASE, None)
        assert 0 < told["free"] <= told["capacity"]
    assert fleet.vm("web1")["state"] == "running"
    # What one server makes is seen by the other as the same object, soon and without being told.
    disks = fleet.wait_for(lambda: [one for one in items(fleet.stack, "virtual-disks") if one["name"] == "web1-root"][1:] and _copies(fleet), "the disk on s2")
    assert {disk["server"] for disk in disks} == {"s1", "s2"} and len({disk["id"] for disk in disks}) == 1
    for server in fleet.servers:
        assert server.run("systemctl", "is-enabled", UNIT).strip() == "enabled"
        assert "hard" in server.run("findmnt", "-no", "OPTIONS", MOUNTED) and "VirtualDisks" in server.run("ls", MOUNTED)
    again = fleet.apply(**server_document, vms=[vm("web1", "nas"), vm("web2", "local")])
    assert [one for one in again["result"]["objects"] if one["changed"]] == []


def _copies(fleet: Fleet) -> list[Item]:
    return [one for one in items(fleet.stack, "virtual-disks") if one["name"] == "web1-root"]


def test_both_make_the_same_disks_at_once(fleet: Fleet) -> None:
    disks = [{"name": f"shared{number}", "repository": "nas", "size": "1MiB", "format": "raw"} for number in range(5)]
    fleet.apply(virtual_disks=disks)
    for number in range(5):
        note = json.loads(fleet.nas.read(f"/export/vms/.domus/virtual_disk/shared{number}.json"))
        assert note["spec"]["name"] == f"shared{number}"
    assert fleet.nas.shell("ls -A /export/vms/VirtualDisks | grep -c '^shared.*img$'").strip() == "5"
    assert "partial" not in fleet.nas.run("ls", "-A", "/export/vms/VirtualDisks")


def test_a_vm_moves_on_it_while_it_runs(fleet: Fleet) -> None:
    """libvirt knows by itself that NFS is shared, and its locks let one server after the other write."""
    for server, other, name in ((fleet.servers[1], fleet.servers[0], "s2"), (fleet.servers[0], fleet.servers[1], "s1")):
        job = ended(fleet.stack, fleet.stack.client.post("/api/v1/vms/web1/migrate", {"server": name})["id"], PATIENCE)
        assert job["state"] == "succeeded", job["error"]
        assert "web1" in server.run("virsh", "list", "--name").split()
        assert "web1" not in other.run("virsh", "list", "--all", "--name").split()
        write_to_disk(server, "web1")
        fleet.wait_for(lambda name=name: fleet.vm("web1")["server"] == name, "the manager's view")


def test_version_3_and_read_only(fleet: Fleet) -> None:
    nfs = {"server": fleet.nas.address, "export": "/export/isos", "version": "3", "read_only": True}
    isos = {"name": "isos", "nfs": nfs, "adopted": True, "servers": ["s2"]}
    fleet.apply(repositories=[isos])
    told = fleet.wait_for(lambda: fleet.repository("s2", "isos")["measured"], "what s2 tells of it")
    assert told["available"] and "NFSv3" in told["not_for_ha"], told
    options = fleet.servers[1].run("findmnt", "-no", "OPTIONS", "/var/lib/domus/repositories/isos").split(",")
    assert {"ro", "vers=3"} <= set(options), options
    job = fleet.apply(succeeds=False, virtual_disks=[{"name": "no", "repository": "isos", "size": "1MiB", "servers": ["s2"]}])
    assert "read" in json.dumps(job)
    assert [one["changed"] for one in fleet.apply(repositories=[isos])["result"]["objects"]] == [False]
    fleet.apply(repositories=[{"name": "isos", "state": "absent", "servers": ["s2"]}])
    assert fleet.servers[1].run("findmnt", "-nt", "nfs,nfs4", "-o", "TARGET").split() == [MOUNTED]
    assert fleet.events("repository.lost") == []


def test_the_role_of_a_pool_mounts_its_file_system(fleet: Fleet, lab: Lab, tmp_path: Path) -> None:
    """Not through the manager, which must not be needed; what is looked up there is never old, and the role knows when locks fall."""
    names = [host.name for host in fleet.servers]
    known = {"server_pool_name": "rack1", "server_pool_file_system": POOL, "server_pool_reached": names}
    variables = dict.fromkeys(names, {**known, "server_pool_mount": {"server": fleet.nas.address, "export": "/export/pool"}})
    mounted = play_on(lab, tmp_path, fleet.servers, variables, "domus.virt.server_pool", "mount")
    assert mounted.returncode == 0 and set(changes(mounted.stdout).values()) == {1}, mounted.stdout[-4000:] + mounted.stderr[-2000:]
    for host in fleet.servers:
        assert {"vers=4.2", "hard", "lookupcache=none"} <= set(host.run("findmnt", "-no", "OPTIONS", POOL).split(","))
    looked = play_on(lab, tmp_path, fleet.servers, variables, "domus.virt.server_pool", "file_system")
    assert looked.returncode == 0 and f"after {LEASE} s" in looked.stdout, looked.stdout[-4000:] + looked.stderr[-2000:]
    for host in fleet.servers:
        assert host.run("stat", "-c", "%a", f"{POOL}/lockspace").strip() == "700"
        gone = "{repositories: [{name: rack1-pool, state: absent}]}"
        host.run("sh", "-c", f"echo '{gone}' | domus-agent apply -f -", timeout=PATIENCE)
        assert host.run("findmnt", "-nt", "nfs4", "-o", "TARGET").split() == [MOUNTED]


def test_a_disk_in_use_elsewhere_is_not_deleted(fleet: Fleet) -> None:
    job = fleet.apply(succeeds=False, virtual_disks=[{"name": "web1-root", "repository": "nas", "state": "absent", "servers": ["s2"]}])
    assert "not on this server" in json.dumps(job)
    job = fleet.apply(
        succeeds=False,
        vms=[{"name": "thief", "server": "s2", "memory": "32MiB", "disks": [{"name": "root", "virtual_disk": "nas/web1-root"}], "state": "running"}],
    )
    assert "lock" in json.dumps(job)
    fleet.apply(vms=[{"name": "thief", "server": "s2", "state": "absent"}])


def test_somebody_elses_files_are_left_alone(fleet: Fleet) -> None:
    photos = {"name": "photos", "nfs": {"server": fleet.nas.address, "export": "/export/photos"}, "servers": ["s2"]}
    assert "holiday.jpg" in json.dumps(fleet.apply(succeeds=False, repositories=[photos]))
    again = {"name": "again", "path": "/srv/again", "nfs": {"server": fleet.nas.name, "export": "/export/vms"}, "servers": ["s2"]}
    assert "is repository nas of site paris already" in json.dumps(fleet.apply(succeeds=False, repositories=[again]))
    assert fleet.servers[1].run("findmnt", "-nt", "nfs4", "-o", "TARGET").split() == [MOUNTED]
    fleet.apply(repositories=[{**photos, "adopted": True}])
    fleet.apply(repositories=[{"name": "photos", "state": "absent", "servers": ["s2"]}])
    assert fleet.nas.run("ls", "-A", "/export/photos").split() == ["holiday.jpg"]
    assert fleet.servers[1].run("findmnt", "-nt", "nfs4", "-o", "TARGET").split() == [MOUNTED]


def test_it_is_there_after_a_boot_and_so_are_its_vms(fleet: Fleet) -> None:
    two = fleet.servers[1]
    fleet.apply(vms=[vm("web3", "nas", "s2", autostart=True)])
    two.reboot()
    # Where the machine is so slow that the mount is given up, the agent mounts it again and starts what libvirt could not.
    fleet.wait_for(lambda: "web3" in two.run("virsh", "list", "--name"), "the VM that starts with its server", PATIENCE)
    fleet.wait_for(lambda: fleet.repository("s2")["measured"]["available"], "the repository")
    fleet.apply(vms=[{"name": "web3", "state": "absent", "delete_disks": True}])


def test_its_server_hangs_for_a_minute(fleet: Fleet, server_document: Item) -> None:
    one = fleet.servers[0]
    before = one.run("systemctl", "show", "-p", "MainPID", "domus-agent")
    fleet.nas.group.freeze(True)
    began = time.time()
    try:
        write_to_disk(one, "web1")
        lost = fleet.wait_for(
            lambda: [event for event in fleet.events("repository.lost") if event["object"]["key"] == "nas"][1:], "both servers telling that it is lost"
        )
        assert {event["severity"] for event in lost} == {"error"}
        told = fleet.wait_for(lambda: not fleet.repository("s1")["measured"]["available"] and fleet.repository("s1"), "what s1 tells of it")
        assert f"NFS server {fleet.nas.address}:/export/vms does not answer since" in told["measured"]["problem"]
        _others_go_on(fleet, server_document)
        while time.time() < began + 60:
            assert {server["state"] for server in fleet.states()} <= {"online", "running"}
            time.sleep(2)
    finally:
        fleet.nas.group.freeze(False)
    fleet.wait_for(lambda: len(fleet.events("repository.back")) > 1, "both servers telling that it is back")
    fleet.wait_for(lambda: fleet.repository("s1")["measured"]["problem"] is None, "what s1 tells of it")
    fleet.wait_for(lambda: fleet.apply(vms=[{"name": "web1", "description": "after"}]), "web1 being changed again")
    write_to_disk(one, "web1")
    assert one.run("virsh", "domblkerror", "web1").strip() == "No errors found"
    assert fleet.vm("web1")["state"] == "running" and one.run("systemctl", "show", "-p", "MainPID", "domus-agent") == before


def _others_go_on(fleet: Fleet, server_document: Item) -> None:
    """What does not need the lost repository is done; what does is refused, told which; nothing is reported as gone."""
    job = fleet.apply(succeeds=False, vms=[{"name": "web1", "description": "meanwhile"}])
    assert "repository nas is not available" in json.dumps(job) and "unreachable" in json.dumps(job)
    fleet.apply(vms=[{"name": "web2", "description": f"at {time.time()}"}])
    fleet.apply(**server_document, vms=[vm("web1", "nas"), vm("web4", "local"), vm("web2", "local")])
    for verb, state in (("stop", "stopped"), ("start", "running")):
        options = {"force": True, "timeout": 0} if verb == "stop" else {}
        assert ended(fleet.stack, fleet.stack.client.post(f"/api/v1/vms/web2/{verb}", options)["id"], PATIENCE)["state"] == "succeeded"
        fleet.wait_for(lambda state=state: fleet.vm("web2")["state"] == state, f"web2 being {state}")
    fleet.apply(vms=[{"name": "web4", "state": "absent", "delete_disks": True}])
    assert {copy["server"] for copy in _copies(fleet)} == {"s1", "s2"}
    doctor = fleet.servers[0].attempt("domus-agent", "doctor")
    assert "nas: NFS server" in doctor.output + doctor.errors


def test_its_server_is_gone_for_good(fleet: Fleet) -> None:
    one, two = fleet.servers
    fleet.nas.power_off()
    write_to_disk(one, "web1")
    fleet.wait_for(lambda: fleet.repository("s1")["measured"]["problem"] and fleet.repository("s2")["measured"]["problem"], "the loss")
    assert "not available" in json.dumps(fleet.apply(succeeds=False, repositories=[{"name": "nas", "state": "absent", "servers": ["s2"]}]))
    gone = {"name": "nas", "state": "absent", "force_unmount": True, "servers": ["s1", "s2"]}
    fleet.apply(repositories=[gone], vms=[{"name": "web1", "state": "absent"}])
    for server in (one, two):
        assert server.attempt("findmnt", "-t", "nfs4").output == ""
        assert server.attempt("systemctl", "cat", UNIT).code != 0
    assert one.run("virsh", "list", "--all", "--name").split() == ["web2"]
    fleet.apply(vms=[{"name": "web2", "description": "goes on"}])
    assert {server["state"] for server in fleet.states()} <= {"online", "running"}
