"""What nginx has of the manager: the certificate of its web address, and the authorities of those who call; both renewed without an interruption."""

from __future__ import annotations

import os
import signal
import socket
from typing import Optional
from urllib.parse import urlsplit

from .config import ManagerConfig
from .security.authority import Authority
from .security.files import write_private

PID_FILE = "nginx.pid"
# nginx takes the authorities of agents and of people from one file.
CALLERS = "client-authorities.pem"


def web_names(config: ManagerConfig) -> list[str]:
    """The names that the web certificate is for: that of the URL, this machine's, and the local ones."""
    return list(dict.fromkeys([urlsplit(config.url).hostname or "localhost", socket.gethostname(), "localhost", "127.0.0.1", "::1"]))


def renew_web_certificate(authority: Authority, config: ManagerConfig) -> Optional[str]:
    """Renew it if it is due, and have nginx take it; return None when it was not due, "" when it is in use, else what a person has to do."""
    if not (config.directory / "web-server.crt").exists():  # nobody has asked for one: no nginx of ours
        return None
    before = (config.directory / "web-server.crt").stat().st_mtime_ns
    certificate, dummy = authority.issue_web(web_names(config))
    if certificate.stat().st_mtime_ns == before:
        return None
    return _reload(config)


def write_callers(authority: Authority, config: ManagerConfig) -> None:
    """Write the authorities whose callers nginx lets in. Raises DriverError."""
    write_private(config.run_directory / CALLERS, (authority.servers_ca_pem + authority.people_ca_pem).encode("ascii"), 0o644)


def renew_callers(authority: Authority, config: ManagerConfig) -> str:
    """Have nginx let in whom the authorities that are believed now have signed; return "" when it does, else what a person has to do."""
    if not (config.run_directory / CALLERS).exists():  # nobody has asked for one: no nginx of ours
        return ""
    write_callers(authority, config)
    return _reload(config)


def _reload(config: ManagerConfig) -> str:
    try:
        os.kill(int((config.run_directory / PID_FILE).read_text()), signal.SIGHUP)
    except (OSError, ValueError):
        return "Have the manager's nginx read its new certificate: systemctl reload domus-nginx, or restart it"
    return ""
