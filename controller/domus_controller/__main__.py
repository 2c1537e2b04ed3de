"""The command `domus-manager`: set the manager up, run its services, look after its database."""

from __future__ import annotations

import argparse
import contextlib
import getpass
import grp
import os
import pwd
import secrets
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn, Optional

from domus_core.errors import Conflict, DomusError, InvalidSpec, NotFound

from .config import ManagerConfig, load_config
from .rebuild_places import TITLE as REBUILD_TITLE
from .rebuild_places import add_arguments as add_rebuild_arguments
from .rebuild_places import places_of
from .store.guard import PATIENCE, guarded, make_guard
from .web_certificate import CALLERS, web_names, write_callers

ADMINISTRATOR = "admin"
DAY = 86400.0
PASSWORD_BYTES = 15
# What people give their browsers and tools to trust the manager's address.
WEB_AUTHORITY = "web-ca.pem"

USAGE = 64

Command = Callable[[ManagerConfig, argparse.Namespace], int]


class CommandLine(argparse.ArgumentParser):
    """A command line that ends with EX_USAGE (sysexits.h) when it is wrong."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and end."""
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"error: {message}\n")


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Carry one command out; the result is the exit code: 0 done, 1 failed, 64 the command line is wrong."""
    options = command_line().parse_args(arguments)
    try:
        command: Command = options.command
        config = load_config(options.config)
        options.started_by_root = os.geteuid() == 0
        if command not in (_runner, _backup, _restore, _authority, _rebuild):
            become_owner(config.directory, config.run_directory)
        if command in (_runner, _serve):
            return command(config, options)
        with guarded(config.directory, PATIENCE if command is _nginx_conf else 0.0):
            return command(config, options)
    except DomusError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"error: {error.filename or 'the output'}: {error.strerror}\n")
        return 1
    except KeyboardInterrupt:
        return 130


def command_line() -> CommandLine:
    """The command line of `domus-manager`."""
    parser = CommandLine(prog="domus-manager", description="Run and look after a Domus manager.")
    parser.add_argument("--config", type=Path, help="configuration file (default: $DOMUS_MANAGER_CONFIG, else /etc/domus/manager.yml)")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, command: Command, help: str) -> CommandLine:
        made = commands.add_parser(name, help=help, description=help)
        made.set_defaults(command=command)
        return made

    first = add("init", _init, "Make the database, the authorities and the first administrator, whose password is shown once")
    first.add_argument("--password-stdin", action="store_true", help="read the administrator's password from standard input")
    first.add_argument("--shared", action="store_true", help="the directory is on a pool file system: only one of its servers at a time may use it, ever")
    add("serve", _serve, "Serve the API (behind nginx) until it is stopped")
    add("runner", _runner, "Run the job runner until it is stopped").add_argument(
        "--user", default="", help="account that jobs run under, when started as root (default: whoever starts it)"
    )
    add("status", _status, "Show what the manager has, and whether its services answer")
    token = add("token", _token, "Make an API token, which is shown once, or revoke the one that standard input holds")
    token.add_argument("action", choices=["create", "revoke"])
    token.add_argument("name", nargs="?", default="", help="create: what the token is for")
    token.add_argument("--user", default=ADMINISTRATOR, help="whose token it is (default: %(default)s)")
    token.add_argument("--role", default="administrator", help="what it may do, within its user's role (default: %(default)s)")
    token.add_argument("--days", type=int, help="days until it expires (default: never)")
    password = add("reset-password", _reset_password, "Give a user a new password, which is shown once")
    password.add_argument("--user", default=ADMINISTRATOR, help="(default: %(default)s)")
    password.add_argument("--password-stdin", action="store_true", help="read it from standard input")
    copying = add("backup", _backup, "Write a checked copy of the database, and of the keys if asked")
    copying.add_argument("path", type=Path, help="the file to write, which must not be there yet")
    copying.add_argument("--keys", type=Path, metavar="FILE", help="write the keys there too, as `authority export` does")
    _add_passphrase(copying)
    keys = add("authority", _authority, "Write the manager's keys to a file under a passphrase, or take them over on a new machine")
    keys.add_argument("action", choices=["export", "import"])
    keys.add_argument("path", type=Path, help="the file; export makes it, only its owner can read it")
    keys.add_argument("--replace", action="store_true", help="import: also when there are other authorities, which are kept aside")
    _add_passphrase(keys)
    add("restore", _restore, "Put a backup in the place of the database; the manager must be stopped").add_argument("path", type=Path, help="the backup")
    add_rebuild_arguments(add("rebuild", _rebuild, REBUILD_TITLE))
    add("verify-audit", _verify_audit, "Check that no job's record was altered or removed")
    add("nginx-conf", _nginx_conf, "Write nginx's configuration into the run directory and say where")
    return parser


def _add_passphrase(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--passphrase-file", type=Path, metavar="FILE", help="its first line is the passphrase (default: asked for, or standard input)")


def become_owner(directory: Path, run_directory: Path) -> None:
    """As root, become the account that the manager's directory belongs to for good, so that the manager can use what is written.

    It gets the run directory if there is none yet. Nothing changes when the directory is root's, or not there.
    """
    if os.geteuid() != 0 or not directory.exists() or (found := directory.stat()).st_uid == 0:
        return
    if not run_directory.exists():
        run_directory.mkdir(parents=True)
        os.chown(run_directory, found.st_uid, found.st_gid)
    try:
        account = pwd.getpwuid(found.st_uid)
        os.initgroups(account.pw_name, account.pw_gid)
        os.setgid(account.pw_gid)
    except KeyError:
        os.setgroups([])
        os.setgid(found.st_gid)
    os.setuid(found.st_uid)


@contextlib.contextmanager
def _as_owner(directory: Path) -> Iterator[None]:
    """As root, act for a while as the account that the directory belongs to: files that are made meanwhile are its own."""
    found = directory.stat()
    if os.geteuid() != 0:
        yield
        return
    os.setegid(found.st_gid)
    os.seteuid(found.st_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _init(config: ManagerConfig, options: argparse.Namespace) -> int:
    if options.shared:
        make_guard(config.directory)
    with guarded(config.directory):
        return _set_up(config, options)


def _set_up(config: ManagerConfig, options: argparse.Namespace) -> int:
    from .security import passwords
    from .security.authority import Authority
    from .security.sealing import Sealing
    from .store import users
    from .store.database import Store

    password = _new_password(options.password_stdin)
    hashed = passwords.hash(password)  # a password that is refused is refused before anything is made
    authority = Authority(config.directory)
    authority.ensure()
    authority.issue_web(web_names(config))
    (config.directory / WEB_AUTHORITY).write_text(authority.web_ca_pem, encoding="ascii")
    Sealing(config.directory)
    store = Store(config.directory)
    try:
        if users.list(store):
            _say("The manager is set up already.")
            return 0
        users.create(store, ADMINISTRATOR, hashed, "administrator")
    finally:
        store.close()
    _say(f"user: {ADMINISTRATOR}")
    if not options.password_stdin:
        _say(f"password: {password}")
    return 0


def _new_password(from_stdin: bool) -> str:
    return sys.stdin.readline().rstrip("\n") if from_stdin else secrets.token_urlsafe(PASSWORD_BYTES)


def _serve(config: ManagerConfig, options: argparse.Namespace) -> int:
    from .deployment import gunicorn_command

    _require_set_up(config)
    # The flag of a server that has died falls after a while: Pacemaker is told that the manager runs, and it does as soon as it may.
    with guarded(config.directory, PATIENCE):
        pass
    config.run_directory.mkdir(parents=True, exist_ok=True)
    command = gunicorn_command(str(config.socket), str(config.run_directory))
    if options.config is not None:
        os.environ["DOMUS_MANAGER_CONFIG"] = str(options.config)
    os.execv(command[0], command)


def _runner(config: ManagerConfig, options: argparse.Namespace) -> int:
    from .jobs.runner_service import serve

    serve(str(config.runner_socket), str(config.run_directory), str(config.collections), str(config.directory), options.user)
    return 0


def _status(config: ManagerConfig, options: argparse.Namespace) -> int:
    from .store import jobs, servers
    from .store.database import Store

    _require_set_up(config)
    store = Store(config.directory)
    try:
        known, unfinished = servers.all(store), jobs.unfinished(store)
        online = sum(server["state"] in servers.CONNECTED for server in known)
        _say(f"manager {store.manager_id} at {config.url}\nservers {len(known)}, heard {online}\njobs unfinished {len(unfinished)}")
    finally:
        store.close()
    answering = {"api": _answers(config.socket), "runner": _answers(config.runner_socket)}
    for name, answers in answering.items():
        _say(f"{name} {'running' if answers else 'not running'}")
    return 0 if all(answering.values()) else 1


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _require_set_up(config: ManagerConfig) -> None:
    if not (config.directory / "manager.db").exists():
        raise NotFound("the manager is not set up", value=str(config.directory), remedy="Run domus-manager init")


def _token(config: ManagerConfig, options: argparse.Namespace) -> int:
    from .token_command import token

    _require_set_up(config)
    return token(config, options)


def _reset_password(config: ManagerConfig, options: argparse.Namespace) -> int:
    from .security import passwords
    from .store import users
    from .store.database import Store

    _require_set_up(config)
    store = Store(config.directory)
    try:
        password = _new_password(options.password_stdin)
        users.set_password(store, options.user, passwords.hash(password))
    finally:
        store.close()
    if not options.password_stdin:
        _say(f"password: {password}")
    return 0


def _backup(config: ManagerConfig, options: argparse.Namespace) -> int:
    from .store.backup import backup
    from .store.database import Store

    _require_set_up(config)
    passphrase = _passphrase(options, twice=True) if options.keys else ""
    with _as_owner(config.directory):
        store = Store(config.directory)
    try:
        if options.keys:
            _export(config, store.manager_id, passphrase, options.keys)
        _say(str(backup(store, options.path)))
    finally:
        store.close()
    return 0


def _authority(config: ManagerConfig, options: argparse.Namespace) -> int:
    from .security.key_backup import import_keys, read_keys
    from .store.backup import stopped
    from .store.database import Store
    from .store.identity import become, check_may_become

    if options.action == "export":
        _require_set_up(config)
        passphrase = _passphrase(options, twice=True)
        with _as_owner(config.directory):
            store = Store(config.directory)
        try:
            _export(config, store.manager_id, passphrase, options.path)
        finally:
            store.close()
        return 0
    found = read_keys(options.path, _passphrase(options))
    become_owner(config.directory, config.run_directory)
    check_may_become(config.directory, found["manager"])
    with stopped(config.directory):
        aside = import_keys(config.directory, found["files"], replace=options.replace)
    become(config.directory, found["manager"])
    (config.directory / WEB_AUTHORITY).write_text(found["files"]["web.crt"], encoding="ascii")
    _say(f"This is manager {found['manager']} now." + (f" The keys that were there are kept: {aside}" if aside else ""))
    _say("Next: domus-manager init, if there is no administrator yet; domus-manager nginx-conf, and reload nginx; start the manager.")
    return 0


def _export(config: ManagerConfig, manager_id: str, passphrase: str, path: Path) -> None:
    from .security.authority import Authority
    from .security.key_backup import export_keys

    with _as_owner(config.directory):  # an authority may be newer than the manager
        Authority(config.directory).ensure()
    export_keys(config.directory, manager_id, passphrase, path)
    _say(f"{path}: whoever has it and its passphrase has all servers; keep them apart")


def _passphrase(options: argparse.Namespace, twice: bool = False) -> str:
    """The passphrase: of the file, else asked for at a terminal, else the first line of standard input."""
    if options.passphrase_file is not None:
        with open(options.passphrase_file, encoding="utf-8") as file:
            return file.readline().rstrip("\n")
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    given = getpass.getpass("Passphrase: ")
    if twice and getpass.getpass("Once more: ") != given:
        raise InvalidSpec("are not the same", object="passphrases", remedy="Try again")
    return given


def _restore(config: ManagerConfig, options: argparse.Namespace) -> int:
    from .store.backup import restore

    # The backup may be root's alone; what takes its place must be the manager's.
    kept = restore(options.path, config.directory, opened=lambda: become_owner(config.directory, config.run_directory))
    _say("The backup is in place." + (f" What was there is kept: {kept}" if kept else ""))
    return 0


def _rebuild(config: ManagerConfig, options: argparse.Namespace) -> int:
    from .rebuild_command import rebuild

    # The files that are named may be root's alone; what is written must be the manager's.
    places = places_of(options)
    become_owner(config.directory, config.run_directory)
    _require_set_up(config)
    return rebuild(config, places, options)


def _verify_audit(config: ManagerConfig, options: argparse.Namespace) -> int:
    from .store import audit
    from .store.database import Store

    _require_set_up(config)
    store = Store(config.directory)
    try:
        found = audit.verify(store)
    finally:
        store.close()
    for problem in found["problems"]:
        _say(problem)
    verdict = "damaged" if found["problems"] else "ok"
    _say(f"{verdict}: {found['jobs']} jobs, head {found['head']}")
    return 1 if found["problems"] else 0


def _nginx_conf(config: ManagerConfig, options: argparse.Namespace) -> int:
    """The CAs' certificates go into one file beside it: nginx takes only one."""
    from .deployment import WebServer, nginx_configuration
    from .security.authority import Authority

    _require_set_up(config)
    authority = Authority(config.directory)
    certificate, key = authority.issue_web(web_names(config))
    owner = pwd.getpwuid(config.directory.stat().st_uid)
    authorities, path = config.run_directory / CALLERS, config.run_directory / "nginx.conf"
    web = WebServer(
        address=config.web_address,
        port=config.web_port,
        socket=str(config.socket),
        run_directory=str(config.run_directory),
        certificate=str(certificate),
        key=str(key),
        authorities=str(authorities),
        user=f"{owner.pw_name} {grp.getgrgid(owner.pw_gid).gr_name}" if options.started_by_root else None,
    )
    try:
        config.run_directory.mkdir(parents=True, exist_ok=True)
        write_callers(authority, config)
        path.write_text(nginx_configuration(web), encoding="utf-8")
    except OSError as error:
        raise Conflict(f"can not be written: {error.strerror}", object=f"file {error.filename}", remedy="Run it as root, or as the manager's account") from None
    _say(str(path))
    return 0


if __name__ == "__main__":
    sys.exit(main())
