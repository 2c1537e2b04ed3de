"""Random sites: what is not refused is idempotent, survives interruption, and is told truly by check mode."""

from __future__ import annotations

import json
from typing import Any

from domus_core.documents import load_document
from domus_core.engine import apply
from domus_core.errors import DomusError, Refused
from domus_core.fake_driver.driver import FakeDriver
from domus_core.model.document import Site, parse_document
from domus_core.model.kinds import BY_SECTION
from domus_core.model.server import ServerState
from domus_core.model.snapshot import ImageFile, Snapshot
from domus_core.planning.reconcile import plan
from domus_core.rendering import render_plan
from domus_core.snapshots import dump_snapshot, load_snapshot
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from tests.scenarios.harness import assert_survives_interruption, end_of, told
from tests.unit.domus_core.strategies import FILES, damaged_documents, documents, json_values

QUICK = settings(max_examples=100, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink], suppress_health_check=list(HealthCheck))
IMAGES = {f"main/{folder}/{file.split('/')[1]}": ImageFile("qcow2", 1 << 30) for folder in ("Templates", "ISOs") for file in FILES}
BASE: dict[str, Any] = {
    "site": "paris",
    "networks": [{"name": "lan", "subnet": "192.0.2.0/24"}, {"name": "dmz", "mode": "isolated"}],
    "repositories": [{"name": "main", "path": "/srv/main"}],
    "templates": [{"name": "debian", "image": "main/one.qcow2"}],
    "isos": [{"name": "rescue", "image": "main/two.qcow2"}],
    "virtual_disks": [{"name": "shared", "repository": "main", "size": 1 << 30, "format": "raw", "shareable": True}],
    "vms": [{"name": "a", "state": "running", "disks": [{"name": "a", "repository": "main", "size": 1 << 30}], "nics": [{"name": "a", "network": "lan"}]}],
}


def started() -> FakeDriver:
    """A server with a few objects."""
    driver = FakeDriver(Snapshot(ServerState(virtualization="qemu"), {}, IMAGES))
    assert not apply(parse_document(BASE), driver).errors
    return driver


def accepted(document: dict[str, Any], snapshot: Snapshot) -> Site:
    """The document without the objects that are refused, so that most random documents leave something to do."""
    while True:
        try:
            site = parse_document(document)
            plan(site, snapshot)
            return site
        except DomusError as error:
            event(f"refused: {error.code}")
            assert json.dumps(error.as_dict(), allow_nan=False) and str(error)
            refused = {problem.object for problem in (error.errors if isinstance(error, Refused) else [error])}
            less = {section: _without(entries, section, refused) for section, entries in document.items()}
            assert less != document, f"a refusal that names no object of the document: {error}"
            document = less


def _without(entries: Any, section: str, refused: set[str]) -> Any:
    if not isinstance(entries, list):
        return entries
    kind = BY_SECTION[section].name
    keys = [f"{entry['repository']}/{entry['name']}" if kind == "virtual_disk" else entry["name"] for entry in entries]
    return [entry for entry, key in zip(entries, keys) if not {f"{kind} {key}", f"{kind} {entry['name']}"} & refused]


@QUICK
@given(documents(), documents())
def test_documents_one_after_the_other(first: dict[str, Any], second: dict[str, Any]) -> None:
    driver = started()
    for document in (first, second):
        site = accepted(document, driver.snapshot)
        planned = plan(site, driver.snapshot)
        event("planned" if planned.steps else "nothing to do")
        assert render_plan(planned) and json.dumps(planned.as_dict(), allow_nan=False)
        assert_survives_interruption(site, driver.snapshot)
        predicted = told(apply(site, driver, check=True))
        report = apply(site, driver)
        assert not report.errors
        assert told(report) == predicted
        assert not apply(site, driver).changed
        assert end_of(load_snapshot(dump_snapshot(driver.snapshot))) == end_of(driver.snapshot)


@QUICK
@given(damaged_documents() | json_values())
def test_nothing_but_a_domus_error(document: Any) -> None:
    try:
        plan(parse_document(document), started().snapshot)
    except DomusError as error:
        assert json.dumps(error.as_dict(), allow_nan=False) and str(error).encode("utf-8", "backslashreplace")


@QUICK
@given(
    st.text(max_size=200)
    | st.binary(max_size=200).map(lambda data: data.decode("latin-1"))
    | st.text("{}[]:,-&*!|>'\"%@`#?\n\t abc<~=0123456789.", max_size=60)
)
def test_any_text_is_a_document_or_refused(text: str) -> None:
    try:
        parse_document(load_document(text))
    except DomusError as error:
        assert json.dumps(error.as_dict(), allow_nan=False) and str(error)


@QUICK
@given(
    json_values()
    | st.dictionaries(st.sampled_from(["format", "server", "objects", "files"]), json_values())
    | st.fixed_dictionaries(
        {
            "format": st.just(1),
            "server": st.just({}),
            "objects": st.dictionaries(st.sampled_from(["vm", "network", "x"]), json_values()),
            "files": json_values(),
        }
    )
)
def test_any_snapshot_is_read_or_refused(data: Any) -> None:
    try:
        text = json.dumps(data)
    except (TypeError, ValueError):
        return
    try:
        plan(parse_document(BASE), load_snapshot(text))
    except DomusError as error:
        assert error.code
