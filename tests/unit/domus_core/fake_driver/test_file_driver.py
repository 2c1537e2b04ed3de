"""The server in a file: kept from one run to the next, held by one apply at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
from domus_core.engine import apply
from domus_core.errors import Busy, InvalidSpec
from domus_core.fake_driver.file_driver import FileDriver, open_file_driver
from domus_core.model.document import Site, parse_document

CANARY = "canary-1f2e"
SITE = parse_document(
    {
        "networks": [{"name": "lan", "subnet": "192.0.2.0/24", "dhcp": {"start": "192.0.2.100", "end": "192.0.2.200"}}],
        "vms": [{"name": "web1", "nics": [{"name": "eth0", "network": "lan"}], "cloud_init": {"user_data": CANARY}, "state": "running"}],
    }
)


def opened(directory: Path) -> FileDriver:
    return open_file_driver(f"fake://{directory}/server.json")


def test_what_was_applied_is_there_in_the_next_run(tmp_path: Path) -> None:
    assert apply(SITE, opened(tmp_path)).changed
    assert not apply(SITE, opened(tmp_path)).changed
    assert CANARY not in (tmp_path / "server.json").read_text()


def test_check_mode_makes_no_file(tmp_path: Path) -> None:
    assert apply(SITE, opened(tmp_path), check=True).changed
    assert not (tmp_path / "server.json").exists()


def test_a_running_vm_has_an_address_of_its_network(tmp_path: Path) -> None:
    (result,) = [one for one in apply(SITE, opened(tmp_path), wait_for_address=5).results if one.kind == "vm"]
    assert result.found is not None and result.found.state.addresses == ("192.0.2.100",)
    assert opened(tmp_path).addresses("web2") == ()


def test_an_apply_that_is_held_up_reads_what_the_other_wrote(tmp_path: Path) -> None:
    early, late = opened(tmp_path), opened(tmp_path)
    apply(SITE, early)
    assert not apply(SITE, late).changed


def test_a_held_server_is_busy(tmp_path: Path) -> None:
    with opened(tmp_path).locked([], [], patience=0), pytest.raises(Busy):
        apply(SITE, opened(tmp_path), patience=0)


def test_a_changed_seed_image_waits_for_a_restart_in_the_next_run_too(tmp_path: Path) -> None:
    apply(SITE, opened(tmp_path))
    other = parse_document({"vms": [{"name": "web1", "cloud_init": {"user_data": f"other {CANARY}"}}]})
    for _run in range(2):
        (result,) = apply(other, opened(tmp_path)).results
        assert result.restart_required == ("cloud_init",)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 99}', '{"format": 1}'])
def test_a_damaged_file_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "server.json").write_text(text)
    with pytest.raises(InvalidSpec):
        opened(tmp_path).read(Site("default", {}))
