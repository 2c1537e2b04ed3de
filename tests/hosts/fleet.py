"""A manager on this machine and agents on test hosts, taken over for real: the quick way to a site, without the roles."""

from __future__ import annotations

from typing import Any

from domus_core.clients.manager import ManagerClient

from tests.hosts.agents import ROOT, install_agent, prepare_migration, secret_of
from tests.hosts.lab.host import Host
from tests.hosts.lab.lab import Lab
from tests.support.release import released
from tests.support.stack import Stack, free_port, install

AGENT_SETTINGS = {"heartbeat": 2, "libvirt_tls": True}
OLD_SETTINGS = {"heartbeat": 2}


class Fleet:
    """The manager (with more of its settings), and `hosts` as its servers, by their names; `old`: with agents of version N-1."""

    def __init__(self, lab: Lab, hosts: list[Host], *, old: bool = False, **more: Any) -> None:
        self.hosts = hosts
        gateway, port = lab.network.gateway, free_port()
        settings = {"url": f"https://{gateway}:{port}", "web_address": gateway, "web_port": port, **more}
        self.stack = Stack((), settings=settings)
        self.stack.port, self.stack.url = port, str(settings["url"])
        self.stack.up(take_over=False)
        self.client: ManagerClient = self.stack.client
        for host in hosts:
            self.install(host, old)
        for host in hosts:
            self.take_over(host)
        self.stack.wait_for(lambda: _require(all(one["state"] == "running" for one in self.servers())), "the servers' first callbacks")
        for host in () if old else hosts:
            self.stack.wait_for(lambda host=host: _listens_for_tls(host), f"libvirt's TLS port on {host.name}")
        # With its certificates libvirtd is started anew: until it answers, a server says so among its problems.
        self.stack.wait_for(lambda: _require(not any(one["problems"] for one in self.servers())), "servers without a problem")

    def servers(self) -> list[dict[str, Any]]:
        """All servers."""
        return list(self.client.pages("/api/v1/servers"))

    def install(self, host: Host, old: bool = False) -> None:
        """The agent of this checkout (or of version N-1) as a service, and libvirt's part that the role writes."""
        prepare_migration(host)
        source = released(install()) / "collections/ansible_collections/domus/virt" if old else ROOT
        install_agent(host, OLD_SETTINGS if old else AGENT_SETTINGS, source=source)

    def take_over(self, host: Host) -> None:
        """Make it ours."""
        self.client.post("/api/v1/servers", {"name": host.name, "address": host.address, "port": 8899, "secret": secret_of(host)})

    def apply(self, document: dict[str, Any]) -> dict[str, Any]:
        """Apply a document and return the ended job."""
        return self.ended(self.client.post("/api/v1/apply", document))

    def ended(self, job: dict[str, Any], seconds: float = 180.0) -> dict[str, Any]:
        """The job once it has ended."""

        def look() -> Any:
            return _require_state(self.client.get(f"/api/v1/jobs/{job['id']}", wait=5))

        return dict(self.stack.wait_for(look, f"the end of job {job['id']}", seconds))

    def vm(self, name: str) -> dict[str, Any]:
        """The VM as the manager has it."""
        return dict(self.client.get(f"/api/v1/vms/{name}"))

    def migrate(self, vm: str, to: Host, **options: Any) -> dict[str, Any]:
        """Start moving a VM."""
        return dict(self.client.post(f"/api/v1/vms/{vm}/migrate", {"server": to.name, **options}))

    def close(self) -> None:
        """End the manager; the hosts are the lab's."""
        self.stack.close()


def _require(condition: bool) -> bool:
    assert condition
    return condition


def _require_state(job: dict[str, Any]) -> dict[str, Any]:
    assert job["state"] in ("succeeded", "failed", "cancelled"), job["state"]
    return job


def _listens_for_tls(host: Host) -> None:
    assert ":16514" in host.run("ss", "-ltn"), host.journal("domus-agent")[-1000:]
