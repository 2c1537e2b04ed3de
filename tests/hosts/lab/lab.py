"""A lab: test hosts that see each other, and a folder that they share. Several labs stand side by side on one machine."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from . import image
from .cgroups import Group
from .commands import LabError, mounts, require, run
from .host import Container, Host, Traits
from .machine import Machine
from .network import Network

RUN = Path("/run/domus-hosts")
KINDS: dict[str, type[Host]] = {"container": Container, "machine": Machine}


def lab_name(purpose: str | None = None) -> str:
    """The lab of this checkout, unless LAB names another; those for a purpose stand beside it."""
    name = os.environ.get("LAB") or own_name()
    return f"{name}-{purpose.replace('_', '-')}" if purpose else name


def own_name() -> str:
    """The lab that commands mean here when nobody names one."""
    place = str(image.CHECKOUT)
    return f"{re.sub(r'[^a-z0-9]+', '-', image.CHECKOUT.name.lower()).strip('-')[:8].strip('-')}-{hashlib.sha256(place.encode()).hexdigest()[:4]}"


def hint(lab: str, host: str) -> str:
    """What to type next for a lab; one that has another name than this checkout's must be named each time."""
    named = "" if lab == own_name() else f" LAB={lab}"
    return f"Log in: make hosts-shell HOST={host}{named}; end: make hosts-down{named}"


class Lab:
    """The lab of a name: what there is of it is read from its directory, so that every process sees the same."""

    def __init__(self, name: str | None = None) -> None:
        self.name = name or lab_name()
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,30}", self.name):
            raise LabError(f"lab {self.name!r}: a name is up to 31 small letters, digits and hyphens; choose another one by LAB=")
        self.directory = RUN / self.name
        self.shared = self.directory / "shared"
        self.ssh_config = self.directory / "ssh_config"
        self.inventory = self.directory / "inventory.yml"
        self.children: list[subprocess.Popen[bytes]] = []
        self._lock: int | None = None

    # -- life

    def claim(self) -> None:
        """Keep other processes from using this lab until this one ends; raise LabError when one does already."""
        RUN.mkdir(exist_ok=True)
        self._lock = os.open(RUN / f".{self.name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LabError(f"lab {self.name} is in use by another run; wait for its end, or choose another one: LAB=NAME") from error

    def up(self) -> Lab:
        """Make the lab, without hosts, when there is none."""
        _require_root()
        for program, package in (("systemd-nspawn", "systemd-container"), ("rsync", "rsync"), ("ssh", "openssh-client"), ("ip", "iproute2")):
            require(program, package)
        with _machine_lock():
            self.shared.mkdir(parents=True, exist_ok=True)
            self.shared.chmod(0o777)
            number = self.directory / "number"
            if not number.exists():
                number.write_text(str(_free_number()))
        self.network.ensure(0)
        return self

    def destroy(self) -> None:
        """Remove all that there is of the lab, whoever made it, and however that ended."""
        _require_root()
        Group(self.name).remove()
        if (self.directory / "number").exists():
            self.network.remove()
        for line in reversed(mounts()):
            if line.split()[1].startswith(f"{self.directory}/"):
                run("umount", "--lazy", line.split()[1])
        shutil.rmtree(self.directory, ignore_errors=True)
        for child in self.children:
            child.wait(10)
        self.children.clear()

    # -- hosts

    def add(self, name: str, kind: str = "container", segments: Sequence[int] = (0,), **traits: Any) -> Host:
        """A new host, powered off. For what it can be made with see Traits."""
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,20}", name) or name == "shared":
            raise LabError(f"host {name!r}: a name is up to 21 small letters, digits and hyphens")
        table = self._table()
        if name in table:
            raise LabError(f"lab {self.name} has a host {name} already")
        index = min(set(range(1, 240)) - {each["index"] for each in table.values()})
        made = Traits(index=index, kind=kind, segments=tuple(segments), uuid=str(uuid.uuid4()), **traits)
        self._save({**table, name: dataclasses.asdict(made)})
        host = self.host(name)
        host.directory.mkdir(parents=True, exist_ok=True)
        self.new_identity(name)
        host = self.host(name)
        host.prepare()
        self._tell_names()
        return host

    def boot(self, *hosts: Host) -> None:
        """Power on several at once, and return when all are up."""
        for host in hosts:
            host.start()
        for host in hosts:
            host.wait()

    @contextlib.contextmanager
    def fresh(self, count: int = 1, kind: str = "container", keep: bool = False, **traits: Any) -> Iterator[list[Host]]:
        """New hosts, up, that are removed at the end (unless `keep`): h1, h2... or, for machines, m1, m2..., whatever is free."""
        hosts: list[Host] = []
        try:
            for _ in range(count):
                letter = kind[0].replace("c", "h")
                number = next(number for number in range(1, 240) if f"{letter}{number}" not in self._table())
                hosts.append(self.add(f"{letter}{number}", kind=kind, **traits))
            self.boot(*hosts)
            yield hosts
        finally:
            for host in () if keep else hosts:
                self.remove(host)

    def remove(self, host: Host) -> None:
        """Take a host out of the lab, with all that there is of it."""
        host.destroy()
        shutil.rmtree(host.directory, ignore_errors=True)
        table = self._table()
        del table[host.name]
        self._save(table)
        self._tell_names()

    def host(self, name: str) -> Host:
        """The host of this name."""
        traits = self.traits(name)
        return KINDS[traits.kind](self, name, traits)

    def hosts(self) -> list[Host]:
        """All hosts, in the order they came."""
        return [self.host(name) for name in self._table()]

    def traits(self, name: str) -> Traits:
        """What a host was made with."""
        try:
            row = self._table()[name]
        except KeyError:
            raise LabError(f"lab {self.name} has no host {name}; it has: {', '.join(self._table()) or 'none (make hosts-up)'}") from None
        return Traits(**{**row, "segments": tuple(row["segments"])})

    def new_identity(self, name: str) -> None:
        """Other ids and keys for a host."""
        key = self.directory / name / "host_key"
        for path in (key, key.with_suffix(".pub")):
            path.unlink(missing_ok=True)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(key))
        table = self._table()
        table[name]["uuid"] = str(uuid.uuid4())
        self._save(table)
        self._tell_ssh()

    # -- what all hosts of it share

    @property
    def network(self) -> Network:
        """Its network."""
        try:
            return Network(int((self.directory / "number").read_text()))
        except FileNotFoundError:
            raise LabError(f"there is no lab {self.name}; run: make hosts-up") from None

    @property
    def key(self) -> Path:
        """The private key that logs in as root."""
        return image.ssh_key()

    @property
    def container_tree(self) -> Path:
        """The root directory below the one of each container."""
        return image.container_tree()

    @property
    def machine_image(self) -> Path:
        """What each machine boots from."""
        return image.machine_image()

    def hosts_file(self) -> str:
        """The /etc/hosts of every host."""
        rows = ["127.0.0.1 localhost", "::1 localhost", f"{self.network.gateway} machine"]
        rows += [f"{self.network.address(row['index'])} {name}" for name, row in self._table().items()]
        return "\n".join([*rows, ""])

    def _tell_names(self) -> None:
        for host in self.hosts():
            host.set_names()

    def _tell_ssh(self) -> None:
        """Write what ssh and Ansible of this machine need to reach the hosts."""
        known, config, inventory = [], [], {}
        for name in self._table():
            host = self.host(name)
            public = host.directory / "host_key.pub"
            if public.exists():
                known.append(f"{name},{host.address} {' '.join(public.read_text().split()[:2])}")
            config.append(f"Host {name}\n    HostName {host.address}\n    HostKeyAlias {name}\n")
            inventory[name] = {"ansible_host": host.address, "ansible_user": "root", "ansible_ssh_private_key_file": str(self.key)}
        (self.directory / "known_hosts").write_text("\n".join([*known, ""]))
        common = f"    User root\n    IdentityFile {self.key}\n    IdentitiesOnly yes\n    UserKnownHostsFile {self.directory}/known_hosts\n"
        common += "    StrictHostKeyChecking yes\n    ConnectTimeout 10\n    BatchMode yes\n    LogLevel ERROR\n"
        self.ssh_config.write_text("".join(config) + "Host *\n" + common)
        variables = {
            "ansible_python_interpreter": "/usr/bin/python3",
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={self.directory}/known_hosts -o StrictHostKeyChecking=yes -o IdentitiesOnly=yes",
        }
        # JSON is YAML.
        self.inventory.write_text(json.dumps({"all": {"vars": variables, "children": {"servers": {"hosts": inventory}}}}, indent=2) + "\n")

    def _table(self) -> dict[str, Any]:
        with contextlib.suppress(FileNotFoundError):
            table: dict[str, Any] = json.loads((self.directory / "hosts.json").read_text())
            return table
        return {}

    def _save(self, table: dict[str, Any]) -> None:
        new = self.directory / "hosts.json.new"
        new.write_text(json.dumps(table, indent=2))
        new.rename(self.directory / "hosts.json")


def _require_root() -> None:
    if os.geteuid() != 0:
        raise LabError("test hosts need root: run it as root, or with sudo")


def _free_number() -> int:
    taken = {int(path.read_text()) for path in RUN.glob("*/number") if path.read_text()}
    return min(set(range(1, 255)) - taken)


@contextlib.contextmanager
def _machine_lock() -> Iterator[None]:
    RUN.mkdir(exist_ok=True)
    with open(RUN / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
