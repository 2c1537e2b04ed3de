"""`python -m tests.bench [--only NAME,NAME]`: measure against the peers, a line for each measurement as soon as it is done; see docs/benchmarks.md."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

from . import (
    balancing,
    define,
    failover,
    failover_nfs,
    fanout,
    fleet_idle,
    ha_scale,
    honest,
    inventory,
    manager_callbacks,
    manager_jobs,
    manager_load,
    manager_verbs,
    migrate,
    placing,
    planning,
    start,
    unchanged,
)

MEASUREMENTS: dict[str, Callable[[Path], Iterator[str]]] = {
    "define": define.measure,
    "unchanged": unchanged.measure,
    "honest": honest.measure,
    "start": start.measure,
    "plan": planning.measure,
    "place": placing.measure,
    "balance": balancing.measure,
    "verb": manager_verbs.measure_verb,
    "job": manager_jobs.measure_job,
    "job-bulk": manager_jobs.measure_bulk,
    "event": manager_verbs.measure_event,
    "api": manager_load.measure_api,
    "callback": manager_callbacks.measure,
    "dbwait": manager_load.measure_dbwait,
    "idle": manager_load.measure_idle,
    "fanout": fanout.measure,
    "inventory": inventory.measure,
    "fleet-idle": fleet_idle.measure,
    "migrate": migrate.measure,
    "ha-scale": ha_scale.measure,
    "failover": failover.measure,
    "failover-nfs": failover_nfs.measure,
}


def main() -> int:
    """Run the measurements asked for; 0 whatever was measured, 1 when something could not be."""
    parser = argparse.ArgumentParser(prog="make bench", description="Measure Domus against its peers.")
    parser.add_argument("--only", default=",".join(MEASUREMENTS), help="names of measurements, by commas")
    names = [name for name in parser.parse_args().only.split(",") if name]
    unknown = sorted(set(names) - set(MEASUREMENTS))
    if unknown:
        parser.error(f"no such measurement: {', '.join(unknown)}; there are {', '.join(MEASUREMENTS)}")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that nothing stays behind
    failed = False
    for name in names:
        try:
            # Not /tmp: the QEMU of libvirtd must reach it.
            with tempfile.TemporaryDirectory(prefix="domus-bench-", dir="/var/tmp") as directory:
                for line in MEASUREMENTS[name](Path(directory)):
                    print(line, flush=True)
        except Exception as error:
            print(f"{name} failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
