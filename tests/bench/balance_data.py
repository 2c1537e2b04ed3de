"""A cluster for the benchmark of balancing, and the same for Ganeti's htools as a text file (htools(1), backend `-t`) with its utilisation."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping
from pathlib import Path

from domus_core.planning.capacity import Demand, Server
from domus_core.planning.spread import Dimension

GROUP = "00000000-0000-0000-0000-000000000001"
MIB = 1 << 20
CPU_RATIO = 8
LIMITS = "|128,1,1,1,1,1|128,1,1,1,1,1;1048576,512,1048576,16,8,64|sharedfile|{ratio}.0|100000.0\n"


@dataclasses.dataclass(frozen=True)
class Instance:
    """A VM: memory in MiB, vCPUs, how much it uses (CPU, memory, network; in what units does not matter), and its anti-affinity group."""

    memory: int
    cpus: int
    uses: tuple[float, float, float]
    group: str | None


@dataclasses.dataclass(frozen=True)
class Site:
    """Servers with their memory in MiB, VMs by name, and the number of the server of each."""

    memory: list[int]
    vms: dict[str, Instance]
    homes: dict[str, int]

    def cores(self, server: int) -> int:
        """A core for each 4 GiB."""
        return self.memory[server] // 4096


def random_site(seed: int, servers: int = 64, vms: int = 2000, empty: int = 2) -> Site:
    """The first servers have just come and are empty; the others are filled about evenly with memory, and not with what is used."""
    chance = random.Random(seed)
    memory = [262144 if number % 4 else 393216 for number in range(servers)]
    used, groups = [0] * servers, [set[str]() for _ in range(servers)]
    made, homes = {}, {}
    for number in range(vms):
        name, size = f"vm{number:04}", chance.choices([1024, 2048, 4096, 8192, 16384], weights=[4, 6, 5, 3, 1])[0]
        group = f"g{number // 40}" if number % 10 == 0 else None
        cpus = max(1, size // 2048)
        uses = (round(chance.uniform(0.05, 0.9) * cpus, 6), round(chance.uniform(0.1, 1) * size / 4096, 6), round(chance.uniform(0, 1) ** 3, 6))
        free = sorted((one for one in range(empty, servers) if group not in groups[one]), key=lambda one: used[one] / memory[one])
        home = chance.choice(free[:12])
        used[home] += size
        if group is not None:
            groups[home].add(group)
        made[name], homes[name] = Instance(size, cpus, uses, group), home
    return Site(memory, made, homes)


def for_domus(site: Site) -> tuple[list[Server], list[Dimension]]:
    """The servers, and the dimensions of hbal's score: shares of memory and vCPUs, and the uses as they are, each counting as there."""
    there: list[list[Demand]] = [[] for _ in site.memory]
    for name, vm in site.vms.items():
        there[site.homes[name]].append(Demand(name, vm.cpus, vm.memory * MIB, anti_affinity=frozenset({vm.group} if vm.group else ())))
    numbers = range(len(site.memory))
    servers = [
        Server(f"n{number:03}", f"n{number:03}", memory=site.memory[number] * MIB, cpus=site.cores(number) * CPU_RATIO, vms=tuple(there[number]))
        for number in numbers
    ]
    ids = [one.id for one in servers]
    shares = [
        Dimension("memory", {name: float(vm.memory) for name, vm in site.vms.items()}, {ids[number]: float(site.memory[number]) for number in numbers}),
        Dimension("vcpus", {name: float(vm.cpus) for name, vm in site.vms.items()}, {ids[number]: float(site.cores(number)) for number in numbers}),
    ]
    uses = [
        Dimension(use, {name: vm.uses[position] for name, vm in site.vms.items()}, dict.fromkeys(ids, 1.0))
        for position, use in enumerate(("cpu", "memory use", "network"))
    ]
    return servers, shares + uses


def write_for_htools(site: Site, homes: Mapping[str, int], folder: Path, name: str) -> tuple[Path, Path]:
    """The text file of the cluster with the VMs where `homes` says, and the file of what they use."""
    used = [0] * len(site.memory)
    for vm, home in homes.items():
        used[home] += site.vms[vm].memory
    lines = [f"default|{GROUP}|preferred||", ""]
    for number, memory in enumerate(site.memory):
        lines.append(f"n{number:03}|{memory}|0|{memory - used[number]}|1000000|1000000|{site.cores(number)}|N|{GROUP}|1||N|1|0|1.0")
    lines.append("")
    for vm, home in homes.items():
        one = site.vms[vm]
        lines.append(f"{vm}|{one.memory}|0|{one.cpus}|running|Y|n{home:03}||sharedfile|{f'group:{one.group}' if one.group else ''}|1|-|N")
    lines += ["", "htools:iextags:group", ""]
    limits = "".join(f"{group}{LIMITS.format(ratio=CPU_RATIO)}" for group in ("", "default"))
    cluster, uses = folder / f"{name}.txt", folder / f"{name}.uses"
    cluster.write_text("\n".join(lines) + "\n" + limits, encoding="utf-8")
    uses.write_text("".join(f"{vm} {one.uses[0]:.6f} {one.uses[1]:.6f} 0 {one.uses[2]:.6f}\n" for vm, one in site.vms.items()), encoding="utf-8")
    return cluster, uses
