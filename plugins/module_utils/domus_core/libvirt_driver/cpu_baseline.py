"""The CPU that several servers have in common, as libvirt computes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import Conflict, Unsupported
from ..model.vm_devices import CpuBaselineSpec
from .connection import code_of, libvirt, translate
from .host_cpu import cpu_of
from .xml_fields import add, etree, parse, serialize

# Two CPUs that do not go together are an answer, not a failure of libvirt.
NOT_TOGETHER = ("VIR_ERR_OPERATION_FAILED", "VIR_ERR_CPU_INCOMPATIBLE", "VIR_ERR_CONFIG_UNSUPPORTED")


def baseline_cpu(connection: Any, cpus: Sequence[CpuBaselineSpec], architecture: str, virtualization: str) -> CpuBaselineSpec:
    """The richest CPU that all of these offer a guest, without what would keep it from moving.

    Raises Conflict when they have none in common, Unsupported where libvirt can not tell.
    """
    texts = [serialize(_element(cpu)) for cpu in cpus]
    try:
        answer = connection.baselineHypervisorCPU(None, architecture, None, virtualization, texts, libvirt.VIR_CONNECT_BASELINE_CPU_MIGRATABLE)
    except libvirt.libvirtError as error:
        if code_of(error) == libvirt.VIR_ERR_NO_SUPPORT:
            raise Unsupported("libvirt computes no baseline of CPUs here", remedy="Give its VMs a cpu_model") from error
        if code_of(error) in [getattr(libvirt, name) for name in NOT_TOGETHER]:
            raise Conflict(f"have no CPU in common: {error.get_str2() or error.get_error_message()}", object="CPUs") from error
        raise translate(error, "computing a baseline of CPUs") from error
    return cpu_of(parse(answer))


def _element(cpu: CpuBaselineSpec) -> Any:
    element = etree.Element("cpu")
    add(element, "model", cpu.model, fallback="forbid")
    if cpu.vendor is not None:
        add(element, "vendor", cpu.vendor)
    for policy in ("require", "disable"):
        for name in getattr(cpu, policy) or ():
            add(element, "feature", policy=policy, name=name)
    return element
