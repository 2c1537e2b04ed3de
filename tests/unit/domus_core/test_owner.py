"""Whose a server is: free, marked, and damaged marks, which are never taken for free."""

from __future__ import annotations

from pathlib import Path

import pytest
from domus_core.errors import DomusError, DriverError, OwnedByManager
from domus_core.owner import FILE, mark, owner, require_free, unmark


def test_a_server_is_free_until_it_is_marked(tmp_path: Path) -> None:
    directory = str(tmp_path / "not" / "there")
    assert owner(directory) is None
    require_free(directory)
    unmark(directory)
    mark(directory, "m1", "https://manager.example.org:7002")
    assert owner(directory) == {"manager": "m1", "url": "https://manager.example.org:7002"}
    with pytest.raises(OwnedByManager) as raised:
        require_free(directory)
    assert raised.value.code == "owned_by_manager" and "https://manager.example.org:7002" in str(raised.value) and raised.value.remedy
    mark(directory, "m2", "https://other")
    assert owner(directory) == {"manager": "m2", "url": "https://other"}
    unmark(directory)
    assert owner(directory) is None and list(Path(directory).iterdir()) == []


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"manager": 5}', "\udcff", '{"manager": "m"'])
def test_a_damaged_mark_is_not_free(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_bytes(text.encode(errors="surrogateescape"))
    for ask in (owner, require_free):
        with pytest.raises(DriverError) as raised:
            ask(str(tmp_path))
        assert raised.value.remedy


def test_a_directory_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / FILE).mkdir()
    for act in (lambda: mark(str(tmp_path / "file"), "m", "u"), lambda: mark(str(tmp_path), "m", "u"), lambda: unmark(str(tmp_path))):
        with pytest.raises(DomusError):
            act()
