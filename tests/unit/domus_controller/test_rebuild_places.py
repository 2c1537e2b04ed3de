"""Where a rebuild looks for servers."""

from __future__ import annotations

import argparse
import ipaddress
from pathlib import Path

import pytest
from domus_controller.rebuild_places import MOST_ADDRESSES, Place, add_arguments, addresses_of, places_of
from domus_core.errors import DomusError, DriverError, InvalidSpec
from hypothesis import given
from hypothesis import strategies as st

SECRET = "ab" * 32 + ":" + "cd" * 16


def places(*words: str) -> list[Place]:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return places_of(parser.parse_args(words))


def test_addresses_with_and_without_a_port() -> None:
    told = places("--from-servers", "192.0.2.1", "srv1.example.org:8900", "2001:db8::1", "[2001:db8::2]:9", "[2001:db8::3]", "--port", "7")
    assert [(one.address, one.port) for one in told] == [
        ("192.0.2.1", 7),
        ("srv1.example.org", 8900),
        ("2001:db8::1", 7),
        ("2001:db8::2", 9),
        ("2001:db8::3", 7),
    ]


@pytest.mark.parametrize("wrong", ["", ":1", "host:0", "host:x", "host:65536", "[::1", "[::1]x"])
def test_what_is_no_address_is_told(wrong: str) -> None:
    with pytest.raises(InvalidSpec):
        places("--from-servers", wrong)


def test_ranges() -> None:
    assert addresses_of("192.0.2.0/30") == ["192.0.2.1", "192.0.2.2"]
    assert addresses_of("192.0.2.9-192.0.2.11") == ["192.0.2.9", "192.0.2.10", "192.0.2.11"]
    assert addresses_of("192.0.2.7/32") == ["192.0.2.7"]


@pytest.mark.parametrize(
    "wrong", ["", "x", "192.0.2.0/33", "192.0.2.9-192.0.2.8", "192.0.2.1-2001:db8::1", "10.0.0.0/8", "2001:db8::/64", "0.0.0.0-9.0.0.0", "a-b"]
)
def test_a_range_that_is_none_or_too_large_is_told(wrong: str) -> None:
    with pytest.raises(InvalidSpec):
        addresses_of(wrong)


@given(st.ip_addresses(v=4), st.integers(0, 5000))
def test_a_range_has_all_its_addresses_in_order(first: ipaddress.IPv4Address, more: int) -> None:
    last = int(first) + more
    text = f"{first}-{ipaddress.ip_address(last)}" if last < 1 << 32 else f"{first}-{first}"
    try:
        found = addresses_of(text)
    except InvalidSpec:
        assert more >= MOST_ADDRESSES
        return
    numbers = [int(ipaddress.ip_address(one)) for one in found]
    assert numbers == list(range(int(first), numbers[-1] + 1)) and 0 < len(numbers) <= MOST_ADDRESSES


@given(st.text(max_size=40))
def test_any_text_is_a_range_or_is_told(text: str) -> None:
    try:
        assert addresses_of(text)
    except InvalidSpec:
        pass


def test_secrets_are_read_and_never_shown(tmp_path: Path) -> None:
    file = tmp_path / "secrets"
    file.write_text(f"# rack 1\n\nsrv1 192.0.2.1 {SECRET}\n- 192.0.2.2:9  {SECRET}  # keeps its name\n")
    told = places("--secrets", str(file))
    assert [(one.name, one.address, one.port, one.secret) for one in told] == [("srv1", "192.0.2.1", 8899, SECRET), (None, "192.0.2.2", 9, SECRET)]
    assert "cdcd" not in repr(told)


@pytest.mark.parametrize("line", ["srv1", "srv1 192.0.2.1", f"srv1 192.0.2.1 {SECRET} more", "srv1 192.0.2.1 secret", f"srv1 [ {SECRET}"])
def test_a_wrong_line_is_named_without_what_is_in_it(tmp_path: Path, line: str) -> None:
    file = tmp_path / "secrets"
    file.write_text(f"ok 192.0.2.9 {SECRET}\n{line}\n")
    with pytest.raises(DomusError) as caught:
        places("--secrets", str(file))
    assert "line 2" in str(caught.value) and "cdcd" not in str(caught.value)


def test_an_inventory_of_ansible(tmp_path: Path) -> None:
    file = tmp_path / "hosts.yml"
    file.write_text(
        "all:\n  children:\n    servers:\n      children:\n        rack1:\n          hosts:\n            srv1: {ansible_host: 192.0.2.1}\n            srv2:\n"
        "    others:\n      hosts:\n        nas:\n"
    )
    assert places("--inventory", str(file), "--group", "servers") == [Place("192.0.2.1", 8899, "srv1"), Place("srv2", 8899, "srv2")]
    assert [one.name for one in places("--inventory", str(file))] == ["nas", "srv1", "srv2"]
    with pytest.raises(InvalidSpec):
        places("--inventory", str(file), "--group", "nobody")
    with pytest.raises(DomusError):
        places("--inventory", str(tmp_path / "nowhere"))
    with pytest.raises(DriverError):
        places("--secrets", str(tmp_path / "nowhere"))
