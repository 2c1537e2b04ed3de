"""The job runner: a service under a uid of its own, that runs playbooks for the manager and knows neither its database nor its keys.

One connection on its UNIX socket is one job. The manager sends one line of JSON
`{"job", "playbook", "files": {name: text}, "time_limit", "verbosity", "check"}`, and gets lines `{"event": {"at", "event", "stdout"}}`
and at last `{"end": {"status", "rc", "result", "error"}}`; whatever it sends after the request, and closing the connection, cancels.
The only variable of the playbook is domus_targets_file, the path of targets.json among the files: documents are never variables.
Status: successful, failed, cancelled, timeout, ended (the service was stopped) or error; `result` is what the playbook wrote into
result.json beside it. Single-threaded, since it forks.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import select
import shutil
import signal
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any, Optional

from domus_core.errors import Busy, DriverError, NotFound

from .processes import become_subreaper, children, kill_all, kill_strays, processes_at_home
from .runner_job import GRACE, RunnerJob


class RunnerService:
    """The service's main process: accepts, forks, reaps, and kills what a dead job left."""

    def __init__(self, socket_path: str, jobs_directory: str, collections: str, manager_uid: int) -> None:
        self._socket_path = socket_path
        self._jobs_directory = jobs_directory
        self._collections = collections
        self._manager_uid = manager_uid
        self._jobs: dict[int, Optional[str]] = {}
        self._announced, self._announce = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._woken, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._stopping = False

    def prepare(self, group: Optional[int] = None, user: Optional[pwd.struct_passwd] = None) -> None:
        """Make the directory and the socket, the latter for a group; then become `user`. Raises Busy, DriverError."""
        try:
            os.makedirs(os.path.dirname(self._jobs_directory), exist_ok=True)
            self._directory = _locked_directory(self._jobs_directory)
            self._listener = _listen(self._socket_path, group)
            if user is not None:
                os.fchown(self._directory, user.pw_uid, user.pw_gid)
                os.initgroups(user.pw_name, user.pw_gid)
                os.setgid(user.pw_gid)
                os.setuid(user.pw_uid)
        except OSError as error:
            raise DriverError(f"the job runner can not start: {error.strerror}", value=error.filename) from None
        become_subreaper()
        self._clear(set())

    def serve(self) -> None:
        """Serve until SIGTERM or SIGINT; returns when every job has ended."""
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *dummy: None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        while not self._stopping:
            waited: list[Any] = [self._listener, self._woken]
            ready = select.select(waited, [], [])[0]
            if self._woken in ready:
                _drain(self._woken)
                self._reap()
            if self._listener in ready and not self._stopping:
                self._accept()
        self._end()

    def _stop(self, *dummy: object) -> None:
        self._stopping = True

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        with connection:
            if _peer_uid(connection) in (0, self._manager_uid):
                self._fork(connection)

    def _fork(self, connection: socket.socket) -> None:
        try:
            pid = os.fork()
        except OSError:  # no process to be had: the manager sees the connection close
            return
        if pid:
            self._jobs[pid] = None
            return
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._listener.close()
            RunnerJob(connection, self._jobs_directory, self._collections).run(lambda job: self._tell(job))
            status = 0
        finally:
            os._exit(status)

    def _tell(self, job: str) -> None:
        os.write(self._announce, f"{os.getpid()} {job}\n".encode())

    def _reap(self) -> None:
        for line in _drain(self._announced).decode().splitlines():
            teller, job = line.split(" ", 1)
            if int(teller) in self._jobs:
                self._jobs[int(teller)] = job
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            self._jobs.pop(pid, None)
        if children(os.getpid()) - set(self._jobs):
            kill_strays(set(self._jobs))
        self._clear({job for job in self._jobs.values() if job})

    def _clear(self, living: set[str]) -> None:
        """Remove what dead jobs left: directories, and at the start of the service their processes."""
        if not self._jobs:
            for _ in range(100):
                left = processes_at_home(self._jobs_directory)
                if not left:
                    break
                kill_all(left)
                time.sleep(0.02)
        elif None in self._jobs.values():  # one that has not said its name may own any directory
            return
        for name in os.listdir(self._jobs_directory):
            if name not in living:
                shutil.rmtree(os.path.join(self._jobs_directory, name), ignore_errors=True)

    def _end(self) -> None:
        kill_all(set(self._jobs), signal.SIGTERM)
        deadline = time.monotonic() + GRACE + 5
        while self._jobs and time.monotonic() < deadline:
            time.sleep(0.05)
            self._reap()
        kill_strays(())
        self._jobs.clear()
        self._clear(set())
        self._listener.close()


def _locked_directory(path: str) -> int:
    """The directory of all jobs, made if need be, held by this service alone; never what a link points to, since root goes on to give it away."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Busy("the job runner runs already", value=path) from None
    os.fchmod(descriptor, 0o700)
    return descriptor


def _listen(path: str, group: Optional[int]) -> socket.socket:
    Path(path).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o117)
    try:
        listener.bind(path)
    finally:
        os.umask(before)
    if group is not None and group not in (os.getegid(), os.stat(path).st_gid):
        os.chown(path, -1, group, follow_symlinks=False)
    listener.listen(128)
    listener.setblocking(False)
    return listener


def _peer_uid(connection: socket.socket) -> int:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])


def _drain(descriptor: int) -> bytes:
    data = b""
    try:
        while part := os.read(descriptor, 1 << 16):
            data += part
    except BlockingIOError:
        pass
    return data


def serve(socket_path: str, run_directory: str, collections: str, manager_directory: str, user: str = "") -> None:
    """Run the service: `domus-manager runner`. The manager is whoever owns `manager_directory`; root may name the `user` to become.

    Raises NotFound when there is no such user or directory, Busy when the service runs already.
    """
    try:
        manager = os.stat(manager_directory)
    except OSError:
        raise NotFound("the manager's directory is not there", value=manager_directory, remedy="Run domus-manager init first") from None
    try:
        account = pwd.getpwnam(user) if user and os.geteuid() == 0 else None
    except KeyError:
        raise NotFound("there is no such user", object=f"user {user}", remedy="Make the account that jobs run under") from None
    service = RunnerService(socket_path, os.path.join(run_directory, "jobs"), collections, manager.st_uid)
    service.prepare(manager.st_gid, account)
    sys.stdout.flush()
    service.serve()
