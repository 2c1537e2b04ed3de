"""Baselines on real libvirt: the CPU that different processors have in common, and VMs that run with it."""

from __future__ import annotations

import pytest
from domus_core.errors import Conflict
from domus_core.libvirt_driver.connection import libvirt
from domus_core.libvirt_driver.xml_fields import serialize
from domus_core.model.fields import make, plain, restore
from domus_core.model.vm_devices import CpuBaselineSpec

from .server_under_test import SMALL, ServerUnderTest

pytestmark = pytest.mark.libvirt

EPYC, ROME = CpuBaselineSpec("EPYC", "AMD"), CpuBaselineSpec("EPYC-Rome", "AMD", ("pku",))
SKYLAKE, HASWELL = CpuBaselineSpec("Skylake-Client-IBRS", "Intel"), CpuBaselineSpec("Haswell-noTSX", "Intel", ("rdrand",), ("pcid",))


def own_cpu(server: ServerUnderTest) -> CpuBaselineSpec:
    """What guests can have on this machine."""
    facts = server.driver.read(server.site()).server.facts
    assert facts["guest_cpu"] is not None
    return restore(CpuBaselineSpec, facts["guest_cpu"])


def compared(server: ServerUnderTest, flags: int) -> int:
    """How the CPU of the VM suits this server, as migration asks it beforehand."""
    xml = server.xml(flags=flags)
    return int(server.connection.compareHypervisorCPU(None, "x86_64", None, "qemu", serialize(xml.find("cpu")), 0))


def test_the_baseline_of_different_processors_is_what_both_have(server: ServerUnderTest) -> None:
    amd, intel = server.driver.baseline_cpu([ROME, EPYC]), server.driver.baseline_cpu([SKYLAKE, HASWELL])
    assert (amd.model, amd.vendor) == ("EPYC", "AMD") and "pku" not in (amd.require or ())
    assert (intel.model, intel.vendor) == ("Haswell-noTSX", "Intel") and "pcid" in (intel.disable or ())
    assert server.driver.baseline_cpu([EPYC, ROME]) == amd
    # Each of them has all of it: with any of them it is still the same.
    assert all(server.driver.baseline_cpu([both, one]) == both for both, one in ((amd, EPYC), (amd, ROME), (intel, SKYLAKE), (intel, HASWELL)))


def test_processors_of_two_vendors_have_nothing_in_common(server: ServerUnderTest) -> None:
    with pytest.raises(Conflict) as caught:
        server.driver.baseline_cpu([EPYC, SKYLAKE])
    assert "no CPU in common: CPU vendors do not match" in caught.value.message


def test_a_vm_runs_with_the_baseline_and_a_weaker_one_waits_for_its_restart(server: ServerUnderTest) -> None:
    first = server.driver.baseline_cpu([own_cpu(server)])
    found = server.vm(**SMALL, cpu_group="rack1", cpu_baseline=plain(first), state="running")
    assert found.spec.cpu_baseline == first and found.spec.cpu_model is None and found.running is found.spec
    assert server.xml().find("cpu").get("mode") == "custom"
    assert compared(server, 0) in (libvirt.VIR_CPU_COMPARE_IDENTICAL, libvirt.VIR_CPU_COMPARE_SUPERSET)
    weaker = make(CpuBaselineSpec, {**vars(first), "disable": (*(first.disable or ()), "rdrand")})
    server.vm(cpu_baseline=plain(weaker))
    assert server.waiting() == {"cpu_baseline.disable"}
    server.vm(state="stopped")
    again = server.vm(state="running")
    assert again.running is again.spec and set(again.spec.cpu_baseline.disable) == set(weaker.disable or ())
    assert "rdrand" in {one.get("name") for one in server.xml(flags=0).iterfind("cpu/feature[@policy='disable']")}


def test_a_model_of_its_own_leaves_nothing_of_the_baseline(server: ServerUnderTest) -> None:
    server.vm(**SMALL, cpu_baseline=plain(HASWELL), state="stopped")
    found = server.vm(cpu_model="Nehalem")
    assert (found.spec.cpu_model, found.spec.cpu_baseline) == ("Nehalem", None)
    assert server.xml().find("cpu/feature") is None and server.xml().find("cpu/vendor") is None
    assert found.recorded.cpu_baseline is None
    back = server.vm(cpu_baseline=plain(HASWELL))
    assert (back.spec.cpu_model, back.spec.cpu_baseline, back.recorded.cpu_model) == (None, HASWELL, None)


def test_a_vm_that_runs_with_another_cpu_than_the_baseline_it_got_since_tells_so(server: ServerUnderTest) -> None:
    server.vm(**SMALL, state="running")
    found = server.vm(cpu_baseline=plain(server.driver.baseline_cpu([own_cpu(server)])))
    assert found.running is not None and found.running.cpu_model == "qemu64" and found.running.cpu_baseline is None
    assert server.waiting() == {"cpu_baseline", "cpu_model"}
