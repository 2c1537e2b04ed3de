"""A large site for the benchmark of the planner: a document, and the snapshot of a server that nearly matches it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from domus_core.fake_driver.simulation import simulate
from domus_core.model.document import parse_document
from domus_core.model.server import ServerState
from domus_core.model.snapshot import ImageFile, Snapshot
from domus_core.planning.reconcile import plan
from domus_core.snapshots import dump_snapshot

NETWORKS = 20
SERVER = ServerState(virtualization="qemu", facts={"architecture": "x86_64", "memory": 1 << 40})
IMAGE = ImageFile(format="qcow2", size=2 << 30)


def write_plan_data(folder: Path, vms: int = 20_000, changed: int = 100) -> tuple[Path, Path]:
    """Write `wanted.json` and `snapshot.json` into the folder; one VM in `changed` differs between them. Returns both paths."""
    wanted, snapshot = folder / "wanted.json", folder / "snapshot.json"
    wanted.write_text(json.dumps(_document([_vm(number, number % changed == 0) for number in range(vms)])), encoding="utf-8")
    snapshot.write_text(dump_snapshot(_made_from(_document([_vm(number, False) for number in range(vms)]))), encoding="utf-8")
    return wanted, snapshot


def _document(vms: list[dict[str, Any]]) -> dict[str, Any]:
    networks = [{"name": f"lan{number}", "mode": "nat", "subnet": f"10.{number}.0.0/16"} for number in range(NETWORKS)]
    return {
        "site": "bench",
        "networks": networks,
        "repositories": [{"name": "main", "path": "/var/lib/domus/main"}],
        "templates": [{"name": "debian12", "image": "main/debian-12.qcow2"}],
        "vms": vms,
    }


def _vm(number: int, changed: bool) -> dict[str, Any]:
    """Ten fields, two disks and a NIC, as a person would write them; nine of ten VMs run."""
    return {
        "name": f"vm{number:05}",
        "description": f"application server {number}",
        "tags": ["production", f"rack{number % 40}"],
        "cpus": 2,
        "cpus_max": 4,
        "memory": "3GiB" if changed else "2GiB",
        "memory_max": "4GiB",
        "disks": [
            {"name": "root", "template": "debian12", "clone": "thin", "size": "20GiB"},
            {"name": "data", "repository": "main", "size": "100GiB", "cache": "none"},
        ],
        "nics": [{"name": "eth0", "network": f"lan{number % NETWORKS}"}],
        "autostart": True,
        "state": "stopped" if number % 10 == 9 else "running",
    }


def _made_from(document: dict[str, Any]) -> Snapshot:
    """The server after the document was applied to it, object by object: the steps of one VM do not touch another."""
    site = parse_document(document)
    start = Snapshot(SERVER, {}, {"main/Templates/debian-12.qcow2": IMAGE})
    objects: dict[str, dict[str, Any]] = {}
    shared = start
    for step in plan(site, start).steps:
        if step.kind in ("vm", "virtual_disk"):
            before = objects.get(step.kind, {}).get(step.key)
            after = simulate(Snapshot(SERVER, {**shared.objects, step.kind: {step.key: before} if before else {}}), step, site.name)
        else:
            shared = after = simulate(shared, step, site.name)
        objects.setdefault(step.kind, {})[step.key] = after.objects[step.kind][step.key]
    return Snapshot(SERVER, objects, start.files)


if __name__ == "__main__":
    for path in write_plan_data(Path(sys.argv[1])):
        print(path)
