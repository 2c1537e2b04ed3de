"""Which server gets which objects: every object goes somewhere or is refused, and nothing is invented."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from domus_core.errors import Conflict, DomusError, InvalidSpec, NoCapacity, NotFound, Refused
from domus_core.model.document import parse_document
from domus_core.model.kinds import KINDS
from domus_core.planning.capacity import Server
from domus_core.planning.placement import IN_MAINTENANCE
from domus_core.planning.routing import Routed
from domus_core.planning.routing import route as route_whole
from hypothesis import given
from hypothesis import strategies as st

IDS = [f"00000000-0000-4000-8000-00000000000{number}" for number in range(4)]
ONE, TWO, THREE = IDS[:3]
SERVERS = {ONE: "srv1", TWO: "srv2", THREE: "srv3"}


GIB = 1 << 30


def fleet(names: Mapping[str, str], **changes: Any) -> list[Server]:
    """Servers with room for a few VMs, and with whatever else a test gives all of them."""
    return [Server(**{"id": one, "name": name, "memory": 4 * GIB, "cpus": 8, **changes}) for one, name in names.items()]


def route(document: dict[str, Any], servers: Mapping[str, str] | list[Server], located: Mapping[str, list[str]]) -> dict[str, Any]:
    """The documents alone."""
    return {one: dict(parts) for one, parts in routed(document, servers, located).documents.items()}


def routed(document: dict[str, Any], servers: Mapping[str, str] | list[Server], located: Mapping[str, list[str]]) -> Routed:
    return route_whole(document, servers if isinstance(servers, list) else fleet(servers), located)


def placed(document: dict[str, Any], servers: Mapping[str, str] | list[Server] = SERVERS, **located: list[str]) -> dict[str, list[str]]:
    """Per server name the objects that it gets."""
    names = {one.id: one.name for one in servers} if isinstance(servers, list) else servers
    parts = route(document, servers, located)
    return {names[one]: [entry["name"] for section in part if section != "site" for entry in part[section]] for one, part in parts.items()}


def test_a_vm_goes_where_it_is_and_a_new_one_where_it_says() -> None:
    document = {"vms": [{"name": "a", "server": "srv1"}, {"name": "b", "server": "srv2"}, {"name": "c", "server": TWO}]}
    assert placed(document, a=[THREE]) == {"srv3": ["a"], "srv2": ["b", "c"]}


def test_what_a_document_says_of_servers_is_understood_where_it_goes() -> None:
    document = {"vms": [{"name": "a", "server": "srv1"}, {"name": "c", "server": TWO}], "isos": [{"name": "i", "image": "main/i.iso", "servers": [TWO]}]}
    parts = route(document, SERVERS, {"a": [THREE]})
    assert parts[THREE]["vms"] == [{"name": "a", "server": "srv3"}]
    assert parts[TWO]["vms"] == [{"name": "c", "server": "srv2"}] and parts[TWO]["isos"][0]["servers"] == ["srv2"]
    for one, part in parts.items():
        assert parse_document(part, server=SERVERS[one]).objects == parse_document(part).objects
    assert document["vms"][0] == {"name": "a", "server": "srv1"}, "what was given stays as it is"


def test_the_only_server_needs_no_naming() -> None:
    assert placed({"vms": [{"name": "a"}], "networks": [{"name": "lan", "mode": "isolated"}]}, {ONE: "srv1"}) == {"srv1": ["lan", "a"]}


def test_shared_objects_go_where_something_goes_or_everywhere() -> None:
    shared = {"networks": [{"name": "lan", "mode": "isolated"}], "site": "paris"}
    assert placed(shared) == {"srv1": ["lan"], "srv2": ["lan"], "srv3": ["lan"]}
    assert placed({**shared, "vms": [{"name": "a", "server": "srv2"}]}) == {"srv2": ["lan", "a"]}
    assert route(shared, SERVERS, {})[ONE]["site"] == "paris"


def test_named_servers_and_servers_themselves() -> None:
    document = {"servers": [{"name": "srv3"}], "repositories": [{"name": "main", "path": "/srv/main", "servers": ["srv1", TWO, ONE]}]}
    assert placed(document) == {"srv3": ["srv3"], "srv1": ["main"], "srv2": ["main"]}


@pytest.mark.parametrize(
    ("document", "located", "kind", "told"),
    [
        ({"vms": [{"name": "a", "memory": "5GiB"}]}, {}, NoCapacity, "srv1, srv2, srv3: 4 GiB of memory free, 5 GiB needed"),
        ({"vms": [{"name": "a"}]}, {"a": [ONE, TWO]}, Conflict, "srv1 and srv2"),
        ({"vms": [{"name": "a", "server": "srv11"}]}, {}, NotFound, "Did you mean srv1"),
        ({"vms": [{"name": "a", "server": "x"}]}, {}, NotFound, "srv1, srv2, srv3"),
        ({"servers": [{"name": "other"}]}, {}, NotFound, "server other"),
        ({"isos": [{"name": "i", "image": "main/i.iso", "servers": ["srv1", "no"]}]}, {}, NotFound, "iso i"),
        ({"isos": [{"name": "i", "image": "main/i.iso", "servers": []}]}, {}, InvalidSpec, "names no server"),
        ({"isos": [{"name": "i", "image": "main/i.iso", "servers": ["tag:ssd"]}]}, {}, NotFound, "no server has this tag"),
        ({"vms": [{"name": "a", "server": "x"}, {"name": "b", "memory": "5GiB"}, {"name": "c", "server": "y"}]}, {}, Refused, "vm c"),
        ({"vms": [{"name": "a", "server_tags": ["ssd"]}]}, {}, NoCapacity, "srv1, srv2, srv3: lacks tag ssd"),
        ({"vms": [{"name": "a", "server": "srv1", "server_tags": ["ssd"]}]}, {}, Conflict, "may not be made on srv1: lacks tag ssd"),
    ],
)
def test_what_can_not_be_placed_is_refused(document: dict[str, Any], located: dict[str, list[str]], kind: type[DomusError], told: str) -> None:
    with pytest.raises(kind) as raised:
        route(document, SERVERS, located)
    assert told in str(raised.value)
    errors = raised.value.errors if isinstance(raised.value, Refused) else [raised.value]
    assert all(error.object and error.remedy for error in errors)


def test_without_servers_and_with_two_of_one_name() -> None:
    with pytest.raises(NotFound):
        route({"networks": [{"name": "lan", "mode": "isolated"}]}, {}, {})
    with pytest.raises(NotFound):
        route({"vms": [{"name": "a"}]}, {}, {})
    assert route({}, {}, {}) == {}
    with pytest.raises(Conflict) as raised:
        route({"vms": [{"name": "a", "server": "srv"}]}, {ONE: "srv", TWO: "srv"}, {})
    assert ONE in str(raised.value)


def test_an_invalid_document_is_told_as_ever() -> None:
    with pytest.raises(InvalidSpec) as raised:
        route({"vms": [{"name": "a", "cpu": 1, "server": "srv1"}]}, SERVERS, {})
    assert (raised.value.object, raised.value.field) == ("vm a", "cpu")


NAMES = st.sampled_from([f"n{number}" for number in range(8)])
WHERE = st.sampled_from([*SERVERS.values(), *IDS, "unknown"])
WHERES = st.sampled_from([*SERVERS.values(), *IDS, "unknown", "tag:ssd"])
ENTRIES: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "vms": st.fixed_dictionaries({"name": NAMES}, optional={"server": WHERE, "state": st.sampled_from(["running", "absent"])}),
    "networks": st.fixed_dictionaries({"name": NAMES, "mode": st.just("isolated")}, optional={"servers": st.lists(WHERES, max_size=3, unique=True)}),
    "isos": st.fixed_dictionaries({"name": NAMES, "image": st.just("main/i.iso")}, optional={"servers": st.lists(WHERES, max_size=3, unique=True)}),
    "servers": st.fixed_dictionaries({"name": st.sampled_from([*SERVERS.values(), "unknown"])}, optional={"tags": st.just(["ssd"])}),
}
DOCUMENTS = st.fixed_dictionaries({}, optional={section: st.lists(entry, max_size=4, unique_by=lambda one: one["name"]) for section, entry in ENTRIES.items()})
LOCATED = st.dictionaries(NAMES, st.lists(st.sampled_from(list(SERVERS)), max_size=2))


@given(document=DOCUMENTS, located=LOCATED, servers=st.sets(st.sampled_from(list(SERVERS))))
def test_every_object_goes_somewhere_or_is_refused_and_nothing_is_invented(document: dict[str, Any], located: dict[str, list[str]], servers: set[str]) -> None:
    known = {one: SERVERS[one] for one in SERVERS if one in servers}
    located = {name: [one for one in there if one in known] for name, there in located.items()}
    try:
        whole = routed(document, known, located)
    except DomusError as error:
        assert all(one.object and one.remedy for one in (error.errors if isinstance(error, Refused) else [error]))
        return
    parts_of = {one: dict(parts) for one, parts in whole.documents.items()}
    assert parts_of.keys() <= known.keys()
    for kind in KINDS:
        asked = {entry["name"]: entry for entry in document.get(kind.section, ())}
        got = [(one, entry) for one, parts in parts_of.items() for entry in parts.get(kind.section, ())]
        assert {entry["name"] for dummy, entry in got} == asked.keys()
        for dummy, entry in got:
            given_away, taken = ({key: value for key, value in one.items() if not key.startswith("server")} for one in (asked[entry["name"]], entry))
            assert given_away == taken
        assert len({(one, entry["name"]) for one, entry in got}) == len(got)
        if kind.name == "vm":
            assert len(got) == len(asked), "a VM goes to exactly one server"
            assert all([one] == list(dict.fromkeys(located[entry["name"]])) for one, entry in got if located.get(entry["name"]))
    assert all(len(parts) > 1 for parts in parts_of.values()), "nobody gets an empty document"
    for one, parts in parts_of.items():
        assert parse_document(parts, server=known[one]).objects == parse_document(parts).objects


def test_a_new_vm_that_names_no_server_is_placed_and_told_why() -> None:
    whole = routed({"vms": [{"name": "a", "memory": "1GiB"}, {"name": "b", "memory": "1GiB"}]}, SERVERS, {})
    assert {one: [vm["name"] for vm in part["vms"]] for one, part in whole.documents.items()} == {ONE: ["a"], TWO: ["b"]}
    assert whole.placements["a"].server == ONE and "least full of 3 servers" in whole.placements["a"].reason
    assert routed({"vms": [{"name": "a", "server": "srv1"}]}, SERVERS, {}).placements == {}


def test_objects_on_tags_go_to_all_that_have_them_and_the_document_may_give_them() -> None:
    servers = [*fleet({ONE: "srv1", TWO: "srv2"}), *fleet({THREE: "srv3"}, tags=frozenset({"dmz"}))]
    network = {"name": "lan", "mode": "isolated", "servers": ["tag:dmz", "srv3"]}
    assert placed({"networks": [network]}, servers) == {"srv3": ["lan"]}
    document = {"networks": [network], "servers": [{"name": "srv1", "tags": ["dmz"]}, {"name": "srv3", "tags": []}]}
    assert placed({"networks": [network], "servers": document["servers"][:1]}, servers) == {"srv1": ["srv1", "lan"], "srv3": ["lan"]}
    parts = route({**document, "networks": [{**network, "servers": ["tag:dmz"]}]}, servers, {})
    assert parts[ONE]["networks"][0]["servers"] == ["srv1"] and "networks" not in parts[THREE]


def test_without_a_manager_a_tag_means_what_the_document_says() -> None:
    document = {"servers": [{"name": "srv1", "tags": ["dmz"]}], "networks": [{"name": "lan", "mode": "isolated", "servers": ["tag:dmz"]}]}
    assert list(parse_document(document, server="srv1").wanted("network")) == ["lan"]
    assert list(parse_document(document, server="srv2").wanted("network")) == []


def test_a_vm_goes_only_where_what_it_needs_is_or_comes() -> None:
    vm = {"name": "a", "nics": [{"name": "eth0", "network": "lan"}]}
    there = [*fleet({ONE: "srv1", TWO: "srv2"}), *fleet({THREE: "srv3"}, offers=frozenset({("network", "lan")}))]
    assert placed({"vms": [vm]}, there) == {"srv3": ["a"]}
    network = {"name": "lan", "mode": "isolated"}
    assert placed({"vms": [vm], "networks": [network]}, there) == {"srv1": ["lan", "a"]}
    assert placed({"vms": [vm], "networks": [{**network, "servers": ["srv2"]}]}, fleet(SERVERS)) == {"srv2": ["lan", "a"]}
    with pytest.raises(NoCapacity) as raised:
        route({"vms": [vm], "networks": [{**network, "state": "absent"}]}, there, {})
    assert "has no network lan" in str(raised.value)


def test_vms_of_a_group_keep_apart_from_those_that_are_there_or_named() -> None:
    group = {"anti_affinity": ["db"]}
    document = {"vms": [{"name": "a", **group}, {"name": "b", "server": "srv2", **group}, {"name": "c", **group}]}
    assert placed(document, c=[ONE]) == {"srv1": ["c"], "srv2": ["b"], "srv3": ["a"]}
    with pytest.raises(Conflict) as raised:
        route({"vms": [{"name": "a", "server": "srv1", **group}, {"name": "b", "server": "srv1", **group}]}, SERVERS, {})
    assert "anti-affinity group db" in str(raised.value)
    assert placed({"vms": [{"name": "a", **group}, {"name": "b", **group}]}, a=[ONE], b=[ONE]) == {"srv1": ["a", "b"]}, "what is there stays"


def test_who_names_a_server_answers_for_its_room_but_not_for_its_maintenance() -> None:
    assert placed({"vms": [{"name": "a", "memory": "9GiB", "server": "srv1"}]}) == {"srv1": ["a"]}
    assert placed({"vms": [{"name": "a", "server": "srv1"}]}, fleet(SERVERS, closed="is offline")) == {"srv1": ["a"]}
    with pytest.raises(Conflict) as raised:
        route({"vms": [{"name": "a", "server": "srv1"}]}, fleet(SERVERS, closed=IN_MAINTENANCE), {})
    assert "may not be made on srv1: is in maintenance" in str(raised.value)
    assert placed({"vms": [{"name": "a"}]}, fleet(SERVERS, closed=IN_MAINTENANCE), a=[TWO]) == {"srv2": ["a"]}


def test_a_vm_that_is_nowhere_is_absent_already() -> None:
    assert placed({"vms": [{"name": "a", "state": "absent"}]}) == {"srv1": ["a"]}


def pooled(wanted: list[dict[str, Any]], **pools: list[str]) -> dict[str, list[tuple[str, Any]]]:
    """Per server name the pools that it gets, each with its state or its servers."""
    parts = route_whole({"server_pools": wanted}, fleet(SERVERS), {}, pools).documents
    return {SERVERS[one]: [(entry["name"], entry.get("state") or entry.get("servers")) for entry in part["server_pools"]] for one, part in parts.items()}


def test_a_pool_goes_to_its_servers_and_those_that_it_names_no_more_leave_it() -> None:
    wanted = [{"name": "rack1", "servers": ["srv1", TWO]}]
    assert pooled(wanted) == {"srv1": [("rack1", ["srv1", "srv2"])], "srv2": [("rack1", ["srv1", "srv2"])]}
    assert pooled(wanted, rack1=[ONE, THREE])["srv3"] == [("rack1", "absent")]


def test_a_pool_that_names_no_servers_goes_to_those_that_it_has() -> None:
    assert pooled([{"name": "rack1", "token": 2000}], rack1=[TWO]) == {"srv2": [("rack1", None)]}
    assert pooled([{"name": "rack1", "state": "absent"}], rack1=[TWO, THREE]) == {name: [("rack1", "absent")] for name in ("srv2", "srv3")}
    with pytest.raises(InvalidSpec) as told:
        pooled([{"name": "rack1"}])
    assert told.value.field == "servers"


def test_a_server_is_in_one_pool() -> None:
    twice = [{"name": "rack1", "servers": ["srv1"]}, {"name": "rack2", "servers": ["srv1"]}]
    for wanted, there in ((twice, {}), (twice[1:], {"rack1": [ONE]})):
        with pytest.raises(DomusError) as told:
            pooled(wanted, **there)
        assert "is in server pool rack" in str(told.value)
    moved = [{"name": "rack1", "servers": ["srv2"]}, {"name": "rack2", "servers": ["srv1"]}]
    assert pooled(moved, rack1=[ONE, TWO])["srv1"] == [("rack2", ["srv1"]), ("rack1", "absent")]
    ended = [{"name": "rack1", "state": "absent"}, {"name": "rack2", "servers": ["srv1"]}]
    assert pooled(ended, rack1=[ONE]) == {"srv1": [("rack1", "absent"), ("rack2", ["srv1"])]}


def test_a_policy_keeps_its_spare_room_from_the_document_on_that_brings_it() -> None:
    """Two servers of 4 GiB of which one may die: the third new VM of 2 GiB has no place."""
    two = {ONE: "srv1", TWO: "srv2"}
    pool = {"name": "rack1", "servers": ["srv1", "srv2"], "clustered": False, "policy": {"spare_servers": 1}}
    vms = [{"name": name, "memory": "2GiB"} for name in "abc"]
    assert route({"vms": vms}, two, {})
    with pytest.raises(NoCapacity, match="room is kept for the loss of a server"):
        route({"server_pools": [pool], "vms": vms}, two, {})
    assert route({"server_pools": [pool], "vms": vms[:2]}, two, {})
    kept = fleet(two, pool="rack1", spare_servers=1)
    assert route({"server_pools": [{**pool, "policy": {"spare_servers": 0}}], "vms": vms}, kept, {}), "and no more from the one on that gives it up"
