"""One job of the runner service: a forked process that runs a playbook in a private directory, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Optional

import ansible_runner

from .processes import become_subreaper, children, descendants, kill_all, kill_strays, signal_when_parent_dies

GRACE = 5.0
LARGEST_REQUEST = 256 << 20
LONGEST_OUTPUT = 64 << 10
MOST_WAITING = 10_000
JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
TARGETS_FILE = "targets.json"
RESULT_FILE = "result.json"


class BadRequest(Exception):
    """What came over the socket is no job."""


class RunnerJob:
    """A job from its request to its end: `run` returns when no process and no file of it is left."""

    def __init__(self, connection: socket.socket, jobs_directory: str, collections: str) -> None:
        self._connection = connection
        self._jobs_directory = jobs_directory
        self._collections = collections
        self._stream = connection.makefile("rb")
        self._sender = _Sender(connection)
        self._watcher = _Watcher(self._stream)

    def run(self, announce: Callable[[str], None]) -> None:
        """Carry the job out; `announce` is told its id before a directory is made."""
        parent = os.getppid()
        signal.signal(signal.SIGTERM, lambda *dummy: self._watcher.end("ended"))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        become_subreaper()
        signal_when_parent_dies(parent)
        try:
            self._connection.settimeout(30)
            request = _read_request(self._stream)
            self._connection.settimeout(None)
            announce(request["job"])
            end = self._run_in_directory(request)
        except BadRequest as error:
            end = {"status": "error", "rc": None, "result": None, "error": str(error)}
        except OSError as error:
            end = {"status": "error", "rc": None, "result": None, "error": f"the job's directory can not be written: {error.strerror}"}
        self._watcher.stop()
        self._sender.finish({"end": end})

    def _run_in_directory(self, request: dict[str, Any]) -> dict[str, Any]:
        directory = os.path.join(self._jobs_directory, request["job"])
        os.mkdir(directory, 0o700)
        try:
            _fill(directory, request["files"])
            self._watcher.start(float(request["time_limit"]))
            outcome = self._play(request, directory)
            kill_strays(())
            return {**outcome, "result": _read_result(directory)}
        finally:
            kill_strays(())
            shutil.rmtree(directory, ignore_errors=True)

    def _play(self, request: Mapping[str, Any], directory: str) -> dict[str, Any]:
        """Run the playbook to its end or to its cancellation; status and return code."""
        error = ""
        os.environ.clear()
        os.environ.update(_environment(directory, self._collections))
        try:
            runner = ansible_runner.run(
                private_data_dir=directory,
                ident="run",
                playbook=_playbook(self._collections, request["playbook"]),
                inventory=os.path.join(directory, "hosts.json"),
                extravars={"domus_targets_file": os.path.join(directory, TARGETS_FILE)},
                cmdline="--check" if request["check"] else None,
                verbosity=request["verbosity"] or None,
                quiet=True,
                suppress_env_files=True,
                omit_event_data=True,
                event_handler=self._take_event,
                cancel_callback=lambda: False,
            )
            status, rc = runner.status, runner.rc
        except Exception as problem:  # whatever runner stumbles over, the job has an end
            status, rc, error = "error", None, f"{type(problem).__name__}: {' '.join(str(problem).split())[:300]}"
        return {"status": self._watcher.reason or status, "rc": rc, "error": error}

    def _take_event(self, event: Mapping[str, Any]) -> bool:
        if event.get("stdout"):
            self._sender.put({"event": {"at": time.time(), "event": event.get("event", ""), "stdout": str(event["stdout"])[:LONGEST_OUTPUT]}})
        return False


def _read_request(stream: BinaryIO) -> dict[str, Any]:
    """The request, checked. Raises BadRequest."""
    try:
        data = json.loads(stream.readline(LARGEST_REQUEST))
        request = {
            "job": data["job"],
            "playbook": data["playbook"],
            "files": data.get("files", {}),
            "time_limit": float(data["time_limit"]),
            "verbosity": int(data.get("verbosity", 0)),
            "check": bool(data.get("check", False)),
        }
        names = [request["playbook"], *request["files"]]
        right = JOB_ID.fullmatch(request["job"]) and all(FILE_NAME.fullmatch(name) for name in names) and 0 <= request["verbosity"] <= 5
        right = right and all(isinstance(text, str) for text in request["files"].values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadRequest(f"the request is not understood: {type(error).__name__}") from None
    if not right:
        raise BadRequest("the request names a job, a playbook or a file that can not be")
    return request


def _playbook(collections: str, name: str) -> str:
    """The path of a playbook of the collection. Raises FileNotFoundError."""
    for root in collections.split(os.pathsep):
        path = os.path.join(root, "ansible_collections/domus/virt/playbooks", name)
        if os.path.isfile(path):
            return path
    raise FileNotFoundError(f"{collections} has no playbook {name} of the collection domus.virt")


def _fill(directory: str, files: Mapping[str, str]) -> None:
    localhost = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    settings = {"pexpect_timeout": 1, "suppress_ansible_output": True}
    os.mkdir(os.path.join(directory, "env"), 0o700)
    own = {
        "hosts.json": json.dumps({"all": {"hosts": {"localhost": localhost}}}),
        "env/settings": json.dumps(settings),  # without this file runner forgets the settings it was given
        "ansible.cfg": "[defaults]\n",
    }
    for name, text in {**files, **own}.items():
        with open(os.open(os.path.join(directory, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)


def _environment(directory: str, collections: str) -> dict[str, str]:
    """The whole environment of the playbook: nothing of the service's own reaches it, and nothing is written outside the directory."""
    return {
        "PATH": f"{os.path.dirname(sys.executable)}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": directory,
        "TMPDIR": directory,
        "LANG": "C.UTF-8",
        "ANSIBLE_CONFIG": os.path.join(directory, "ansible.cfg"),
        "ANSIBLE_HOME": os.path.join(directory, "ansible"),
        "ANSIBLE_LOCAL_TEMP": os.path.join(directory, "ansible/tmp"),
        "ANSIBLE_REMOTE_TMP": os.path.join(directory, "ansible/tmp"),
        "ANSIBLE_COLLECTIONS_PATH": collections,
        "ANSIBLE_GATHERING": "explicit",
        "ANSIBLE_PIPELINING": "1",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_RETRY_FILES_ENABLED": "0",
        "ANSIBLE_LOCALHOST_WARNING": "0",
    }


def _read_result(directory: str) -> Any:
    try:
        return json.loads(Path(directory, RESULT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


class _Sender:
    """Sends lines from a thread of its own: the reader of Ansible's output must never wait for the manager."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines: queue.Queue[Optional[dict[str, Any]]] = queue.Queue(MOST_WAITING)
        self._thread: Optional[threading.Thread] = None
        self._dropped = 0

    def put(self, line: dict[str, Any]) -> None:
        """Send a line soon; it is dropped when the manager is far behind."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._send_all, daemon=True)
            self._thread.start()
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    def finish(self, line: dict[str, Any], patience: float = 30.0) -> None:
        """Send what waits, and this last line."""
        if self._thread is not None:
            self._lines.put(None)
            self._thread.join(patience)
        self._connection.settimeout(patience)
        self._send({**line, "dropped": self._dropped} if self._dropped else line)

    def _send_all(self) -> None:
        while (line := self._lines.get()) is not None:
            self._send(line)

    def _send(self, line: dict[str, Any]) -> None:
        try:
            self._connection.sendall(json.dumps(line).encode() + b"\n")
        except OSError:  # the manager is gone, which the watcher sees too
            return


class _Watcher:
    """Ends the playbook when the manager says so, when it is gone, when the time is over, or when the service ends."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self.reason = ""

    def start(self, time_limit: float) -> None:
        """Watch from now on; the time limit is in seconds."""
        threading.Thread(target=self._listen, daemon=True).start()
        threading.Thread(target=self._wait, args=(time_limit,), daemon=True).start()

    def stop(self) -> None:
        """The job is over."""
        self._stopped.set()
        self._wake.set()

    def end(self, reason: str) -> None:
        """End the playbook; the first reason is the one that is told."""
        self.reason = self.reason or reason
        self._wake.set()

    def _listen(self) -> None:
        """Whatever comes, and the end of the connection, means: cancel."""
        try:
            self._stream.readline(1 << 10)
        except OSError:
            pass
        self.end("cancelled")

    def _wait(self, time_limit: float) -> None:
        if not self._wake.wait(time_limit):
            self.end("timeout")
        deadline = time.monotonic() + GRACE
        told: set[int] = set()
        # SIGTERM, since Ansible ends its workers on it; on SIGKILL it leaves them behind in sessions of their own.
        while not self._stopped.wait(0.05):
            new = children(os.getpid()) - told
            kill_all(new, signal.SIGTERM)
            told |= new
            if time.monotonic() > deadline:
                kill_all(descendants(os.getpid()))
