"""Settings in libvirt's files: what was asked for stands there once, everything else as before."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.module_utils.libvirt_settings import edited

FILE = """\
# Some words about max_clients = many
#max_clients = 5000
#  spaced = 1
unix_sock_group = "libvirt"
tls_allowed_dn_list = ["DN1",
   "DN2"]
"""


@pytest.mark.parametrize(
    ("settings", "line", "changed"),
    [
        ({"max_clients": 7}, "max_clients = 7", ["max_clients"]),
        ({"unix_sock_group": "libvirt"}, 'unix_sock_group = "libvirt"', []),
        ({"unix_sock_group": "wheel"}, 'unix_sock_group = "wheel"', ["unix_sock_group"]),
        ({"tls_allowed_dn_list": ["O=Domus,CN=?"]}, 'tls_allowed_dn_list = ["O=Domus,CN=?"]', ["tls_allowed_dn_list"]),
        ({"spaced": True}, "spaced = 1", ["spaced"]),
        ({"new": False}, "new = 0", ["new"]),
    ],
)
def test_a_setting_stands_there_once(settings: dict[str, Any], line: str, changed: list[str]) -> None:
    after, names = edited(FILE, settings)
    assert names == changed
    assert after.splitlines().count(line) == 1
    assert edited(after, settings) == (after, [])


def test_what_was_commented_out_stays_above_and_none_is_left_alone() -> None:
    after, names = edited(FILE, {"max_clients": 7, "unix_sock_group": None})
    assert "#max_clients = 5000\nmax_clients = 7\n" in after
    assert after.replace("max_clients = 7\n", "", 1) == FILE and names == ["max_clients"]


def test_a_list_over_lines_and_a_second_line_go_as_a_whole() -> None:
    after, dummy = edited(FILE + "max_clients = 1\nmax_clients = 2\n", {"tls_allowed_dn_list": ["x"], "max_clients": 3})
    assert "DN2" not in after and after.count("\nmax_clients =") == 1 and "max_clients = 3" in after


@pytest.mark.parametrize("settings", [{"Bad name": 1}, {"a": 'say "x"'}, {"a": "two\nlines"}, {"a": 1.5}, {"a": [1]}, {"a": {"b": "c"}}])
def test_what_libvirt_could_not_read_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        edited(FILE, settings)


NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
VALUES = st.one_of(st.integers(-5, 10**6), st.booleans(), st.text("abc=#[], .*", max_size=8), st.lists(st.text("xyz,]", max_size=4), max_size=3))
LINES = st.lists(st.one_of(st.just("# words"), st.builds(lambda name, mark: f"{mark}{name} = 5", NAMES, st.sampled_from(["", "#", "  "]))), max_size=8)


@given(LINES, st.dictionaries(NAMES, VALUES, max_size=4))
def test_twice_is_once_and_others_lines_stay(lines: list[str], settings: dict[str, Any]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    after, dummy = edited(text, settings)
    assert edited(after, settings) == (after, [])
    kept = [line for line in lines if line.startswith("#") or line.split(" =")[0].strip() not in settings]
    assert [line for line in after.splitlines() if line in kept] == kept or all(line in after.splitlines() for line in kept)
