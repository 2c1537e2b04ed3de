"""Made-up servers and VMs in a stack's manager, for load: they are stored the way that real ones are, by callbacks."""

from __future__ import annotations

import dataclasses
import http.client
import json
import signal
import ssl
import subprocess
import tempfile
import time
import uuid
from collections.abc import Sequence
from typing import Any

from .stack import MANAGER_USER, WEB_AUTHORITY, Stack

VMS_PER_SERVER = 80
ENROL = """
import json, sys, uuid
from pathlib import Path
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from domus_controller.security.authority import Authority
from domus_controller.store import servers
from domus_controller.store.database import Store

directory, count = Path(sys.argv[1]), int(sys.argv[2])
store, authority = Store(directory), Authority(directory)
for number in range(count):
    key, server = ec.generate_private_key(ec.SECP256R1()), str(uuid.uuid4())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, server)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    issued = authority.issue_server(csr.public_bytes(serialization.Encoding.PEM).decode(), server, ["127.0.0.1"])
    servers.add(store, {"id": server, "name": f"made-up-{number}", "address": "127.0.0.1", "port": 1, "serial": issued.serial})
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
    print(json.dumps({"id": server, "certificate": issued.pem, "key": pem}))
store.close()
"""


@dataclasses.dataclass
class MadeUpAgent:
    """Calls back as an agent does, with a certificate of its own."""

    id: str
    port: int
    context: ssl.SSLContext
    epoch: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex)

    def connect(self) -> http.client.HTTPSConnection:
        """A connection to the manager."""
        return http.client.HTTPSConnection("127.0.0.1", self.port, context=self.context, timeout=60)

    def call_back(self, connection: http.client.HTTPSConnection, records: Sequence[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """Send records; return the manager's answer. Raises RuntimeError when it is not 200."""
        body = {"protocol": 1, "server": self.id, "epoch": self.epoch, "version": "made up", "sent_at": time.time(), "libvirt": "up", "records": list(records)}
        connection.request("POST", "/agent/v1/callback", json.dumps({**body, "statistics": None, **more}), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{answer.status} {text[:300]!r}")
        return dict(json.loads(text))


def enrol(stack: Stack, count: int) -> list[MadeUpAgent]:
    """Make servers up, with certificates of the stack's own authority; the manager is restarted."""
    stack.end("manager", signal.SIGTERM)
    command = [*stack.as_user(MANAGER_USER), str(stack.install / "venv/bin/python"), "-c", ENROL, str(stack.manager_directory), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    stack.start("manager")
    stack.wait_until_up()
    return [_agent(stack, json.loads(line)) for line in done.stdout.splitlines()]


def _agent(stack: Stack, told: dict[str, str]) -> MadeUpAgent:
    context = ssl.create_default_context(cafile=str(stack.manager_directory / WEB_AUTHORITY))
    with tempfile.NamedTemporaryFile("w", dir=stack.directory) as file:
        file.write(told["key"] + told["certificate"])
        file.flush()
        context.load_cert_chain(file.name)
    return MadeUpAgent(told["id"], stack.port, context)


def description(server: str, number: int) -> dict[str, Any]:
    """A VM as an agent describes it."""
    name, mac = f"vm{number:05}", f"52:54:00:{number >> 16 & 255:02x}:{number >> 8 & 255:02x}:{number & 255:02x}"
    spec = {
        "name": name,
        "description": f"application server {number}",
        "tags": ["production", f"rack{number % 40}"],
        **{"cpus": 2, "cpus_max": 4, "memory": 2 << 30, "memory_max": 4 << 30, "machine": "pc-q35-7.2", "architecture": "x86_64"},
        "disks": [{"name": "root", "bus": "virtio", "format": "qcow2", "file": f"main/VirtualDisks/{name}-root.qcow2", "size": 20 << 30}],
        "nics": [{"name": "eth0", "network": "lan", "model": "virtio", "mac": mac}],
        **{"serial_console": True, "rng": True, "guest_agent": True, "clock": "utc", "autostart": False},
    }
    id = str(uuid.uuid5(uuid.NAMESPACE_DNS, name))
    measured = {"uuid": id, "state": "running", "memory": 2 << 30, "persistent": True, "managed": True, "generation": 1, "site": "default"}
    return {
        **{"kind": "vm", "key": name, "id": id, "name": name, "site": "default", "generation": 1, "state": "running", "spec": spec, "recorded": spec},
        **{"running": True, "measured": {**measured, "addresses": ["192.0.2.9"], "vnc_port": None}, "fingerprint": f"{number:032x}", "restart_required": []},
    }


def fill(stack: Stack, vms: int) -> list[str]:
    """Let made-up agents describe so many VMs; their ids."""
    agents = enrol(stack, max(1, vms // VMS_PER_SERVER))
    ids = []
    for position, agent in enumerate(agents):
        records: list[dict[str, Any]] = []
        for number in range(position, vms, len(agents)):
            told = description(agent.id, number)
            ids.append(told["id"])
            records.append(
                {"seq": len(records) + 1, "at": time.time(), "type": "object", "kind": "vm", "key": told["key"], "id": told["id"], "description": told}
            )
        connection = agent.connect()
        agent.call_back(connection, records)
        connection.close()
    return ids
