"""The certificate of the manager's web address: whom it is for, and its renewal without an interruption."""

from __future__ import annotations

import os
import signal
import socket
from typing import Optional
from urllib.parse import urlsplit

from .config import ManagerConfig
from .security.authority import Authority

PID_FILE = "nginx.pid"


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
    try:
        os.kill(int((config.run_directory / PID_FILE).read_text()), signal.SIGHUP)
    except (OSError, ValueError):
        return "Have the manager's nginx read its new certificate: systemctl reload domus-nginx, or restart it"
    return ""
