"""Two servers with libvirt and agents of their own: where VMs are made, and that none is made twice while others move it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from domus_core.errors import NoCapacity, error_from_dict

from tests.support.private_libvirtd import PrivateLibvirtd
from tests.support.stack import Stack
from tests.support.stack_faults import ended

pytestmark = pytest.mark.libvirt

QEMU = {"servers": [{"name": "s0", "virtualization": "qemu", "memory_reserve": 0}, {"name": "s1", "virtualization": "qemu", "memory_reserve": 0}]}


@pytest.fixture(scope="module")
def other_libvirtd() -> Iterator[PrivateLibvirtd]:
    libvirtd = PrivateLibvirtd()
    yield libvirtd
    libvirtd.close()


@pytest.fixture(scope="module")
def stack(private_libvirtd: PrivateLibvirtd, other_libvirtd: PrivateLibvirtd) -> Iterator[Stack]:
    made = Stack([private_libvirtd.uri, other_libvirtd.uri])
    try:
        made.up()
        made.wait_for(lambda: all(one["facts"] for one in made.client.get("/api/v1/servers")["items"]), "the facts of both")
        yield made
    finally:
        made.close()
        private_libvirtd.clear()


@pytest.fixture(autouse=True)
def empty(stack: Stack, private_libvirtd: PrivateLibvirtd, other_libvirtd: PrivateLibvirtd) -> Iterator[None]:
    yield
    private_libvirtd.clear()
    other_libvirtd.clear()
    stack.wait_for(lambda: not stack.client.get("/api/v1/vms")["items"], "that the VMs are gone")
    assert "Traceback" not in stack.log("agent0") + stack.log("agent1") + stack.log("manager")


def vm(name: str, **more: Any) -> dict[str, Any]:
    """A VM without disks."""
    return {"name": name, "memory": "16MiB", **more}


def begin(stack: Stack, *vms: dict[str, Any]) -> str:
    """Start an apply; the id of its job."""
    return str(stack.client.post("/api/v1/apply", {**QEMU, "vms": list(vms)})["id"])


def apply(stack: Stack, *vms: dict[str, Any]) -> dict[str, Any]:
    """Apply and wait; the job, which has succeeded."""
    job = ended(stack, begin(stack, *vms))
    assert job["state"] == "succeeded", job
    return job


def names(libvirtd: PrivateLibvirtd) -> set[str]:
    """The VMs of a server, as libvirt knows them."""
    return set(libvirtd.virsh("list", "--all", "--name").split())


def move(name: str, source: PrivateLibvirtd, destination: PrivateLibvirtd) -> None:
    """Move a stopped VM as somebody does it who has nothing but virsh."""
    text = source.virsh("dumpxml", "--inactive", "--security-info", name)
    path = destination.directory / f"{name}.xml"
    path.write_text(text, encoding="utf-8")
    destination.virsh("define", str(path))
    source.virsh("undefine", name)


def test_new_vms_are_spread_and_the_plan_says_why(stack: Stack, private_libvirtd: PrivateLibvirtd, other_libvirtd: PrivateLibvirtd) -> None:
    group = {"anti_affinity": ["db"]}
    plan = stack.client.post("/api/v1/plans", {**QEMU, "vms": [vm("a", **group), vm("b", **group)]})
    assert {one["name"]: one["server"] for one in plan["objects"] if one["kind"] == "vm"} == {"a": "s0", "b": "s1"}
    assert all("least full of 2 servers" in one["placement"] for one in plan["objects"] if one["kind"] == "vm")
    apply(stack, vm("a", **group), vm("b", **group))
    assert (names(private_libvirtd), names(other_libvirtd)) == ({"a"}, {"b"})
    with pytest.raises(NoCapacity) as raised:
        stack.client.post("/api/v1/apply", {**QEMU, "vms": [vm("c", **group)]})
    assert "s0: has vm a of anti-affinity group db; s1: has vm b of anti-affinity group db" in str(raised.value)
    again = apply(stack, vm("a", **group), vm("b", **group))
    assert again["changed"] is False, "what a VM asks of servers is kept in its record"


def test_a_vm_that_is_moved_while_an_apply_begins_is_followed(stack: Stack, private_libvirtd: PrivateLibvirtd, other_libvirtd: PrivateLibvirtd) -> None:
    apply(stack, vm("a", server="s0"))
    uuid = private_libvirtd.virsh("domuuid", "a")
    job_id = begin(stack, vm("a", server="s0", description="changed"), vm("b", server="s0"))
    move("a", private_libvirtd, other_libvirtd)
    job = ended(stack, job_id)
    assert job["state"] == "succeeded", job
    assert (names(private_libvirtd), names(other_libvirtd)) == ({"b"}, {"a"})
    assert other_libvirtd.virsh("domuuid", "a") == uuid and other_libvirtd.virsh("desc", "a") == "changed"
    shown = stack.client.get("/api/v1/vms/a")
    assert (shown["server"], shown["request"]["state"], shown["drift"]) == ("s1", "effective", [])


def test_a_vm_that_vanishes_meanwhile_is_not_made_by_that_apply(stack: Stack, private_libvirtd: PrivateLibvirtd) -> None:
    apply(stack, vm("a", server="s0"))
    job_id = begin(stack, vm("a", server="s0", description="changed"))
    private_libvirtd.virsh("undefine", "a")
    job = ended(stack, job_id)
    assert (job["state"], job["error"]["code"]) == ("failed", "moved")
    assert "on no other server" in str(error_from_dict(job["error"])) and names(private_libvirtd) == set()
    stack.wait_for(lambda: not stack.client.get("/api/v1/vms")["items"], "that the manager knows")
    apply(stack, vm("a", server="s0"))
    assert names(private_libvirtd) == {"a"}, "whoever applies again wants it made anew"


def test_a_vm_of_a_cpu_group_gets_the_cpu_that_its_servers_have_in_common(stack: Stack, private_libvirtd: PrivateLibvirtd) -> None:
    grouped = [{**one, "cpu_group": "rack1"} for one in QEMU["servers"]]
    assert ended(stack, str(stack.client.post("/api/v1/apply", {"servers": grouped})["id"]))["state"] == "succeeded"

    def group() -> Any:
        found = [one for one in stack.client.get("/api/v1/cpu-groups")["items"] if one["name"] == "rack1"]
        told = bool(found) and [one["virtualization"] for one in found[0]["members"]] == ["qemu", "qemu"] and found[0]["baseline"] is not None
        return told and found[0]

    told = stack.wait_for(group, "the baseline of both")
    apply(stack, vm("a", server="s0", cpu_group="rack1"), vm("b", server="s0", cpu_group="rack1", cpu_model="qemu64"))
    defined = private_libvirtd.virsh("dumpxml", "--inactive", "a")
    assert "mode='custom'" in defined and f">{told['baseline']['model']}</model>" in defined
    assert all(f"name='{name}'" in defined for name in (*told["baseline"]["require"], *told["baseline"]["disable"]))
    shown = stack.client.get("/api/v1/vms/a")
    assert (shown["spec"]["cpu_baseline"], shown["drift"]) == (told["baseline"], [])
    assert stack.client.get("/api/v1/vms/b")["spec"]["cpu_model"] == "qemu64"
    lost = stack.client.get("/api/v1/servers/s0/loss")
    assert lost["possible"] and {one["vm"]: one["server"] for one in lost["moves"]} == {"a": "s1", "b": "s1"}
    (pool,) = stack.client.get("/api/v1/balance")["pools"]
    assert (pool["servers"], pool["moves"]) == (["s0", "s1"], []), "what does not run stays"
