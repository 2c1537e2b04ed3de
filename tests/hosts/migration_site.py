"""Two servers (or more) with shared and local storage under a manager, and guests that show that they go on: for tests and the benchmark of migration."""

from __future__ import annotations

import re
from typing import Any

from tests.hosts import tiny_guest
from tests.hosts.fleet import Fleet
from tests.hosts.lab.host import Host
from tests.hosts.lab.lab import Lab

POOL, LOCAL = "/srv/shared/pool", "/srv/local"


class MigrationSite:
    """Two servers with a shared and a local repository, and VMs that are made when asked for."""

    def __init__(self, lab: Lab, hosts: list[Host], **settings: Any) -> None:
        """`settings` are more of the manager's; servers beyond the second are there, too."""
        self.fleet = Fleet(lab, hosts, **settings)
        self.one, self.two = hosts[:2]
        names = [host.name for host in hosts]
        shared = {"name": "pool", "path": POOL, "shared": True, "servers": names}
        repositories = [shared, {"name": "local", "path": LOCAL, "servers": names}]
        job = self.fleet.apply({"site": "default", "repositories": repositories})
        assert job["state"] == "succeeded", job["error"]
        tiny_guest.build(lab.shared / "pool" / "Templates")

    def make(self, name: str, repository: str = "pool", fill: int = 64, more: str = "", **fields: Any) -> dict[str, Any]:
        """A VM that runs on the first host, once its guest is up."""
        arguments = f"console=ttyS0 quiet fill={fill} disk=1 {more}".strip()
        kernel = {"kernel": "pool/vmlinuz", "initrd": "pool/initrd.img", "arguments": arguments}
        disk = {"name": "root", "repository": repository, "size": "32MiB", "format": "raw"}
        vm = {"name": name, "server": self.one.name, "memory": f"{fill + 192}MiB", "virtualization": "qemu", "kernel": kernel, "disks": [disk]}
        job = self.fleet.apply({"site": "default", "vms": [{**vm, "state": "running", **fields}]})
        assert job["state"] == "succeeded", job["error"]
        self.fleet.stack.wait_for(lambda: self.count(self.one, name, repository) > 3, f"the guest {name}", 180)
        return self.fleet.vm(name)

    def close(self) -> None:
        """End the manager."""
        self.fleet.close()

    def end_guests(self) -> None:
        """Stop whatever runs."""
        for host in (self.one, self.two):
            if host.is_running:
                host.attempt("sh", "-c", "for vm in $(virsh list --name); do virsh destroy $vm; done")

    def count(self, host: Host, name: str, repository: str = "pool") -> int:
        """How far the guest has counted on its disk."""
        folder = POOL if repository == "pool" else LOCAL
        told = host.attempt("grep", "-aoE", "disk [0-9]+", f"{folder}/VirtualDisks/{name}-root.img").output
        return max((int(number) for number in re.findall(r"\d+", told)), default=0)

    def goes_on(self, host: Host, name: str, repository: str = "pool") -> None:
        """The guest counts on there."""
        before = self.count(host, name, repository)
        self.fleet.stack.wait_for(lambda: self.count(host, name, repository) > before + 2, f"{name} going on at {host.name}", 60)

    def state(self, host: Host, name: str) -> str:
        """The domain's state there, or absent."""
        told = host.attempt("virsh", "domstate", name)
        return told.output.strip() if told.code == 0 else "absent"

    def runs_once(self, name: str, on: Host) -> None:
        """Exactly this host runs it."""
        other = self.two if on is self.one else self.one
        assert self.state(on, name) == "running"
        assert self.state(other, name) in ("absent", "shut off")

    def is_settled(self, name: str, job: dict[str, Any], repository: str = "local") -> Host:
        """Exactly one host runs it, the job and the manager say which; return it."""
        running = [host for host in (self.one, self.two) if host.is_running and self.state(host, name) == "running"]
        assert len(running) == 1, f"{[host.name for host in running]} run {name}: {job['error']}"
        (owner,) = running
        assert (job["state"] == "succeeded") == (owner is self.two), job
        assert owner is self.two or f"it is on {self.one.name}" in str(job["error"])
        self.goes_on(owner, name, repository)
        return owner

    def is_at(self, name: str, host: Host) -> None:
        """The manager has it there."""
        assert self.fleet.vm(name)["server"] == host.name

    def is_told(self, name: str, on: Host) -> dict[str, Any]:
        """The manager says that it is there, without conflict or drift."""
        vm = self.fleet.vm(name)
        assert (vm["server"], vm["conflict"], vm["drift"], vm["stale"]) == (on.name, None, [], False), vm
        events = self.fleet.client.get("/api/v1/events", kind="vm.conflict")["items"]
        assert [event for event in events if (event.get("object") or {}).get("id") == vm["id"]] == [], f"a conflict of {name} was told"
        return vm
