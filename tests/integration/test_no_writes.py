"""An apply that changes nothing makes no call of libvirt that could."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from domus_core.engine import apply
from domus_core.libvirt_driver.driver import open_driver
from domus_core.model.document import parse_document

from tests.bench.sites import definitions, document, seeded_uri
from tests.support.libvirt_calls import recorded_calls, writes

pytestmark = pytest.mark.libvirt
VMS = 3


def calls_of(directory: Path, *, check: bool = False, **fields: object) -> Counter[str]:
    """The calls for the document, with these fields in its first VM, on a server that matches it without them."""
    wanted = document(VMS)
    uri = seeded_uri(directory / "seed.xml", definitions(VMS, directory / "state"))
    wanted["vms"][0].update(fields)
    with recorded_calls() as calls:
        driver = open_driver(uri, str(directory / "state"))
        try:
            report = apply(parse_document(wanted), driver, check=check)
        finally:
            driver.close()
    assert report.errors == [] and report.changed == bool(fields)
    return calls


def test_the_same_document_again_writes_nothing(tmp_path: Path) -> None:
    calls = calls_of(tmp_path)
    assert calls["virDomainGetXMLDesc"] >= VMS, "the calls were not seen"
    assert writes(calls) == {}


def test_check_mode_writes_nothing(tmp_path: Path) -> None:
    assert writes(calls_of(tmp_path, check=True, memory="1GiB", state="running")) == {}


def test_a_change_is_seen_as_a_write(tmp_path: Path) -> None:
    assert writes(calls_of(tmp_path, memory="1GiB", state="running")) == {"virDomainDefineXML": 1, "virDomainCreate": 1}
