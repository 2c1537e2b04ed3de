"""A manager's directory on a real NFS server: two servers never use it at the same time, and what one was told is stored is there for the next.

Three machines with kernels of their own: only those are clients and servers of NFS with locks that outlive a client.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.hosts.conftest import Hosts
from tests.hosts.lab.host import Host, Result
from tests.hosts.lab.image import CACHE
from tests.hosts.test_nfs import LEASE, PATIENCE, export

ROOT = Path(__file__).parents[2]
SHARED = "/mnt/pool/manager"
# What the manager's database is made with; wheels are zip files, which Python reads as they are.
WHEELS = ("click-", "click_default_group", "pluggy", "python_dateutil", "sqlite_fts4", "sqlite_utils", "tabulate")
USE = """
import json, pathlib, sys, time
from domus_controller.store import users
from domus_controller.store.database import Store
from domus_controller.store.guard import guarded, make_guard
directory, prefix, patience, count, holds = pathlib.Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])
if prefix == "first":
    make_guard(directory)
began = time.monotonic()
with guarded(directory, patience):
    waited = time.monotonic() - began
    store = Store(directory)
began = time.monotonic()
for number in range(count):
    users.create(store, f"{prefix}{number}", "x", "viewer")
    store.rows("SELECT name FROM users")
seconds = time.monotonic() - began
known = sorted(row["name"] for row in store.rows("SELECT name FROM users"))
check = store.row("PRAGMA integrity_check")[0]
told = {"waited": waited, "seconds": seconds, "known": known, "check": check, "files": sorted(one.name for one in directory.iterdir())}
pathlib.Path("/run/told.json").write_text(json.dumps(told))
time.sleep(holds)
store.close()
"""


@pytest.fixture(scope="module")
def machines(module_hosts: Hosts) -> Iterator[tuple[Host, Host]]:
    """Two servers that have the same directory from a third machine."""
    subprocess.run([ROOT / "scripts" / "wheels", CACHE / "wheels"], check=True, timeout=PATIENCE)
    nas, *servers = module_hosts(3, kind="machine", memory=768)
    export(nas)
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(prepare, server, nas) for server in servers]:
            done.result()
    yield servers[0], servers[1]


def prepare(server: Host, nas: Host) -> None:
    """Mount the export, and bring the store's code."""
    server.copy_to(ROOT / "controller/domus_controller", "/opt/manager/domus_controller")
    server.copy_to(ROOT / "plugins/module_utils/domus_core", "/opt/manager/domus_core")
    server.copy_to(CACHE / "wheels", "/opt/wheels")
    server.write("/opt/manager/use.py", USE)
    names = " ".join(f"/opt/wheels/{name}*.whl" for name in WHEELS)
    path = f"PYTHONPATH=/opt/manager:$(echo {names} | tr ' ' :)"
    server.write("/usr/local/bin/use", f'#!/bin/sh\n{path} exec python3 /opt/manager/use.py "$@"\n', mode="755")
    server.shell(f"mkdir -p /mnt/pool; mount -t nfs4 -o vers=4.2,hard {nas.address}:/export/vms /mnt/pool; mkdir -p {SHARED}", timeout=PATIENCE)


def use(server: Host, prefix: str, patience: float = 0, count: int = 5, holds: float = 0) -> Result:
    """Use the directory there, once; the result's output is what it tells."""
    done = server.attempt("use", SHARED, prefix, str(patience), str(count), str(holds), timeout=PATIENCE)
    return Result(done.code, server.read("/run/told.json"), done.errors) if done.code == 0 else done


def test_a_server_that_dies_is_waited_for_and_nothing_is_lost(machines: tuple[Host, Host]) -> None:
    one, two = machines
    one.run("systemd-run", "--unit", "manager", "use", SHARED, "first", "0", "20", "3600", timeout=PATIENCE)
    one.shell("until [ -e /run/told.json ]; do sleep 0.5; done", timeout=PATIENCE)
    told = json.loads(one.read("/run/told.json"))
    assert told["check"] == "ok" and not [name for name in told["files"] if name.endswith(("-wal", "-shm"))]
    print(f"20 changes on NFS, each with a query: {told['seconds']:.1f} s")
    refused = use(two, "refused")
    assert refused.code != 0 and "another server has it in use" in refused.errors
    one.power_off()
    refused = use(two, "refused")
    assert refused.code != 0 and "another server has it in use" in refused.errors, "nobody has proven yet that it is dead"
    began = time.monotonic()
    done = use(two, "second", patience=150)
    assert done.code == 0, done.errors
    told = json.loads(done.output)
    print(f"let in {time.monotonic() - began:.1f} s after the first had died (lease {LEASE} s)")
    assert told["check"] == "ok"
    assert told["known"] == sorted([*(f"first{number}" for number in range(20)), *(f"second{number}" for number in range(5))])
