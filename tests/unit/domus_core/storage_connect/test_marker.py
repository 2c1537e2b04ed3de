"""A shared repository is one and the same for all who see it, and nobody else's files become one."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from domus_core.errors import DomusError
from domus_core.storage_connect import marker
from domus_core.storage_connect.marker import MARKER, claimed, read_marker


def test_all_who_ask_at_once_get_the_same(tmp_path: Path) -> None:
    for round in range(20):
        root = tmp_path / str(round)
        root.mkdir()
        with ThreadPoolExecutor(8) as pool:
            told = set(pool.map(lambda path: claimed(path, "paris", "nas", read_only=False), [str(root)] * 8))
        assert len(told) == 1 and told == {read_marker(str(root))["uuid"]}  # type: ignore[index]
        assert os.listdir(root / ".domus") == ["repository.json"]


def test_each_repository_is_another(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    assert claimed(str(tmp_path / "a"), "paris", "nas", read_only=False) != claimed(str(tmp_path / "b"), "paris", "nas", read_only=False)


@pytest.mark.parametrize(("site", "name"), [("paris", "other"), ("rome", "nas")])
def test_it_has_one_name(site: str, name: str, tmp_path: Path) -> None:
    claimed(str(tmp_path), "paris", "nas", read_only=False)
    with pytest.raises(DomusError, match="is repository nas of site paris already"):
        claimed(str(tmp_path), site, name, read_only=False)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(DomusError, match="holiday.jpg"):
        claimed(str(tmp_path), "paris", "nas", read_only=False)
    assert sorted(os.listdir(tmp_path)) == ["holiday.jpg", "lost+found"]


def test_what_a_pool_keeps_there_is_not_foreign(tmp_path: Path) -> None:
    """virtlockd makes its folder as soon as it is told where."""
    for folder in ("records", "lockspace"):
        (tmp_path / folder).mkdir()
    assert claimed(str(tmp_path), "paris", "nas", read_only=False)


def test_what_was_half_made_goes_on(tmp_path: Path) -> None:
    for folder in (".domus", "VirtualDisks", "lost+found"):
        (tmp_path / folder).mkdir()
    assert claimed(str(tmp_path), "paris", "nas", read_only=False)


def test_read_only_uses_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(DomusError, match="can not become one read-only"):
        claimed(str(tmp_path), "paris", "nas", read_only=True)
    uuid = claimed(str(tmp_path), "paris", "nas", read_only=False)
    assert claimed(str(tmp_path), "paris", "nas", read_only=True) == uuid


def test_a_squashed_root_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marker.os, "geteuid", lambda: 12345)
    with pytest.raises(DomusError) as caught:
        claimed(str(tmp_path), "paris", "nas", read_only=False)
    assert "no_root_squash" in caught.value.remedy and os.listdir(tmp_path / ".domus") == []


@pytest.mark.parametrize("text", ["", "[]", '{"uuid": "x"}', "\xff"])
def test_a_damaged_one_is_told(text: str, tmp_path: Path) -> None:
    (tmp_path / ".domus").mkdir()
    (tmp_path / MARKER).write_bytes(text.encode("latin-1"))
    with pytest.raises(DomusError, match="is damaged"):
        claimed(str(tmp_path), "paris", "nas", read_only=False)


def test_what_is_in_it(tmp_path: Path) -> None:
    uuid = claimed(str(tmp_path), "paris", "nas", read_only=False)
    assert json.loads((tmp_path / MARKER).read_text()) == {"uuid": uuid, "site": "paris", "name": "nas"}
