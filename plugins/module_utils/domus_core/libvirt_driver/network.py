"""Kind network on libvirt: reading, and the steps of a plan."""

from __future__ import annotations

import copy
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable
from urllib.parse import urlsplit

from ..errors import Conflict, DomusError, DriverError, NotFound, Unsupported
from ..model.fields import given, make
from ..model.network import DhcpSpec, DnsSpec, NetworkSpec, NetworkState
from ..model.snapshot import Found
from ..planning.steps import CREATE, DELETE, START, STOP, UPDATE, Step
from .connection import code_of, libvirt, told
from .network_xml import ipv4_of, new_entries, read_spec, write_dns_hosts, write_reservations, write_spec
from .registry import Registry
from .xml_fields import add, canonical, get, parse, put, serialize

INTERFACES = "/sys/class/net"
# In the registry: the bridge got its name from libvirt, which takes virbr0, virbr1 and so on.
CHOSEN = {"bridge": "chosen by libvirt"}
_CHOSEN_NAME = re.compile(r"virbr\d+")
_NAME_TAKEN = re.compile(r"error creating bridge interface .*File exists|bridge name '.*' already in use")
TRIES = 10
# What libvirt says, what that is, which field it is about, and what to do.
_REFUSALS: tuple[tuple[str, type[DomusError], str, str], ...] = (
    ("already in use by interface", Conflict, "subnet", "Choose a subnet that no other network or interface of the server is in"),
    ("error creating bridge interface", Conflict, "bridge", "Choose another name for the bridge"),
    ("bridge name", Conflict, "bridge", "Choose another name for the bridge"),
    ("no IP address provided", Conflict, "subnet", "Give subnet, or use mode isolated"),
    ("xtra data in disabled network", Conflict, "dns.enabled", "Take its forwarders, hosts and other entries away first (virsh net-edit)"),
    ("Address already in use", Conflict, "gateway", "Another network, or a name server of the server's own, has port 53 of that address: choose another one"),
    ("dnsmasq", DriverError, "", "The end of the message says why; is dnsmasq-base installed?"),
)


def read_networks(connection: Any, registry: Registry) -> dict[str, Found]:
    """All networks of the server by name, also those that Domus did not make."""
    with told("list the networks"):
        networks = {network.name(): network for network in connection.listAllNetworks()}
    found = {name: _read(network, registry, name) for name, network in networks.items()}
    return {name: one for name, one in found.items() if one is not None}


def read_network(connection: Any, registry: Registry, name: str) -> Found | None:
    """One network, or None."""
    network = _lookup(connection, name)
    return None if network is None else _read(network, registry, name)


def leases(connection: Any, name: str) -> list[tuple[str, str]]:
    """The MAC and IP addresses that the network's DHCP server has given out and that have not expired. Raises NotFound, Unsupported."""
    with told(f"read the leases of network {name}"):
        return _leases(connection.networkLookupByName(name))


def carry_out(connection: Any, registry: Registry, step: Step, site: str) -> None:
    """Take one step; taking it again after it was broken off completes it. Raises Conflict when another network has the name."""
    network = _lookup(connection, step.key)
    if network is not None and network.UUIDString() != step.uuid:
        raise Conflict("is another network than the one that was planned for", field="uuid", value=network.UUIDString(), remedy="Apply again")
    if step.action == CREATE:
        _create(connection, registry, step, site)
    elif step.action == DELETE:
        _delete(network, registry, step)
    elif network is None:
        raise NotFound("is not there any more", remedy="Apply again")
    else:
        _ACTIONS[step.action](connection, registry, network, step)


def _lookup(connection: Any, name: str) -> Any | None:
    try:
        with told(f"look up network {name}"):
            return connection.networkLookupByName(name)
    except NotFound:
        return None


def _read(network: Any, registry: Registry, name: str) -> Found | None:
    """None when it vanishes meanwhile."""
    try:
        with told(f"read network {name}"):
            return _found(network, registry, name)
    except NotFound:
        return None
    except DomusError as error:
        raise error.located(f"network {name}") from None


def _found(network: Any, registry: Registry, name: str) -> Found:
    uuid, active, autostart = network.UUIDString(), bool(network.isActive()), bool(network.autostart())
    defined = _definition(network)
    current = parse(network.XMLDesc(0)) if active else defined
    spec, running = read_spec(defined, autostart), read_spec(current, autostart)
    known = registry.read("network", name) or {}
    made_by_domus = known.get("uuid") == uuid
    if made_by_domus and CHOSEN.items() <= known.items():
        spec, running = _without_chosen_bridge(spec), _without_chosen_bridge(running)
    state = NetworkState(
        uuid=uuid,
        active=active,
        bridge=get(current, "./bridge/@name"),
        leases=_count_leases(network) if active else 0,
        made_by_domus=made_by_domus,
    )
    fingerprint = hashlib.sha256(canonical(defined) + f"{active}{autostart}".encode()).hexdigest()
    return Found(spec, state, None if not active else spec if running == spec else running, None, fingerprint)


def _without_chosen_bridge(spec: NetworkSpec) -> NetworkSpec:
    """The specification as it was asked for: a name that libvirt chose may change at every start."""
    if not _CHOSEN_NAME.fullmatch(spec.bridge or ""):
        return spec
    return make(NetworkSpec, {name: value for name, value in given(spec).items() if name != "bridge"})


def _definition(network: Any) -> Any:
    """What is in force after the next start. The test driver of libvirt does not tell it from what is in force now."""
    try:
        return parse(network.XMLDesc(libvirt.VIR_NETWORK_XML_INACTIVE))
    except libvirt.libvirtError as error:
        if code_of(error) != libvirt.VIR_ERR_INVALID_ARG:
            raise
        return parse(network.XMLDesc(0))


def _leases(network: Any) -> list[tuple[str, str]]:
    return [(lease["mac"].lower(), lease["ipaddr"]) for lease in network.DHCPLeases() if lease.get("mac")]


def _count_leases(network: Any) -> int:
    try:
        with told("count leases"):
            return len(_leases(network))
    except Unsupported:
        return 0


def _create(connection: Any, registry: Registry, step: Step, site: str) -> None:
    _require_bridge(connection, step.spec)
    root = parse("<network/>")
    add(root, "name", step.spec.name)
    add(root, "uuid", step.uuid)
    write_spec(root, step.spec, NetworkSpec())
    # Before the definition: a network that is there and not in the registry would look like somebody else's.
    registry.write("network", step.key, {"uuid": step.uuid, "site": site, **(CHOSEN if step.spec.bridge is None else {})})
    with _explained(f"define network {step.key}"):
        _set_autostart(connection.networkDefineXML(serialize(root)), step.spec)


def _update(connection: Any, registry: Registry, network: Any, step: Step) -> None:
    with _explained(f"change network {step.key}"):
        root = _definition(network)
        before, known = read_spec(root, bool(network.autostart())), canonical(root)
        if (step.spec.mode, step.spec.bridge) != (before.mode, before.bridge):
            _require_bridge(connection, step.spec)
        write_spec(root, step.spec, before)
        # What runs comes first: broken off in between, the definition still differs and the next plan takes the step again.
        if network.isActive():
            _update_live(network, step.spec, before)
        if canonical(root) != known:
            _redefine(connection, root, step.spec)
        _set_autostart(network, step.spec)
    kept = registry.read("network", step.key)
    if step.spec.bridge is not None and kept and CHOSEN.items() <= kept.items():
        registry.write("network", step.key, {name: value for name, value in kept.items() if name not in CHOSEN})


def _redefine(connection: Any, root: Any, spec: NetworkSpec) -> None:
    """libvirt can choose the same name of a bridge for two networks that are defined at once, and then refuses to change either."""
    try:
        connection.networkDefineXML(serialize(root))
    except libvirt.libvirtError as error:
        if not _can_rename(spec, error):
            raise
        put(root, "./bridge/@name", None)
        connection.networkDefineXML(serialize(root))


def _can_rename(spec: NetworkSpec, error: Any) -> bool:
    """Is the name of the bridge taken, and one that nobody asked for?"""
    return spec.bridge is None and bool(_NAME_TAKEN.search(str(error)))


def _set_autostart(network: Any, spec: NetworkSpec) -> None:
    if spec.autostart is not None and bool(network.autostart()) != spec.autostart:
        network.setAutostart(int(spec.autostart))


def _update_live(network: Any, wanted: NetworkSpec, before: NetworkSpec) -> None:
    """Change reservations and DNS hosts where the running network has these services; what it can not take waits for a restart."""
    root = parse(network.XMLDesc(0))
    edited, running = copy.deepcopy(root), read_spec(root, False)
    if running.dhcp and running.subnet == wanted.subnet:
        asked, known = wanted.dhcp or DhcpSpec(), before.dhcp or DhcpSpec()
        write_reservations(ipv4_of(edited), new_entries(asked.reservations, known.reservations))
    if running.subnet and running.dns and running.dns.enabled:
        write_dns_hosts(edited, new_entries((wanted.dns or DnsSpec()).hosts, (before.dns or DnsSpec()).hosts))
    position = root.findall("ip").index(ipv4_of(root)) if running.subnet else -1
    _replace(network, libvirt.VIR_NETWORK_SECTION_IP_DHCP_HOST, position, root.findall("ip/dhcp/host"), edited.findall("ip/dhcp/host"))
    _replace(network, libvirt.VIR_NETWORK_SECTION_DNS_HOST, -1, root.findall("dns/host"), edited.findall("dns/host"))


def _replace(network: Any, section: int, position: int, before: list[Any], after: list[Any]) -> None:
    """Delete entries that are gone or changed, then add the new ones: libvirt refuses one that repeats a part of another."""
    old, new = ({canonical(one): serialize(one) for one in entries} for entries in (before, after))
    for command, texts in (
        (libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE, [text for key, text in old.items() if key not in new]),
        (libvirt.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST, [text for key, text in new.items() if key not in old]),
    ):
        for text in texts:
            network.update(command, section, position, text, libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE)


def _start(connection: Any, registry: Registry, network: Any, step: Step) -> None:
    with _explained(f"start network {step.key}"):
        if network.isActive():
            return
        _require_bridge(connection, read_spec(_definition(network), False))
        for remaining in reversed(range(TRIES)):
            try:
                network.create()
                return
            except libvirt.libvirtError as error:
                if not remaining or not _can_rename(step.spec, error):
                    raise
            root = _definition(network)
            put(root, "./bridge/@name", None)
            # libvirt chooses one that no network and no interface has; until the start another may take that too.
            connection.networkDefineXML(serialize(root))


def _stop(connection: Any, registry: Registry, network: Any, step: Step) -> None:
    with told(f"stop network {step.key}"):
        if network.isActive():
            network.destroy()


def _delete(network: Any | None, registry: Registry, step: Step) -> None:
    if network is not None:
        with told(f"delete network {step.key}"):
            persistent = network.isPersistent()
            if network.isActive():
                network.destroy()
            if persistent:
                network.undefine()
    registry.remove("network", step.key)


_ACTIONS: dict[str, Callable[[Any, Registry, Any, Step], None]] = {UPDATE: _update, START: _start, STOP: _stop}


def _require_bridge(connection: Any, spec: NetworkSpec) -> None:
    """Raise NotFound when the server lacks the bridge that a network of mode bridge uses; libvirt itself does not look."""
    uri = urlsplit(connection.getURI())
    if spec.mode != "bridge" or uri.hostname or connection.getType() == "TEST":
        return
    # Open vSwitch keeps its bridges to itself: for the kernel they are plain interfaces.
    place = os.path.join(INTERFACES, spec.bridge or "", "" if spec.switch == "openvswitch" else "bridge")
    if not os.path.isdir(place):
        raise NotFound("the server has no such bridge", field="bridge", value=spec.bridge, remedy=f"Make it first, or name one of: {_bridges()}")


def _bridges() -> str:
    names = [name for name in sorted(os.listdir(INTERFACES)) if os.path.isdir(os.path.join(INTERFACES, name, "bridge"))]
    return ", ".join(names[:10]) or "(there is none)"


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Tell libvirt's errors in ours, with a remedy where the reason is known."""
    try:
        with told(what):
            yield
    except DriverError as error:
        for sign, kind, field, remedy in _REFUSALS:
            if sign in error.message:
                raise kind(error.message, field=field, remedy=remedy) from None
        raise
