"""The agent of this checkout on a test host, as the role installs it: the quick way, without Ansible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.hosts.lab.commands import wait_until
from tests.hosts.lab.host import Host

ROOT = Path(__file__).parents[2]
COMMAND = '#!/bin/sh\nPYTHONPATH=/opt/domus/agent exec python3 -m domus_agent "$@"\n'


def install_agent(host: Host, settings: dict[str, Any], patience: float = 60.0, source: Path = ROOT) -> None:
    """Install and start it, from the collection at `source`, with these settings, and wait until it answers."""
    host.run("rm", "-rf", "/opt/domus/agent")
    host.copy_to(source / "agent/domus_agent", "/opt/domus/agent/domus_agent")
    host.copy_to(source / "plugins/module_utils/domus_core", "/opt/domus/agent/domus_core")
    host.copy_to(ROOT / "roles/agent/files/domus-agent.service", "/etc/systemd/system/domus-agent.service")
    host.write("/usr/local/bin/domus-agent", COMMAND, mode="755")
    host.write("/etc/domus/agent.yml", yaml.safe_dump(settings), mode="600")
    host.run("install", "-d", "-m", "755", "/etc/pki")
    host.run("systemctl", "daemon-reload", timeout=patience)
    host.run("systemctl", "enable", "domus-agent", timeout=patience)
    host.run("systemctl", "restart", "domus-agent", timeout=patience)
    wait_until(lambda: ":8899" in host.run("ss", "-ltn", timeout=patience), patience, f"the agent of {host.name}")


def prepare_migration(host: Host, patience: float = 60.0) -> None:
    """What the role `server` does so that VMs can move by TLS, once the agent has written libvirt's certificates."""
    host.run("mkdir", "-p", "/etc/pki/CA", "/etc/pki/libvirt/private", "/etc/pki/qemu", timeout=patience)
    for line in ("default_tls_x509_verify = 1", "migrate_tls_force = 1"):
        host.shell(f"grep -q '^{line}' /etc/libvirt/qemu.conf || echo '{line}' >>/etc/libvirt/qemu.conf", timeout=patience)
    host.run("chgrp", "kvm", "/etc/pki/qemu", timeout=patience)
    host.run("systemctl", "restart", "libvirtd.service", timeout=patience)


def secret_of(host: Host) -> str:
    """The one-time secret that takes it over."""
    return host.run("domus-agent", "secret", timeout=120).split()[-1]
