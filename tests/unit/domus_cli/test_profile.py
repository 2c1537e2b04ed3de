"""Where the manager is, and who we are."""

from __future__ import annotations

from pathlib import Path

import pytest
from domus_cli.profile import DEFAULT_URL, Profile, load_profile, profile_path, save_profile
from domus_core.errors import InvalidSpec


def test_without_a_file_the_local_manager_is_meant(tmp_path: Path) -> None:
    assert load_profile({"HOME": str(tmp_path)}) == Profile(DEFAULT_URL, "", None)


def test_what_was_saved_is_loaded_and_private(tmp_path: Path) -> None:
    path = profile_path({"HOME": str(tmp_path)})
    for token in ("first", "second"):
        save_profile(Profile("https://m:7002", token, "/ca.pem"), path)
    assert load_profile({"HOME": str(tmp_path)}) == Profile("https://m:7002", "second", "/ca.pem")
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_environment_goes_first(tmp_path: Path) -> None:
    kept = tmp_path / "kept.yml"
    save_profile(Profile("https://m:7002", "kept", None), kept)
    environment = {"DOMUS_CONFIG": str(kept), "DOMUS_TOKEN": "other", "DOMUS_CA": "/other.pem"}
    assert load_profile(environment) == Profile("https://m:7002", "other", "/other.pem")


@pytest.mark.parametrize("text", ["- a list", "url: x\nunknown: y\n", "{"])
def test_a_damaged_file_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yml"
    path.write_text(text)
    with pytest.raises(InvalidSpec):
        load_profile({"DOMUS_CONFIG": str(path)})


def test_a_token_is_sent_to_no_other_manager_and_never_unencrypted(tmp_path: Path) -> None:
    kept = tmp_path / "kept.yml"
    save_profile(Profile("https://m:7002", "kept", "/ca.pem"), kept)
    assert load_profile({"DOMUS_CONFIG": str(kept), "DOMUS_URL": "https://other:7002"}) == Profile("https://other:7002", "", None)
    with pytest.raises(InvalidSpec, match="unencrypted"):
        load_profile({"DOMUS_CONFIG": str(kept), "DOMUS_URL": "http://m:7002"})
