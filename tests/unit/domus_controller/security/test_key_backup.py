"""The keys of a manager in a file: what goes in comes out, with the passphrase alone, and nothing is lost on the way."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from domus_controller.security.authority import Authority
from domus_controller.security.key_backup import export_keys, import_keys, read_keys
from domus_controller.security.sealing import Sealing
from domus_core.errors import Conflict, DriverError, InvalidSpec, NotFound, Unauthorized

MANAGER, PASSPHRASE = "33333333-3333-4333-8333-333333333333", "correct horse battery"


def manager(directory: Path) -> Authority:
    made = Authority(directory)
    made.ensure()
    Sealing(directory)
    return made


def test_a_new_machine_gets_the_same_keys(tmp_path: Path) -> None:
    old = manager(tmp_path / "old")
    old.revoke_libvirt(["abc"])
    sealed = Sealing(tmp_path / "old").seal(b"kept")
    export_keys(tmp_path / "old", MANAGER, PASSPHRASE, tmp_path / "keys")
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o600
    assert "PRIVATE" not in (tmp_path / "keys").read_text()
    found = read_keys(tmp_path / "keys", PASSPHRASE)
    assert found["manager"] == MANAGER
    assert import_keys(tmp_path / "new", found["files"]) is None
    new = manager(tmp_path / "new")
    assert (new.servers_ca_pem, new.libvirt_ca_pem, new.web_ca_pem, new.people_ca_pem) == (
        *(old.servers_ca_pem, old.libvirt_ca_pem, old.web_ca_pem, old.people_ca_pem),
    )
    assert new.libvirt_crl() == old.libvirt_crl()
    assert Sealing(tmp_path / "new").open(sealed) == b"kept"
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").glob("*.key")}.popitem()[1] == 0o600


def test_other_keys_are_replaced_on_request_only_and_kept(tmp_path: Path) -> None:
    old, other = manager(tmp_path / "old"), manager(tmp_path / "other")
    before = other.servers_ca_pem
    export_keys(tmp_path / "old", MANAGER, PASSPHRASE, tmp_path / "keys")
    files = read_keys(tmp_path / "keys", PASSPHRASE)["files"]
    with pytest.raises(Conflict, match="authorities of its own"):
        import_keys(tmp_path / "other", files)
    assert other.servers_ca_pem == before
    aside = import_keys(tmp_path / "other", files, replace=True)
    assert aside is not None
    assert (aside / "servers.crt").read_text() == before
    assert other.servers_ca_pem == old.servers_ca_pem
    assert import_keys(tmp_path / "other", files) is None, "the same again changes nothing"


@pytest.mark.parametrize(
    ("content", "error"),
    [(None, NotFound), ("", DriverError), ("{}", DriverError), ('{"format": "domus-keys", "version": 2}', DriverError)],
)
def test_what_is_no_such_file_is_refused(tmp_path: Path, content: str, error: type[Exception]) -> None:
    if content is not None:
        (tmp_path / "keys").write_text(content)
    with pytest.raises(error):
        read_keys(tmp_path / "keys", PASSPHRASE)


def test_a_passphrase_must_be_right_and_long(tmp_path: Path) -> None:
    manager(tmp_path / "old")
    with pytest.raises(InvalidSpec, match="too short"):
        export_keys(tmp_path / "old", MANAGER, "short", tmp_path / "keys")
    export_keys(tmp_path / "old", MANAGER, PASSPHRASE, tmp_path / "keys")
    with pytest.raises(Conflict):
        export_keys(tmp_path / "old", MANAGER, PASSPHRASE, tmp_path / "keys")
    with pytest.raises(Unauthorized, match="passphrase is wrong"):
        read_keys(tmp_path / "keys", PASSPHRASE + "!")
