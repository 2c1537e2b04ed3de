"""`migrate`: how long a person waits for a live migration through the manager, and how long the VM stands still, against bare virsh."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

from tests.hosts.lab.host import Host
from tests.hosts.lab.lab import Lab
from tests.hosts.migration_site import MigrationSite

from .measuring import alternate, format_seconds, line, median, spread

FILLED, ROUNDS = 256, 5
NAME = "bench1"
VIRSH = "virsh migrate --p2p --tls --live --persistent --undefinesource --unsafe"


def measure(directory: Path) -> Iterator[str]:
    """From the request to the ended job, and from the start of virsh to its end, on two test hosts with shared storage; 256 MiB of filled memory."""
    lab = Lab("bench-migrate")
    lab.claim()
    lab.destroy()
    try:
        lab.up()
        with lab.fresh(2) as hosts:
            site = MigrationSite(lab, hosts)
            try:
                yield _measured(site)
            finally:
                site.fleet.close()
    finally:
        lab.destroy()


def _measured(site: MigrationSite) -> str:
    site.make(NAME, fill=FILLED)
    downtimes: dict[str, list[float]] = {"ours": [], "virsh": []}

    def by_manager() -> float:
        here, there = _where(site)
        began = time.perf_counter()
        job = site.fleet.migrate(NAME, there)
        ended = site.fleet.client.follow(job["id"])
        seconds = time.perf_counter() - began
        if ended["state"] != "succeeded":
            raise RuntimeError(str(ended["error"]))
        downtimes["ours"].append(ended["result"]["migration"]["downtime"] / 1000)  # libvirt tells it once, and the agent has asked
        return seconds

    def by_virsh() -> float:
        here, there = _where(site)
        virsh = f"{VIRSH} {NAME} qemu+tls://{there.address}/system tcp://{there.address} >/dev/null"
        began, ended = here.shell(f"date +%s.%N; {virsh}; date +%s.%N").split()
        seconds = float(ended) - float(began)
        downtimes["virsh"].append(_downtime(there))
        site.fleet.stack.wait_for(lambda: site.is_at(NAME, there), "the manager seeing it")
        return seconds

    ours, peer = alternate(ROUNDS, by_manager, by_virsh)
    added = format_seconds(max(0.0, median(ours) - median(peer)))
    still, peer_still = (format_seconds(median(downtimes[one])) for one in ("ours", "virsh"))
    facts = [f"added={added}", "wanted=<=200ms", f"spread={spread(ours)}", f"peer_spread={spread(peer)}"]
    facts += [f"downtime={still}", f"peer_downtime={peer_still}", "wanted_downtime=<=peer+10ms"]
    return line("migrate", median(ours), median(peer), *facts, f"memory={FILLED}MiB")


def _where(site: MigrationSite) -> tuple[Host, Host]:
    return (site.one, site.two) if site.state(site.one, NAME) == "running" else (site.two, site.one)


def _downtime(host: Host) -> float:
    """Seconds that it stood still, as libvirt at the destination has it."""
    told = host.run("virsh", "domjobinfo", NAME, "--completed", "--rawstats")
    found = re.search(r"^downtime:\s*(\d+)", told, re.MULTILINE)
    assert found, told
    return float(found[1]) / 1000
