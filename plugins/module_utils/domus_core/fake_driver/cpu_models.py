"""CPUs in memory: a few models, each with all that those before it have."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import Conflict, Unsupported
from ..model.vm_devices import CpuBaselineSpec

LINES = {
    "AMD": ("Opteron_G3", "EPYC", "EPYC-Rome", "EPYC-Milan"),
    "Intel": ("Nehalem", "Westmere", "SandyBridge", "IvyBridge", "Haswell-noTSX", "Broadwell-noTSX", "Skylake-Client-noTSX-IBRS"),
}
_PLACES = {model: (vendor, place) for vendor, line in LINES.items() for place, model in enumerate(line)}


def baseline_cpu(cpus: Sequence[CpuBaselineSpec]) -> CpuBaselineSpec:
    """The oldest of their models, with what all require and without what one lacks. Raises Conflict, Unsupported."""
    unknown = sorted({cpu.model for cpu in cpus if cpu.model not in _PLACES})
    if unknown or not cpus:
        raise Unsupported(f"CPU model {', '.join(unknown) or 'of nothing'} is not known here")
    places = [_PLACES[cpu.model] for cpu in cpus]
    if len({vendor for vendor, dummy in places}) > 1:
        raise Conflict("have no CPU in common: CPU vendors do not match", object="CPUs")
    vendor, oldest = min(places)
    required = frozenset.intersection(*(frozenset(cpu.require or ()) for cpu in cpus))
    lacking = frozenset[str]().union(*(cpu.disable or () for cpu in cpus))
    return CpuBaselineSpec(LINES[vendor][oldest], vendor, tuple(sorted(required)), tuple(sorted(lacking)))
