"""A member changes VMs in a configuration of which it knows no more than what stands there."""

from __future__ import annotations

from typing import Any

import pytest
from domus_core.cluster.cib import wanted_configuration
from domus_core.cluster.cib_merge import merge_configuration
from domus_core.cluster.cib_vms import PoolRules, ha_vms, known_vms, vm_configuration
from domus_core.cluster.pool import HaVm, Pool
from domus_core.cluster.records import PoolRecord
from domus_core.libvirt_driver.xml_fields import etree
from domus_core.model.quantities import UNITS
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.domus_core.cluster.pools import member, pool, vm

RULES = PoolRules("rack1")
NAMES = st.sampled_from(["web1", "web2", "db-1", "db.1"])
GROUPS = st.frozensets(st.sampled_from(["web", "db"]))


def cib_of(made: Pool) -> Any:
    root = etree.Element("cib")
    root.append(wanted_configuration(made, {one.name: number for number, one in enumerate(made.members, 1)}))
    return root


@st.composite
def vms(draw: Any) -> tuple[HaVm, ...]:
    names = draw(st.lists(NAMES, unique=True))
    some = {"anti_affinity": GROUPS, "server_tags": st.frozensets(st.sampled_from(["ssd"])), "priority": st.integers(0, 9)}
    places = st.sampled_from([None, "srv1", "srv2"])
    return tuple(vm(name, server=draw(places), **{field: draw(values) for field, values in some.items()}) for name in names)


@given(vms(), vms())
def test_changing_vms_is_the_same_as_writing_the_pool_with_them(before: tuple[HaVm, ...], after: tuple[HaVm, ...]) -> None:
    dropped = {one.name for one in before} - {one.name for one in after}
    members = (member(1, tags=frozenset({"ssd"})), member(2, cpu_group="old", evacuated=True), member(3))
    found = cib_of(pool(3, *before, members=members))
    change = merge_configuration(found.find("configuration"), vm_configuration(found, RULES, after, dropped))
    again = etree.Element("cib")
    again.append(change.configuration)
    whole = merge_configuration(change.configuration, cib_of(pool(3, *after, members=members)).find("configuration"))
    assert whole.changes == () and known_vms(again) == {one.name for one in after}
    assert merge_configuration(change.configuration, vm_configuration(again, RULES, after)).changes == ()


def test_a_vm_of_which_nothing_is_said_stays_with_its_rules_and_its_room() -> None:
    found = cib_of(pool(2, vm("web1", memory=4 * UNITS["GiB"], start_after=("db1",), preferred_servers=("srv2",), server="srv1"), vm("db1")))
    change = merge_configuration(found.find("configuration"), vm_configuration(found, RULES, [vm("db1"), vm("new")]))
    assert change.changes and not any("web1" in line for line in change.changes if line[0] == "-")
    assert known_vms(_as_cib(change.configuration)) == {"web1", "db1", "new"}


def test_a_server_that_an_older_domus_wrote_keeps_what_it_has() -> None:
    found = cib_of(pool(2, vm("web1")))
    for pair in found.xpath("//node[@uname='srv2']//nvpair[@name='domus-memory']"):
        pair.getparent().remove(pair)
    change = merge_configuration(found.find("configuration"), vm_configuration(found, RULES, [vm("web1")]))
    assert change.changes == ()


def test_servers_and_vms_that_are_no_more_are_no_reason_to_refuse() -> None:
    found = cib_of(pool(2, vm("web1")))
    wanted = vm_configuration(found, RULES, [vm("web1", preferred_servers=("gone", "srv2"), start_after=("gone",))])
    assert [one.get("node") for one in wanted.iterfind("constraints/rsc_location[@node]") if one.get("rsc") == "domus-vm-web1"] == ["srv2"]
    assert wanted.find("constraints/rsc_order") is None


@pytest.mark.parametrize(("known", "wanted"), [({"web1"}, None), (set(), True)])
def test_what_pacemaker_knows_keeps_its_role(known: set[str], wanted: bool | None) -> None:
    specification = {"name": "web1", "memory": 1 << 30, "cpus": 2, "ha": {"enabled": True, "priority": 7}, "anti_affinity": ["web"]}
    records = [PoolRecord("u1", "web1", "<domain/>", specification, server="srv1", stop_timeout=33), PoolRecord("u2", "plain", "<domain/>", {"name": "plain"})]
    found, problems = ha_vms([*records, PoolRecord("u3", "bad", "<domain/>", {"name": "bad", "ha": 3})], known, {"web1": ("srv2",)}, {"web1": True})
    (one,) = found
    assert (one.name, one.wanted, one.server, one.last_server, one.priority, one.stop_timeout) == ("web1", wanted, "srv2", "srv1", 7, 33)
    assert one.anti_affinity == {"web"} and [problem.object for problem in problems] == ["vm bad"]


def _as_cib(configuration: Any) -> Any:
    root = etree.Element("cib")
    root.append(configuration)
    return root
