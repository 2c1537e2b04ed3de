"""The command domus-manager, each command as a person runs it."""

from __future__ import annotations

import io
import json
import os
import pwd
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from domus_controller.__main__ import main
from domus_controller.deployment import nginx_command
from domus_controller.security import passwords
from domus_controller.store import servers, tokens, users
from domus_controller.store.database import Store
from domus_controller.store.guard import Guard

from tests.support.stack import install

ACCOUNT = pwd.getpwnam("proxy")


class Machine:
    """A configuration, and what its commands say."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory, self._capsys = directory, capsys
        directory.mkdir(exist_ok=True)
        self.configuration = directory / "manager.yml"
        data = {"directory": str(directory / "state"), "run_directory": str(directory / "run"), "web_port": 17002, "web_address": "127.0.0.1"}
        self.configuration.write_text(json.dumps(data))

    def run(self, *words: str, expected: int = 0) -> str:
        """What a command says; its exit code must be the expected one."""
        assert main(["--config", str(self.configuration), *words]) == expected
        told = self._capsys.readouterr()
        return told.out if expected == 0 else told.out + told.err

    def store(self) -> Store:
        """Its database."""
        return Store(self.directory / "state")


@pytest.fixture
def machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Machine:
    return Machine(tmp_path, capsys)


def test_init_shows_the_first_password_once(machine: Machine) -> None:
    told = machine.run("init")
    password = told.split("password: ")[1].strip()
    assert len(password) >= 20
    store = machine.store()
    try:
        assert passwords.verify(store.row("SELECT password FROM users")["password"], password)  # type: ignore[index]
        assert users.find(store, "admin")["role"] == "administrator"
    finally:
        store.close()
    assert "password" not in machine.run("init")
    assert (machine.directory / "state/web-ca.pem").read_text().startswith("-----BEGIN CERTIFICATE")
    for path in machine.directory.rglob("*"):
        assert not path.is_file() or password.encode() not in path.read_bytes(), path


def test_keys_are_for_their_owner_alone(machine: Machine) -> None:
    machine.run("init")
    keys = list((machine.directory / "state").glob("*.key"))
    assert keys and all(path.stat().st_mode & 0o077 == 0 for path in keys)
    assert (machine.directory / "state").stat().st_mode & 0o077 == 0


def test_a_password_of_ones_own_and_a_new_one(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("correct horse\n"))
    assert "horse" not in machine.run("init", "--password-stdin")
    new = machine.run("reset-password").split("password: ")[1].strip()
    store = machine.store()
    try:
        stored = store.row("SELECT password FROM users")["password"]  # type: ignore[index]
        assert passwords.verify(stored, new) and not passwords.verify(stored, "correct horse")
    finally:
        store.close()
    assert "nobody" in machine.run("reset-password", "--user", "nobody", expected=1)


def test_a_first_password_that_is_refused_leaves_nothing_behind(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the next run takes the manager for set up, and nobody can log in."""
    monkeypatch.setattr("sys.stdin", io.StringIO("geheim\n"))
    assert "8 to 1024" in machine.run("init", "--password-stdin", expected=1)
    assert not (machine.directory / "state").exists()


def test_a_token_works(machine: Machine) -> None:
    machine.run("init")
    token = machine.run("token", "create", "ci", "--role", "operator", "--days", "1").strip()
    store = machine.store()
    try:
        principal = tokens.authenticate(store, token)
        assert principal is not None and (principal.name, principal.role) == ("admin", "operator")
    finally:
        store.close()
    assert "days" in machine.run("token", "create", "ci", "--days", "0", expected=1)


def test_a_token_is_revoked_by_who_holds_it(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.run("init")
    kept, gone = (machine.run("token", "create", name) for name in ("kept", "gone"))
    monkeypatch.setattr("sys.stdin", io.StringIO(gone))
    machine.run("token", "revoke")
    store = machine.store()
    try:
        assert tokens.authenticate(store, gone.strip()) is None and tokens.authenticate(store, kept.strip()) is not None
    finally:
        store.close()
    monkeypatch.setattr("sys.stdin", io.StringIO(gone))
    assert "not there" in machine.run("token", "revoke", expected=1)
    assert "name" in machine.run("token", "create", expected=1)


def test_a_backup_can_be_restored(machine: Machine) -> None:
    machine.run("init")
    copy = machine.directory / "copy.db"
    machine.run("backup", str(copy))
    machine.run("token", "create", "later")
    assert "backup is in place" in machine.run("restore", str(copy))
    store = machine.store()
    try:
        assert tokens.list(store) == []
        assert "error" in machine.run("restore", str(copy), expected=1)
    finally:
        store.close()


def test_the_audit_chain_is_verified(machine: Machine) -> None:
    machine.run("init")
    assert machine.run("verify-audit").startswith("ok: 0 jobs, head ")


def test_a_backup_replaces_nothing_and_makes_no_directory(machine: Machine) -> None:
    machine.run("init")
    copy = machine.directory / "copy.db"
    machine.run("backup", str(copy))
    content = copy.read_bytes()
    assert "another name" in machine.run("backup", str(copy), expected=1) and copy.read_bytes() == content
    assert "nowhere" in machine.run("backup", str(machine.directory / "nowhere" / "copy.db"), expected=1)
    assert not (machine.directory / "nowhere").exists()


def test_a_damaged_backup_is_answered_with_another_one(machine: Machine) -> None:
    machine.run("init")
    bad = machine.directory / "bad.db"
    bad.write_text("nonsense " * 1000)
    told = machine.run("restore", str(bad), expected=1)
    assert "Use another backup" in told and "the last backup" not in told


@pytest.mark.parametrize("words", [[], ["nonsense"], ["backup"], ["token", "destroy", "x"]])
def test_wrong_usage_is_64(machine: Machine, words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 64


@pytest.fixture
def foreign(capsys: pytest.CaptureFixture[str]) -> Iterator[Machine]:
    """A machine whose manager has an account of its own."""
    if os.geteuid() != 0:
        pytest.fail("this needs root: sudo .venv/bin/pytest")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        made = Machine(directory, capsys)
        (directory / "state").mkdir(mode=0o700)
        os.chown(directory / "state", ACCOUNT.pw_uid, ACCOUNT.pw_gid)
        yield made


def as_root(machine: Machine, *words: str) -> int:
    """The exit code of a command that root starts, in a process of its own: it does not stay root."""
    # Installed, since the manager's account may not read this checkout.
    command = [install() / "bin/domus-manager", "--config", machine.configuration, *words]
    return subprocess.run(command, cwd="/", check=False).returncode


def test_what_root_does_leaves_everything_to_the_managers_account(foreign: Machine) -> None:
    private = foreign.directory / "root-only"
    private.mkdir(mode=0o700)
    assert as_root(foreign, "init") == 0
    assert as_root(foreign, "backup", str(private / "copy.db")) == 0
    assert as_root(foreign, "restore", str(private / "copy.db")) == 0
    (foreign.directory / "state/statistics.db").unlink()
    assert as_root(foreign, "backup", str(private / "other.db")) == 0
    assert as_root(foreign, "token", "create", "x") == as_root(foreign, "nginx-conf") == 0
    made = [path for name in ("state", "run") for path in [foreign.directory / name, *(foreign.directory / name).rglob("*")]]
    assert len(made) > 8 and {path.stat().st_uid for path in made} == {ACCOUNT.pw_uid}, made
    assert (foreign.directory / "state/manager.db").stat().st_mode & 0o777 == 0o600
    assert {path.stat().st_uid for path in private.iterdir()} == {0} and all(path.stat().st_mode & 0o077 == 0 for path in private.iterdir())
    assert f"user {ACCOUNT.pw_name} " in (foreign.directory / "run/nginx.conf").read_text(), "nginx itself may be started by root"


def test_status_says_what_does_not_run(machine: Machine) -> None:
    machine.run("init")
    told = machine.run("status", expected=1)
    assert "servers 0" in told and "api not running" in told and "runner not running" in told


def test_what_is_not_set_up_is_told_with_its_remedy(machine: Machine) -> None:
    for words in (["status"], ["serve"], ["nginx-conf"], ["backup", "x"], ["token", "create", "x"]):
        assert "domus-manager init" in machine.run(*words, expected=1)


def test_a_wrong_configuration_is_told(machine: Machine) -> None:
    machine.configuration.write_text("nonsense: 1\n")
    assert "nonsense" in machine.run("status", expected=1)


def test_nginx_accepts_what_is_written(machine: Machine) -> None:
    machine.run("init")
    path = machine.run("nginx-conf").strip()
    answer = subprocess.run([*nginx_command(path), "-t"], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr


def test_the_keys_make_a_new_machine_the_same_manager(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = (Machine(tmp_path / name, capsys) for name in ("old", "new"))
    (tmp_path / "passphrase").write_text("correct horse battery\n")
    words = ("--passphrase-file", str(tmp_path / "passphrase"))
    old.run("init")
    old.run("authority", "export", str(tmp_path / "keys"), *words)
    old.run("backup", str(tmp_path / "copy.db"), "--keys", str(tmp_path / "more"), *words)
    told = new.run("authority", "import", str(tmp_path / "more"), *words)
    assert _manager_id(old) in told
    assert _manager_id(new) == _manager_id(old)
    assert "password: " in new.run("init")
    for name in ("servers.key", "libvirt.crt", "web-ca.pem"):
        assert (new.directory / "state" / name).read_bytes() == (old.directory / "state" / name).read_bytes()


def test_keys_are_not_put_over_those_of_a_manager_with_servers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = (Machine(tmp_path / name, capsys) for name in ("old", "new"))
    (tmp_path / "passphrase").write_text("correct horse battery\n")
    words = ("--passphrase-file", str(tmp_path / "passphrase"))
    old.run("init")
    new.run("init")
    old.run("authority", "export", str(tmp_path / "keys"), *words)
    assert "--replace" in new.run("authority", "import", str(tmp_path / "keys"), *words, expected=1)
    store = new.store()
    servers.add(store, {"id": "a", "name": "srv1", "address": "192.0.2.1", "port": 8899})
    store.close()
    assert "another manager, which has 1 servers" in new.run("authority", "import", str(tmp_path / "keys"), "--replace", *words, expected=1)


def test_keys_are_not_imported_while_the_manager_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine = Machine(tmp_path / "old", capsys)
    (tmp_path / "passphrase").write_text("correct horse battery\n")
    words = ("--passphrase-file", str(tmp_path / "passphrase"))
    machine.run("init")
    machine.run("authority", "export", str(tmp_path / "keys"), *words)
    store = machine.store()
    try:
        assert "Stop the manager first" in machine.run("authority", "import", str(tmp_path / "keys"), *words, expected=1)
    finally:
        store.close()


def _manager_id(machine: Machine) -> str:
    store = machine.store()
    try:
        return store.manager_id
    finally:
        store.close()


def test_a_shared_manager_is_one_servers_at_a_time(machine: Machine) -> None:
    machine.run("init", "--shared")
    assert (machine.directory / "state" / "guard").stat().st_mode & 0o777 == 0o600
    machine.run("token", "create", "ours")
    other = Guard(machine.directory / "state", 4711)
    try:
        for command in (("token", "create", "theirs"), ("status",), ("backup", str(machine.directory / "copy.db")), ("init",)):
            assert "another server has it in use" in machine.run(*command, expected=1)
    finally:
        other.close()
    machine.run("token", "create", "ours again")


def test_a_shared_manager_waits_for_the_flag_of_a_dead_server(machine: Machine) -> None:
    machine.run("init", "--shared")
    other = Guard(machine.directory / "state", 4711)
    timer = threading.Timer(0.3, other.close)
    timer.start()
    machine.run("nginx-conf")
    timer.join()
