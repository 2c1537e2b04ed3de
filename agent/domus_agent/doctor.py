"""`domus-agent doctor`: what this server needs, looked at one by one, and what to do about what is missing."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import email.utils
import http.client
import importlib.util
import os
import shutil
import sqlite3
import ssl
import time
from collections.abc import Iterable
from typing import Any, Callable, Optional
from urllib.parse import urlsplit

from domus_core.errors import DomusError, NotFound
from domus_core.libvirt_driver.bounded import bounded
from domus_core.libvirt_driver.connection import connect
from domus_core.libvirt_driver.kvm_probe import usable_kvm
from domus_core.libvirt_driver.registry import Registry
from domus_core.libvirt_driver.repository import registered_places
from domus_core.libvirt_driver.server import read_server
from domus_core.model.quantities import format_size
from domus_core.model.repository import RepositorySpec, RepositoryState
from domus_core.storage_connect.storage import Storage

from .commands import is_serving
from .config import AgentConfig
from .contact import silence
from .identity_files import manager_context, read_identity
from .service import advice
from .store import FILE

OK, WARN, FAIL = "ok", "warn", "fail"
LIMIT = 15.0
MODULES = {
    "libvirt": "python3-libvirt",
    "lxml": "python3-lxml",
    "defusedxml": "python3-defusedxml",
    "aiohttp": "python3-aiohttp",
    "cryptography": "python3-cryptography",
    "yaml": "python3-yaml",
}
TOOLS = {"qemu-img": "qemu-utils", "xorriso": "xorriso"}
LITTLE, TOO_LITTLE = 1 << 30, 100 << 20
DAY = 86400.0
SOON = 30 * DAY
CLOCK_WARN, CLOCK_FAIL = 2.0, 60.0


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one check found: ok, warn or fail, and what to do."""

    check: str
    verdict: str
    message: str
    remedy: str = ""

    def as_dict(self) -> dict[str, str]:
        """The finding as plain data."""
        return dataclasses.asdict(self)


_Told = tuple[str, str, str]


def examine(config: AgentConfig) -> list[Finding]:
    """Carry out all checks; each has 15 seconds, and one that fails does not stop the others."""
    return [_examined(name, check, config) for name, check in CHECKS.items()]


def _examined(name: str, check: Callable[[AgentConfig], _Told], config: AgentConfig) -> Finding:
    try:
        told: _Told = bounded(lambda: check(config), LIMIT, f"the check of {name}")
    except DomusError as error:
        return Finding(name, FAIL, str(error.message), error.remedy)
    except Exception as error:  # a check that stumbles is a finding, too
        return Finding(name, FAIL, f"{type(error).__name__}: {error}", "Please report this")
    return Finding(name, *told)


def _packages(config: AgentConfig) -> _Told:
    missing = [package for module, package in MODULES.items() if importlib.util.find_spec(module) is None]
    missing += [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    if missing:
        return (FAIL, f"not installed: {', '.join(missing)}", f"apt-get install {' '.join(missing)}")
    return (OK, "all are installed", "")


def _agent(config: AgentConfig) -> _Told:
    if is_serving(config.directory):
        return (OK, "runs", "")
    try:
        read_identity(config.directory)
    except NotFound as error:
        return (WARN, error.message, error.remedy)
    return (WARN, "does not run: the manager sees this server as offline; its VMs go on", advice("enable --now", "Start it: domus-agent serve"))


def _managers_url(config: AgentConfig) -> Optional[str]:
    try:
        url: Optional[str] = read_identity(config.directory)["url"]
    except NotFound:
        return None
    return url


def _manager(config: AgentConfig) -> _Told:
    url = _managers_url(config)
    if url is None:
        return (OK, "there is none yet", "")
    silent = silence(config.directory, url)
    return (WARN, silent, "Is the agent running, the manager up, and its name known here?") if silent else (OK, f"{url} answers", "")


def _facts(config: AgentConfig) -> dict[str, Any]:
    with contextlib.closing(connect(config.uri)) as connection:
        return read_server(connection, virtualization_setting="auto", state_directory=_cache(config))


def _cache(config: AgentConfig) -> str:
    """Where answers are kept; looking at a server where no agent has been set up makes no directory."""
    return config.state_directory if os.path.isdir(config.state_directory) else os.devnull


def _libvirt(config: AgentConfig) -> _Told:
    with contextlib.closing(connect(config.uri)) as connection:
        version = connection.getLibVersion()
    return (OK, f"answers, version {version // 1000000}.{version // 1000 % 1000}.{version % 1000}", "")


def _qemu(config: AgentConfig) -> _Told:
    facts = _facts(config)
    if facts["hypervisor"] == "TEST":
        return (WARN, "this is libvirt's test driver: its VMs are not real", f"Set `uri` to {AgentConfig.uri}")
    if not os.access(facts["emulator"], os.X_OK):
        return (FAIL, f"there is no emulator {facts['emulator']}", "apt-get install qemu-system-x86")
    return (OK, f"{facts['emulator']}, version {facts['hypervisor_version']}", "")


def _kvm(config: AgentConfig) -> _Told:
    slow = "guests are emulated, which is slow"
    if not os.path.exists("/dev/kvm"):
        return (
            WARN,
            f"there is no /dev/kvm: {slow}",
            "Switch on virtualization (VT-x, AMD-V) in the firmware, or nested virtualization on the host of this machine",
        )
    emulator = _facts(config)["emulator"]
    if not emulator or not usable_kvm(emulator, _cache(config)):
        return (WARN, f"/dev/kvm is there, but no guest runs under it: {slow}", "Look for kvm in dmesg; on a virtual machine, ask for nested virtualization")
    return (OK, "a probe guest ran under /dev/kvm", "")


def _room(config: AgentConfig) -> _Told:
    little = []
    verdict = OK
    for path in _places(config):
        with contextlib.suppress(OSError):
            room = os.statvfs(path)
            free = room.f_bavail * room.f_frsize
            if free < LITTLE:
                little.append(f"{path}: {format_size(free - free % (1 << 20))}")
                verdict = FAIL if free < TOO_LITTLE or verdict == FAIL else WARN
    return (verdict, f"little is free: {', '.join(little)}", "Delete what is not needed, or grow the file system") if little else (OK, "enough is free", "")


def _places(config: AgentConfig) -> Iterable[str]:
    yield from (config.directory, config.state_directory)
    yield from (str(spec.path) for spec, state in _repositories(config).values() if state.available and not (spec.nfs and spec.nfs.read_only))


def _repositories(config: AgentConfig) -> dict[str, tuple[RepositorySpec, RepositoryState]]:
    """All registered repositories as they are, also those whose server does not answer."""
    storage = Storage()
    known = registered_places(Registry(os.path.join(config.state_directory, "objects")), storage).repositories
    return storage.measure_all({name: (spec, "") for name, spec in known.items()})


def _storage(config: AgentConfig) -> _Told:
    lost = [f"{name}: {state.problem or 'its directory is not there'}" for name, (dummy, state) in _repositories(config).items() if not state.available]
    if not lost:
        return (OK, "all repositories are there", "")
    return (
        FAIL,
        "; ".join(lost),
        "Is the NFS server up? Everything goes on by itself once it answers; if it never will: state: absent with force_unmount: true",
    )


def _clock(config: AgentConfig) -> _Told:
    url = _managers_url(config)
    if url is None:
        return (OK, "there is no manager to compare it with", "")
    try:
        theirs = _managers_time(url, manager_context(os.path.join(config.directory, "identity")))
    except (OSError, http.client.HTTPException, ValueError) as error:
        return (WARN, f"the manager at {url} can not be asked: {error}", "Is it up, and does its name resolve here?")
    return judge_clock(abs(time.time() - theirs) - 1)  # HTTP tells whole seconds


def judge_clock(difference: float) -> _Told:
    """What a difference of so many seconds between the manager's clock and ours means."""
    if difference < CLOCK_WARN:
        return (OK, "is that of the manager", "")
    verdict = FAIL if difference >= CLOCK_FAIL else WARN
    return (verdict, f"differs from the manager's by {difference:.0f} s: certificates may seem ended or not yet valid", "apt-get install chrony")


def _managers_time(url: str, context: ssl.SSLContext) -> float:
    """What time it is for the manager, from the date that every HTTP answer has."""
    parts = urlsplit(url)
    with contextlib.closing(http.client.HTTPSConnection(parts.hostname or "", parts.port or 443, timeout=5.0, context=context)) as connection:
        connection.request("HEAD", "/api/v1/health")
        return email.utils.parsedate_to_datetime(connection.getresponse().headers["Date"] or "").timestamp()


def _certificate(config: AgentConfig) -> _Told:
    path = os.path.join(config.directory, "identity", "certificate.pem")
    if not os.path.exists(path):
        return (OK, "is made when the agent starts", "")
    from cryptography import x509

    with open(path, "rb") as file:
        certificate = x509.load_pem_x509_certificate(file.read())
    # Debian 12 has the old name only, newer libraries warn of it.
    ends = getattr(certificate, "not_valid_after_utc", None) or certificate.not_valid_after.replace(tzinfo=datetime.timezone.utc)
    left = ends.timestamp() - time.time()
    remedy = "Have the manager release this server and take it over again"
    if left <= 0:
        return (FAIL, f"ended on {ends:%Y-%m-%d}", remedy)
    return (WARN if left < SOON else OK, f"ends on {ends:%Y-%m-%d}", remedy if left < SOON else "")


def _database(config: AgentConfig) -> _Told:
    path = os.path.join(config.directory, FILE)
    if not os.path.exists(path):
        return (OK, "is made when the agent starts", "")
    problem = _damage(path)
    if problem is None:
        return (OK, "is sound", "")
    return (
        FAIL,
        f"{path}: {problem}",
        f"{advice('restart', 'Start the agent again')}: it keeps the damaged file aside and begins a new one; the manager is told everything again",
    )


def _damage(path: str) -> Optional[str]:
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5.0)) as connection:
            answer = str(connection.execute("PRAGMA integrity_check(1)").fetchone()[0])
    except sqlite3.Error as error:
        return str(error)
    return None if answer == "ok" else answer


CHECKS: dict[str, Callable[[AgentConfig], _Told]] = {
    "packages": _packages,
    "agent": _agent,
    "manager": _manager,
    "libvirt": _libvirt,
    "qemu": _qemu,
    "kvm": _kvm,
    "repositories": _storage,
    "disk space": _room,
    "clock": _clock,
    "certificate": _certificate,
    "database": _database,
}
