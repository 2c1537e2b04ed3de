"""`balance`: 64 servers and 2,000 VMs, two servers empty, against Ganeti's hbal on the same cluster with the same number of moves."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from domus_core.planning.balancing import Aims, Balance, plan_balance
from domus_core.planning.cluster_state import Cluster

from .balance_data import Site, for_domus, random_site, write_for_htools
from .measuring import format_seconds, line, median, spread

# hbal takes seconds for each move.
MOVES, ROUNDS, SEED = 40, 5, 1
PATIENCE = 1800
_MOVE = re.compile(r"^ +\d+\. (\S+) +(\S+) +=> +(\S+)", re.MULTILINE)
_SCORE = re.compile(r"^Initial (?:score: |coefficients: overall )([0-9.]+)", re.MULTILINE)


def measure(directory: Path) -> Iterator[str]:
    """Both scores are hbal's own: it is asked for the score of what each made of the cluster."""
    if shutil.which("hbal") is None:
        raise RuntimeError("hbal is missing: apt-get install ganeti-htools")
    site = random_site(SEED)
    limited = [_planned(site, Aims(MOVES, tolerance=0.0)) for _ in range(ROUNDS)]
    whole = [_planned(site, Aims(1 << 30, tolerance=0.0)) for _ in range(ROUNDS)]
    began = time.perf_counter()
    told = _hbal(site, site.homes, directory, "-l", str(MOVES))
    peer = time.perf_counter() - began
    theirs = {**site.homes, **{vm: int(to[1:]) for vm, dummy, to in _MOVE.findall(told)}}
    seconds = [one for one, dummy in limited]
    plan, all_of_it = limited[0][1], whole[0][1]
    scores = {name: _score(site, homes, directory) for name, homes in (("ours", _after(site, plan)), ("peer", theirs), ("all", _after(site, all_of_it)))}
    yield line(
        "balance",
        median(seconds),
        peer,
        f"score={scores['ours'] / scores['peer']:.4f}x",
        f"moves={len(plan.moves)}/{len(_MOVE.findall(told))}",
        f"broken={_broken(site, plan) + _broken(site, all_of_it)}",
        f"from={_score(site, site.homes, directory):.3f}",
        f"to={scores['ours']:.3f}/{scores['peer']:.3f}",
        f"spread={spread(seconds)}",
        f"all={format_seconds(median([one for one, dummy in whole]))}",
        f"all_moves={len(all_of_it.moves)}",
        f"all_to={scores['all']:.3f}",
        "wanted<=1s,score<=1.02x,moves<=peer,broken=0",
    )


def _planned(site: Site, aims: Aims) -> tuple[float, Balance]:
    servers, dimensions = for_domus(site)
    began = time.perf_counter()
    plan = plan_balance(servers, dimensions, aims)
    return time.perf_counter() - began, plan


def _after(site: Site, plan: Balance) -> dict[str, int]:
    return {**site.homes, **{move.vm: int(move.to[1:]) for move in plan.moves}}


def _broken(site: Site, plan: Balance) -> int:
    """How many rules do not hold after the plan."""
    servers, dimensions = for_domus(Site(site.memory, site.vms, _after(site, plan)))
    cluster = Cluster(servers, dimensions)
    return sum(len(cluster.misplaced(number)) + cluster.overfull(number) for number in range(len(servers)))


def _score(site: Site, homes: Mapping[str, int], directory: Path) -> float:
    found = _SCORE.search(_hbal(site, homes, directory, "-l", "0"))
    if found is None:
        raise RuntimeError("hbal tells no score")
    return float(found[1])


def _hbal(site: Site, homes: Mapping[str, int], directory: Path, *options: str) -> str:
    cluster, uses = write_for_htools(site, homes, directory, "cluster")
    command = ["hbal", "-t", str(cluster), "-U", str(uses), *options]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE).stdout
