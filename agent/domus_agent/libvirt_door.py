"""libvirt's own door on the network (port 16514): opened, told of new certificates, and closed, without a VM noticing."""

from __future__ import annotations

import os
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Collection, Sequence

from domus_core.errors import DriverError

from .service import SYSTEMD

PORT = 16514
SOCKET, SERVICE, SERVER = "libvirtd-tls.socket", "libvirtd.service", "libvirtd"
# Whoever connects to one of these meanwhile (the agent itself, at the latest) would start libvirtd again.
LOCAL_SOCKETS = ("libvirtd.socket", "libvirtd-ro.socket", "libvirtd-admin.socket")
COMMAND_SECONDS, ANSWER_SECONDS = 60.0, 30.0
_CLIENT_LINE = re.compile(r"^\s*(\d+)\s+tls\b", re.MULTILINE)
_SUBJECT_LINE = re.compile(r"^\s*\S*x509_dname\s*:\s*(.*)$", re.MULTILINE)


def has_systemd() -> bool:
    """Does systemd run here, so that libvirt is a service of it?"""
    return os.path.isdir(SYSTEMD)


def is_open() -> bool:
    """Does systemd listen for libvirt?"""
    return _run("systemctl", "is-active", "--quiet", SOCKET, check=False).returncode == 0


def open_door() -> None:
    """Let systemd listen from now on, also after a reboot. It refuses while libvirtd runs, so that has to pause. Raises DriverError."""
    _pause_while("enable", [SOCKET])


def close_door() -> None:
    """Let systemd listen no more. libvirtd holds what it was given, so that it begins anew. Raises DriverError."""
    _pause_while("disable", [])


def _pause_while(word: str, sockets: Sequence[str]) -> None:
    _run("systemctl", "stop", SERVICE, *LOCAL_SOCKETS, SOCKET)
    try:
        _run("systemctl", word, SOCKET)
    finally:
        _run("systemctl", "start", *LOCAL_SOCKETS, *sockets, SERVICE)


def reload_certificates() -> None:
    """Have libvirtd read its certificates and the revocation list again (libvirt 6.2). Raises DriverError."""
    _run("virt-admin", "server-update-tls", SERVER)


def end_sessions(server_ids: Collection[str]) -> int:
    """End the connections of these servers that were made before they were revoked; return how many there were. Raises DriverError."""
    ended = 0
    for client in _CLIENT_LINE.findall(_run("virt-admin", "client-list", SERVER).stdout) if server_ids else ():
        told = _run("virt-admin", "client-info", SERVER, client, check=False).stdout
        subject = _SUBJECT_LINE.search(told)
        if subject is not None and subject.group(1).strip().rpartition("CN=")[2] in server_ids:
            _run("virt-admin", "client-disconnect", SERVER, client, check=False)
            ended += 1
    return ended


def check_answers(authority: str, serial: str) -> None:
    """Raise DriverError unless libvirt shows the certificate of this serial number (hex, lower case) within 30 seconds."""
    deadline, shown = time.monotonic() + ANSWER_SECONDS, "nothing"
    while time.monotonic() < deadline:
        try:
            shown = _shown(authority)
        except OSError as error:
            shown = str(error)
        if shown == serial:
            return
        time.sleep(0.5)
    raise DriverError(
        "libvirt does not show its certificate", object=f"port {PORT}", value=shown, remedy=f"systemctl status {SERVICE} {SOCKET}; journalctl -u {SERVICE}"
    )


def _shown(authority: str) -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # which one it is, its serial number says
    context.load_verify_locations(cadata=authority)
    with socket.create_connection(("localhost", PORT), timeout=5) as plain, context.wrap_socket(plain) as connection:
        return format(int(str((connection.getpeercert() or {})["serialNumber"]), 16), "x")


def _run(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    label = " ".join(command[:2])
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DriverError(f"{label} failed: {error}", object="libvirt", remedy="Is libvirt installed, with libvirt-clients? domus-agent doctor") from None
    if check and done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[:300]
        raise DriverError(f"{label} failed: {said}", object="libvirt", remedy=f"journalctl -u {SERVICE}")
    return done
