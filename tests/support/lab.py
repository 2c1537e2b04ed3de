"""A server for one test: a state directory and a repository of its own on the private libvirtd, and a look at what is left."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from domus_core.engine import Report, apply
from domus_core.libvirt_driver.connection import connect, libvirt
from domus_core.libvirt_driver.driver import LibvirtDriver, open_driver
from domus_core.model.document import parse_document
from domus_core.model.snapshot import Snapshot
from domus_core.planning.reconcile import plan

from .private_libvirtd import PrivateLibvirtd

WORKER = Path(__file__).with_name("apply_worker.py")
LIMIT = 120
Document = dict[str, Any]


class Lab:
    """Where a test works. Everything in it is the test's own."""

    def __init__(self, libvirtd: PrivateLibvirtd, directory: Path) -> None:
        self.libvirtd = libvirtd
        self.directory = directory
        self.state = directory / "state"
        self.repository = directory / "main"
        self.temporary = directory / "tmp"
        for path in (directory, self.repository, self.temporary):
            path.mkdir(mode=0o711, exist_ok=True)

    def driver(self) -> LibvirtDriver:
        """The driver, in this process."""
        return open_driver(self.libvirtd.uri, str(self.state))

    def read(self, document: Document) -> Snapshot:
        """The server as it is."""
        with contextlib.closing(self.driver()) as driver:
            return driver.read(parse_document(document))

    def plan(self, document: Document) -> list[str]:
        """What an apply would do, a line for each step."""
        return [
            f"{step.action} {step.name} {[change.as_dict() for change in step.changes]}" for step in plan(parse_document(document), self.read(document)).steps
        ]

    def apply(self, document: Document, **options: Any) -> Report:
        """Apply in this process."""
        with contextlib.closing(self.driver()) as driver:
            return apply(parse_document(document), driver, **options)

    def begin(self, document: Document, **job: Any) -> subprocess.Popen[str]:
        """Apply in a process of its own; see apply_worker for what a job may say."""
        work = {"document": document, "uri": self.libvirtd.uri, "state_directory": str(self.state), **job}
        environment = {**os.environ, "TMPDIR": str(self.temporary)}
        pipe = subprocess.PIPE
        words = [sys.executable, str(WORKER)]
        process = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment, start_new_session=True)
        assert process.stdin is not None
        process.stdin.write(json.dumps(work))
        process.stdin.close()
        process.stdin = None
        return process

    def finish(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        """The outcome of a process that ends by itself."""
        output, errors = process.communicate(timeout=LIMIT)
        assert process.returncode == 0, errors
        outcome: dict[str, Any] = json.loads(output)
        return outcome

    def work(self, document: Document, **job: Any) -> dict[str, Any]:
        """Apply in a process of its own, to its end."""
        return self.finish(self.begin(document, **job))

    def succeed(self, document: Document, **job: Any) -> dict[str, Any]:
        """Apply in a process of its own, and fail if it does."""
        outcome = self.work(document, **job)
        assert outcome.get("errors") == [], outcome.get("text") or outcome["errors"]
        return outcome

    def outlive(self, process: subprocess.Popen[str]) -> None:
        """Wait for what a killed process had under way: its tools, and the calls that libvirt has from it; both end without it."""
        deadline = time.monotonic() + LIMIT
        with contextlib.suppress(ProcessLookupError):  # nobody is left of its session
            while time.monotonic() < deadline:
                os.killpg(process.pid, 0)
                time.sleep(0.05)
        seen: list[str] = []
        while time.monotonic() < deadline:
            before, seen = seen, [self.libvirtd.virsh("dumpxml", "--inactive", name) + state for name, state in sorted(self.domains().items())]
            if before == seen:
                return
            time.sleep(0.3)
        raise AssertionError(f"what the killed process {process.pid} began does not end")

    def mend(self, document: Document, *, may_stay: str = "nothing") -> None:
        """The next apply: everything becomes as wanted, and nothing half made is left but what has `may_stay` in its name."""
        errors = [str(error) for error in self.apply(document, patience=5).errors]
        assert errors == [], errors
        assert self.plan(document) == []
        self.assert_tidy(may_stay=may_stay)

    def domains(self) -> dict[str, str]:
        """The run states of all VMs by name."""
        lines = [line.split() for line in self.libvirtd.virsh("list", "--all").splitlines()[2:]]
        return {words[1]: " ".join(words[2:]) for words in lines}

    def files(self) -> set[str]:
        """All files of the repository, and all files and folders of the state directory and of the temporary one, by their place."""
        found = set()
        for root in (self.repository, self.state, self.temporary):
            for folder, _, names in os.walk(root):
                found |= {os.path.relpath(os.path.join(folder, name), self.directory) for name in names}
        return found

    def assert_tidy(self, *, may_stay: str = "nothing") -> None:
        """Fail for every file that no object accounts for: half-made images, stray seeds, temporary files and folders."""
        left = {place for place in (self.files() | self._folders()) - self._accounted() if may_stay not in place}
        assert not left, left

    def _folders(self) -> set[str]:
        known = {"VirtualDisks", "ISOs", "Templates", ".domus", "virtual_disk"}
        return {
            str(path.relative_to(self.directory))
            for root in (self.repository, self.temporary)
            for path in root.rglob("*")
            if path.is_dir() and path.name not in known
        }

    def _accounted(self) -> set[str]:
        with contextlib.closing(self.driver()) as driver:
            snapshot = driver.read(parse_document({}))
        found = {"state/objects.lock", "state/capabilities.json", "state/kvm-probe.json"}
        found |= {f"main/{path.parent.name}/{path.name}" for folder in ("Templates", "ISOs") for path in (self.repository / folder).glob("[!.]*")}
        for kind in ("server", "network", "repository", "template", "iso"):
            found |= {f"state/objects/{kind}/{name}.json" for name, _ in snapshot.all(kind)}
        for _, disk in snapshot.all("virtual_disk"):
            if disk.state.made_by_domus:
                found |= {os.path.relpath(disk.state.path, self.directory), f"main/.domus/virtual_disk/{disk.spec.name}.json"}
        for name in self.domains():
            for more in ((), ("--inactive",)):
                sources = [line.split()[-1] for line in self.libvirtd.virsh("domblklist", *more, name).splitlines()[2:]]
                found |= {os.path.relpath(path, self.directory) for path in sources if "-cloud-init-" in path}
        return found

    def clear(self) -> None:
        """Take away all VMs, networks and files."""
        if not self.libvirtd.is_running():
            self.libvirtd.start()
        for pid in self.libvirtd.processes("qemu-system-x86_64"):
            os.kill(pid, signal.SIGKILL)
        connection = connect(self.libvirtd.uri)
        for domain in connection.listAllDomains():
            with contextlib.suppress(libvirt.libvirtError):
                domain.destroy()
            domain.undefineFlags(1 | 2 | 4)  # with its saved state, snapshots and NVRAM
        for network in connection.listAllNetworks():
            if network.isActive():
                network.destroy()
            network.undefine()
        connection.close()
        for root in (self.state, self.repository, self.temporary):
            for path in root.iterdir() if root.is_dir() else ():
                remove(path)


def remove(path: Path) -> None:
    """Take away a file, or a folder with all that is in it."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@contextlib.contextmanager
def lab_in(libvirtd: PrivateLibvirtd, name: str) -> Iterator[Lab]:
    """A lab of this name, gone afterwards."""
    lab = Lab(libvirtd, libvirtd.directory / name)
    try:
        yield lab
    finally:
        lab.clear()
        for path in lab.directory.iterdir():
            remove(path)
