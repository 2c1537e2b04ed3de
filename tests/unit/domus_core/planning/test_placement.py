"""Which server gets which objects: every object goes somewhere or is refused, and nothing is invented."""

from __future__ import annotations

from typing import Any

import pytest
from domus_core.errors import Conflict, DomusError, InvalidSpec, NotFound, Refused
from domus_core.model.document import parse_document
from domus_core.model.kinds import KINDS
from domus_core.planning.placement import route
from hypothesis import given
from hypothesis import strategies as st

IDS = [f"00000000-0000-4000-8000-00000000000{number}" for number in range(4)]
ONE, TWO, THREE = IDS[:3]
SERVERS = {ONE: "srv1", TWO: "srv2", THREE: "srv3"}


def placed(document: dict[str, Any], servers: dict[str, str] = SERVERS, **located: list[str]) -> dict[str, list[str]]:
    """Per server name the objects that it gets."""
    routed = route(document, servers, located)
    return {servers[one]: [entry["name"] for section in parts if section != "site" for entry in parts[section]] for one, parts in routed.items()}


def test_a_vm_goes_where_it_is_and_a_new_one_where_it_says() -> None:
    document = {"vms": [{"name": "a", "server": "srv1"}, {"name": "b", "server": "srv2"}, {"name": "c", "server": TWO}]}
    assert placed(document, a=[THREE]) == {"srv3": ["a"], "srv2": ["b", "c"]}


def test_what_a_document_says_of_servers_is_understood_where_it_goes() -> None:
    document = {"vms": [{"name": "a", "server": "srv1"}, {"name": "c", "server": TWO}], "isos": [{"name": "i", "image": "main/i.iso", "servers": [TWO]}]}
    routed = route(document, SERVERS, {"a": [THREE]})
    assert routed[THREE]["vms"] == [{"name": "a", "server": "srv3"}]
    assert routed[TWO]["vms"] == [{"name": "c", "server": "srv2"}] and routed[TWO]["isos"][0]["servers"] == ["srv2"]
    for one, parts in routed.items():
        assert parse_document(parts, server=SERVERS[one]).objects == parse_document(parts).objects
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
        ({"vms": [{"name": "a"}]}, {}, InvalidSpec, "vm a server"),
        ({"vms": [{"name": "a"}]}, {"a": [ONE, TWO]}, Conflict, "srv1 and srv2"),
        ({"vms": [{"name": "a", "server": "srv11"}]}, {}, NotFound, "Did you mean srv1"),
        ({"vms": [{"name": "a", "server": "x"}]}, {}, NotFound, "srv1, srv2, srv3"),
        ({"servers": [{"name": "other"}]}, {}, NotFound, "server other"),
        ({"isos": [{"name": "i", "image": "main/i.iso", "servers": ["srv1", "no"]}]}, {}, NotFound, "iso i"),
        ({"isos": [{"name": "i", "image": "main/i.iso", "servers": []}]}, {}, InvalidSpec, "names no server"),
        ({"vms": [{"name": "a"}, {"name": "b"}]}, {}, Refused, "vm b"),
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
ENTRIES: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "vms": st.fixed_dictionaries({"name": NAMES}, optional={"server": WHERE, "state": st.sampled_from(["running", "absent"])}),
    "networks": st.fixed_dictionaries({"name": NAMES, "mode": st.just("isolated")}, optional={"servers": st.lists(WHERE, max_size=3, unique=True)}),
    "isos": st.fixed_dictionaries({"name": NAMES, "image": st.just("main/i.iso")}, optional={"servers": st.lists(WHERE, max_size=3, unique=True)}),
    "servers": st.fixed_dictionaries({"name": st.sampled_from([*SERVERS.values(), "unknown"])}),
}
DOCUMENTS = st.fixed_dictionaries({}, optional={section: st.lists(entry, max_size=4, unique_by=lambda one: one["name"]) for section, entry in ENTRIES.items()})
LOCATED = st.dictionaries(NAMES, st.lists(st.sampled_from(list(SERVERS)), max_size=2))


@given(document=DOCUMENTS, located=LOCATED, servers=st.sets(st.sampled_from(list(SERVERS))))
def test_every_object_goes_somewhere_or_is_refused_and_nothing_is_invented(document: dict[str, Any], located: dict[str, list[str]], servers: set[str]) -> None:
    known = {one: SERVERS[one] for one in SERVERS if one in servers}
    located = {name: [one for one in there if one in known] for name, there in located.items()}
    try:
        routed = route(document, known, located)
    except DomusError as error:
        assert all(one.object and one.remedy for one in (error.errors if isinstance(error, Refused) else [error]))
        return
    assert routed.keys() <= known.keys()
    for kind in KINDS:
        asked = {entry["name"]: entry for entry in document.get(kind.section, ())}
        got = [(one, entry) for one, parts in routed.items() for entry in parts.get(kind.section, ())]
        assert {entry["name"] for dummy, entry in got} == asked.keys()
        for dummy, entry in got:
            given_away, taken = ({key: value for key, value in one.items() if not key.startswith("server")} for one in (asked[entry["name"]], entry))
            assert given_away == taken
        assert len({(one, entry["name"]) for one, entry in got}) == len(got)
        if kind.name == "vm":
            assert len(got) == len(asked), "a VM goes to exactly one server"
            assert all([one] == list(dict.fromkeys(located[entry["name"]])) for one, entry in got if located.get(entry["name"]))
    assert all(len(parts) > 1 for parts in routed.values()), "nobody gets an empty document"
    for one, parts in routed.items():
        assert parse_document(parts, server=known[one]).objects == parse_document(parts).objects
