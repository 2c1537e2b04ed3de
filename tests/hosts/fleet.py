"""A manager on this machine and agents on test hosts, taken over for real: the quick way to a site, without the roles."""

from __future__ import annotations

import json
from typing import Any

from domus_core.clients.manager import ManagerClient

from tests.hosts.lab.host import Host
from tests.hosts.lab.lab import Lab
from tests.support.release import released
from tests.support.stack import CHECKOUT, Stack, free_port, install

AGENT_UNIT = """[Unit]
Description=Domus agent
After=network.target
[Service]
Environment=PYTHONPATH=/opt/domus/agent:/opt/domus/module_utils
ExecStart=/usr/bin/python3 -m domus_agent serve
Restart=always
RestartSec=1
KillMode=process
[Install]
WantedBy=multi-user.target
"""
AGENT_SETTINGS = {"heartbeat": 2, "libvirt_tls": True}
OLD_SETTINGS = {"heartbeat": 2}


class Fleet:
    """The manager (with more of its settings), and `hosts` as its servers, by their names; `old`: with agents of version N-1."""

    def __init__(self, lab: Lab, hosts: list[Host], *, old: bool = False, **more: Any) -> None:
        self.hosts, self._old = hosts, old
        gateway, port = lab.network.gateway, free_port()
        settings = {"url": f"https://{gateway}:{port}", "web_address": gateway, "web_port": port, **more}
        self.stack = Stack((), settings=settings)
        self.stack.port, self.stack.url = port, str(settings["url"])
        self.stack.up(take_over=False)
        self.client: ManagerClient = self.stack.client
        for host in hosts:
            self.install(host)
        for host in hosts:
            self.take_over(host)
        self.stack.wait_for(lambda: _require(all(one["state"] in ("online", "running") for one in self.servers())), "the servers' first callbacks")
        for host in () if old else hosts:
            self.stack.wait_for(lambda host=host: _listens_for_tls(host), f"libvirt's TLS port on {host.name}")

    def servers(self) -> list[dict[str, Any]]:
        """All servers."""
        return list(self.client.pages("/api/v1/servers"))

    def install(self, host: Host) -> None:
        """The agent, as a service."""
        source = released(install()) / "collections/ansible_collections/domus/virt" if self._old else CHECKOUT
        host.run("mkdir", "-p", "/opt/domus/module_utils", "/opt/domus/agent", "/etc/domus", "/etc/pki/CA", "/etc/pki/libvirt/private", "/etc/pki/qemu")
        host.copy_to(source / "agent" / "domus_agent", "/opt/domus/agent/domus_agent")
        host.copy_to(source / "plugins" / "module_utils" / "domus_core", "/opt/domus/module_utils/domus_core")
        host.shell(
            "grep -q ^default_tls_x509_verify /etc/libvirt/qemu.conf || echo 'default_tls_x509_verify = 1' >>/etc/libvirt/qemu.conf; chgrp kvm /etc/pki/qemu"
        )
        host.run("sysctl", "-q", "-w", "net.ipv4.tcp_retries2=8")  # as the role server has it
        host.write("/etc/domus/agent.yml", json.dumps(OLD_SETTINGS if self._old else AGENT_SETTINGS))
        host.write("/etc/systemd/system/domus-agent.service", AGENT_UNIT)
        host.run("systemctl", "daemon-reload")
        host.run("systemctl", "restart", "libvirtd.service")
        host.run("systemctl", "enable", "--now", "domus-agent.service")

    def take_over(self, host: Host) -> None:
        """Make it ours."""
        self.stack.wait_for(lambda: _require(":8899" in host.run("ss", "-ltn")), f"the agent of {host.name}")
        secret = self.agent(host, "secret").split()[-1]
        self.client.post("/api/v1/servers", {"name": host.name, "address": host.address, "port": 8899, "secret": secret})

    def agent(self, host: Host, *words: str) -> str:
        """Run domus-agent there."""
        return host.run("env", "PYTHONPATH=/opt/domus/agent:/opt/domus/module_utils", "python3", "-m", "domus_agent", *words)

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
