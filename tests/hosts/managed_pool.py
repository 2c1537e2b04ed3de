"""A clustered pool made by a manager from a document, on test hosts whose power can really be cut."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tests.hosts import tiny_guest
from tests.hosts.fleet import Fleet
from tests.hosts.lab.host import Host
from tests.hosts.lab.lab import Lab
from tests.hosts.lab.power import PASSWORD, PORT, PowerService

FOLDER = "/srv/shared/pool"
MEMBERS = {"corosync.service", "pacemaker.service"}


def guest(name: str, **fields: Any) -> dict[str, Any]:
    """A VM whose guest counts on its disk, which all servers see."""
    kernel = {"kernel": "pool/vmlinuz", "initrd": "pool/initrd.img", "arguments": "console=ttyS0 quiet disk=1"}
    disks = [{"name": "root", "repository": "pool", "size": "32MiB", "format": "raw"}]
    return {"name": name, "memory": "192MiB", "virtualization": "qemu", "kernel": kernel, "disks": disks, "state": "running", **fields}


class ManagedPool:
    """A manager (with more of its settings), and servers that are to be a pool, or some of them; a plain VM runs on the first."""

    def __init__(self, lab: Lab, hosts: list[Host], power: PowerService, **settings: Any) -> None:
        self.lab, self.hosts, self.power = lab, hosts, power
        (lab.shared / "pool").mkdir(exist_ok=True)
        for host in hosts:
            power.install(host)
            host.write("/etc/libvirt/qemu-lockd.conf", f'auto_disk_leases = 1\nfile_lockspace_dir = "{FOLDER}/lockspace"\n')
            host.shell("grep -q ^lock_manager /etc/libvirt/qemu.conf || echo 'lock_manager = \"lockd\"' >>/etc/libvirt/qemu.conf")
            host.shell("systemctl enable --quiet virtlockd.socket; systemctl start virtlockd.socket")
        self.fleet = Fleet(lab, hosts, **settings)
        names = [host.name for host in hosts]
        self.repository = {"name": "pool", "path": FOLDER, "shared": True, "servers": names}
        self.succeeds({"repositories": [self.repository]})
        tiny_guest.build(lab.shared / "pool" / "Templates")
        self.succeeds({"vms": [guest("plain", server=names[0])]})
        self.process = self.vm_process()

    def vm_process(self) -> tuple[str, str]:
        """The process of the VM, and since when it runs."""
        told = self.hosts[0].run("sh", "-c", "ps -o pid=,lstart= -p $(pgrep -f '[g]uest=plain')").split(maxsplit=1)
        return told[0], told[1].strip()

    def pool(self, hosts: Sequence[Host], **more: Any) -> dict[str, Any]:
        """The document of a pool of these hosts."""
        options = [{"name": "ip", "value": self.lab.network.gateway}, {"name": "ipport", "value": str(PORT)}, {"name": "password", "secret": PASSWORD}]
        device = {"name": "power", "agent": "fence_domus_test", "servers": [{"name": host.name} for host in hosts], "options": options}
        subnet = ".".join(self.lab.network.gateway.split(".")[:3]) + ".0/24"
        whole = {"name": "rack1", "servers": [host.name for host in hosts], "file_system": "pool", "heartbeat": [{"name": "lan", "subnet": subnet}]}
        return {"server_pools": [{**whole, "fencing": [device], **more}]}

    def succeeds(self, document: dict[str, Any]) -> dict[str, Any]:
        """Apply a document; the job, with whether something was changed."""
        job = self.fleet.apply({"site": "default", **document})
        assert job["state"] == "succeeded", (job["error"], {host.name: host.journal("domus-agent")[-1500:] for host in self.hosts if host.is_running})
        return job

    def status(self, host: Host) -> dict[str, Any]:
        """How the pool is, as a host sees it."""
        told: dict[str, Any] = json.loads(host.attempt("domus-agent", "pool", "status", "-o", "json", timeout=60).output)
        return told

    def is_whole(self, hosts: Sequence[Host]) -> bool:
        """Does each of these see exactly these, all of them online, with quorum, without a problem?"""
        wanted = dict.fromkeys((host.name for host in hosts), "online")
        seen = [self.status(host) for host in hosts]
        return all(one["members"] == wanted and one["quorate"] and not one["problems"] for one in seen)

    def services(self, hosts: Sequence[Host]) -> dict[str, str]:
        """The processes of the cluster on each host: they change when one is started anew."""
        return {host.name: host.run("systemctl", "show", "-P", "MainPID,ActiveEnterTimestampMonotonic", *MEMBERS) for host in hosts}

    def shown(self) -> dict[str, Any]:
        """The pool as the manager shows it."""
        return dict(self.fleet.client.get("/api/v1/server-pools/rack1"))

    def wait(self, true: Any, what: str, seconds: float = 90) -> None:
        """Until it is true."""

        def look() -> bool:
            assert true()
            return True

        self.fleet.stack.wait_for(look, what, seconds)

    def close(self) -> None:
        """End the manager; the hosts are the lab's."""
        self.fleet.close()
