"""An operating system for tests: mounts are lines in a list, and the NFS servers' exports are directories."""

from __future__ import annotations

from typing import Optional

from domus_core.errors import DomusError, DriverError, Unreachable
from domus_core.storage_connect.mounts import Host, Mount


class FakeHost(Host):
    """`exports` are the sources that can be mounted; what was asked for stands in `asked`."""

    def __init__(self, *exports: str) -> None:
        self.exports = set(exports)
        self.down = False
        self.busy = False
        self.mounted: list[Mount] = [Mount("/", "/dev/vda", "ext4")]
        self.asked: list[tuple[str, ...]] = []

    def mounts(self) -> list[Mount]:
        """What is mounted."""
        return list(self.mounted)

    def lease(self, path: str) -> Optional[int]:
        """Always the same."""
        return 90

    def knock(self, server: str, port: int) -> None:
        """Nobody is there when the servers are down."""
        if self.down:
            raise Unreachable(f"NFS server {server} does not answer on port {port}")

    def mount(self, mount: Mount, options: str, description: str) -> None:
        """Mount what is exported."""
        self.asked.append(("mount", mount.source, mount.path, options))
        if mount.source not in self.exports:
            raise DriverError("mounting failed: mount.nfs: access denied by server while mounting")
        if mount.path not in {one.path for one in self.mounted}:
            self.mounted.append(Mount(mount.path, mount.source, "nfs4"))

    def remount(self, path: str) -> bool:
        """There is no unit."""
        return False

    def unmount(self, path: str, *, force: bool) -> bool:
        """Take it away unless something uses it; by force, somebody else removes its folder."""
        self.asked.append(("unmount", path, "force" if force else ""))
        if self.busy and not force:
            raise DomusError("unmounting failed: target is busy")
        there = len(self.mounted)
        self.mounted = [one for one in self.mounted if one.path != path]
        return not (force and len(self.mounted) < there)
