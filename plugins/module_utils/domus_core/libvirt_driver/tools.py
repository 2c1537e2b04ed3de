"""Programs of the operating system: run without a shell, ended with us, their refusals told as our errors."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Collection, Sequence
from contextlib import suppress

from ..errors import Conflict, DomusError, DriverError, InvalidSpec, NoCapacity, NotFound, Unreachable, Unsupported
from .bounded import is_wanted

SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PACKAGES = {
    **dict.fromkeys(("cibadmin", "crm_diff", "crm_mon", "crm_node", "crm_resource", "stonith_admin"), "pacemaker-cli-utils"),
    **dict.fromkeys(("corosync-cfgtool", "corosync-cmapctl", "corosync-quorumtool"), "corosync"),
    "qemu-img": "qemu-utils",
    "qemu-system-x86_64": "qemu-system-x86",
    "setpriv": "util-linux",
    "xorriso": "xorriso",
}
LAST_LINES = 5
POLL = 1.0
LAST_CHARACTERS = 1000

_FREE_SPACE = "Free some space there, or choose another repository."
_NO_SPACE_TEXTS = ("No space left on device", "Disk quota exceeded", "exceeds free space on media")


def run(argv: Sequence[str], *, timeout: float, input: bytes | None = None, what: str) -> str:
    """Run a program to its end and return its standard output; raises as `ask`, and DriverError for every exit status but 0."""
    return ask(argv, timeout=timeout, input=input, what=what)[1]


def ask(argv: Sequence[str], *, timeout: float, input: bytes | None = None, what: str, answers: Collection[int] = (0,)) -> tuple[int, str]:
    """Run a program to its end and return its exit status, which is one of `answers`, and its standard output.

    `what` names the work in errors, `timeout` is in seconds.

    Raises Unsupported (not installed), NoCapacity (disk full), Unreachable (timeout), InvalidSpec (an impossible argument), DriverError (it refused).
    """
    # A child that outlived us would go on writing into a file that the next run believes to be its own.
    command = [_find("setpriv"), "--pdeathsig", "KILL", "--", _find(argv[0]), *argv[1:]]
    try:
        status, output, errors = _run(command, input or b"", timeout)
    except subprocess.TimeoutExpired as error:
        remedy = "See whether the storage under it answers, then try again."
        raise Unreachable(f"{what} failed: {argv[0]} did not end within {timeout:g} seconds", remedy=remedy) from error
    except (OSError, ValueError) as error:
        raise explain(error, what) from error
    if status not in answers:
        raise _refusal(argv[0], status, errors, what)
    return status, output.decode("utf-8", "replace")


def _run(command: Sequence[str], input: bytes, timeout: float) -> tuple[int, bytes, bytes]:
    """Status, output and errors of a command. It is killed when its time is over, and when nobody waits for it any more."""
    deadline = time.monotonic() + timeout
    environment = {"PATH": SEARCH_PATH, "LC_ALL": "C"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, cwd="/", env=environment) as process:
        given: bytes | None = input
        while True:
            try:
                output, errors = process.communicate(given, timeout=max(0.0, min(POLL, deadline - time.monotonic())))
                return process.returncode, output, errors
            except subprocess.TimeoutExpired:
                given = None
                if time.monotonic() < deadline and is_wanted():
                    continue
                process.kill()
                raise
            except BaseException:
                process.kill()
                raise


def explain(error: Exception, what: str, path: str | None = None) -> DomusError:
    """Return the error of ours for an OSError, or for the ValueError of a path with a NUL or a lone surrogate, met while doing `what`."""
    if not isinstance(error, OSError):
        return InvalidSpec(f"{what} failed: a name that no file can have", value=path)
    message = f"{what} failed: {error.strerror or error}"
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return NotFound(message, value=path)
    if error.errno == errno.EEXIST:
        return Conflict(message, value=path)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoCapacity(message, value=path, remedy=_FREE_SPACE)
    if error.errno == errno.ELOOP:
        return InvalidSpec(f"{what} failed: it is a symbolic link", value=path, remedy="Name the file itself.")
    if error.errno in (errno.ENAMETOOLONG, errno.EFBIG):
        return InvalidSpec(message, value=path)
    return DriverError(message, value=path)


def make_folder(path: str, mode: int) -> None:
    """Make a folder, and those above it that are missing, with this mode whatever the umask is. Raises OSError."""
    if os.path.isdir(path):
        return
    make_folder(os.path.dirname(path), mode)
    with suppress(FileExistsError):
        os.mkdir(path, mode)
        os.chmod(path, mode)


def _find(program: str) -> str:
    found = shutil.which(program, path=SEARCH_PATH)
    if found is None:
        package = PACKAGES.get(program)
        remedy = f"Install it: apt-get install {package}" if package else "Install it."
        raise Unsupported(f"the program {program} is not installed on this server", remedy=remedy)
    return found


def _refusal(program: str, status: int, stderr: bytes, what: str) -> DomusError:
    lines = stderr.decode("utf-8", "replace").strip().splitlines()
    said = "\n".join(lines[-LAST_LINES:])[-LAST_CHARACTERS:]
    if any(text in said for text in _NO_SPACE_TEXTS):
        return NoCapacity(f"{what} failed: {said}", remedy=_FREE_SPACE)
    ended = f"{program} was killed by {signal.Signals(-status).name}" if status < 0 else f"{program} ended with status {status}"
    return DriverError(f"{what} failed: {said or ended}")
