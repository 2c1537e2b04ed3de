"""libvirt's credentials on this server: asked of the manager, installed, renewed, and taken away when the server is released.

What the manager gave is one file beside the identity, the truth; a thread makes libvirt's files and its door follow it, also after a
crash. Without `libvirt_tls` in the agent's settings nothing of libvirt is touched.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import threading
from collections.abc import Iterable, Mapping
from typing import Any, Optional

from domus_core.errors import DomusError, InvalidSpec
from domus_core.libvirt_driver.registry import write_atomically

from . import libvirt_door
from .config import AgentConfig
from .libvirt_pki import remove_files, write_files
from .store import AgentStore

FILE, MARK = "libvirt.json", "libvirt-installed"
RETRY_SECONDS = 30.0
PAPERS = ("authority", "crl", "certificate", "qemu_certificate")
_SERVER_ID = re.compile(r"[0-9a-f-]{36}")
_log = logging.getLogger(__name__)


class LibvirtTls:
    """The credentials of libvirt and of QEMU, below `directory`/identity; keys are made here and leave this server never."""

    def __init__(self, config: AgentConfig, store: AgentStore) -> None:
        self.enabled = config.libvirt_tls
        self._pki = config.pki_directory
        self._directory = os.path.join(config.directory, "identity")
        self._store = store
        self._lock = threading.RLock()
        self._keys: dict[str, str] = {}
        self._requests: Optional[dict[str, str]] = None
        self._truth = self._load() if self.enabled else None
        self._gone: set[str] = set()
        self._wake, self._end = threading.Event(), threading.Event()
        self._problem = ""
        self._thread = threading.Thread(target=self._run, name="libvirt-tls", daemon=True)

    def start(self) -> None:
        """Begin to look after libvirt's files and door."""
        if self.enabled:
            self._wake.set()
            self._thread.start()

    def stop(self) -> None:
        """Look after them no more; they stay as they are."""
        self._end.set()
        self._wake.set()

    def told(self) -> Optional[dict[str, Any]]:
        """What the manager hears with each callback: serial number (hex) and revocation list that are installed; None when libvirt is not ours to set up."""
        if not self.enabled:
            return None
        with self._lock:
            known = self._truth or {}
            return {"serial": known.get("serial"), "crl": known.get("number", 0)}

    def requests(self) -> Optional[dict[str, str]]:
        """Signing requests (PEM) for new keys, the same until `install`; None when libvirt is not ours to set up."""
        if not self.enabled:
            return None
        from . import certificates

        with self._lock:
            if self._requests is None:
                made = {name: certificates.new_request() for name in ("libvirt", "qemu")}
                self._keys = {name: key for name, (key, dummy) in made.items()}
                self._requests = {name: request for name, (dummy, request) in made.items()}
            return self._requests

    def check(self, papers: Mapping[str, Any]) -> dict[str, Any]:
        """The credentials that these papers and our keys make; the same once more are those that are installed. Raises InvalidSpec."""
        from . import certificates

        with self._lock:
            if not self.enabled:
                raise InvalidSpec("libvirt is not Domus's to set up here", field="libvirt", remedy="Set libvirt_tls in the agent's settings")
            if set(papers) != set(PAPERS) or not all(isinstance(text, str) for text in papers.values()):
                raise InvalidSpec("is incomplete", field="libvirt", remedy=f"Expected {', '.join(PAPERS)}")
            if self._truth is not None and papers["certificate"] == self._truth["certificate"]:
                return self._truth
            for name, certificate in (("libvirt", "certificate"), ("qemu", "qemu_certificate")):
                certificates.check_issued(papers[certificate], papers["authority"], self._keys.get(name, ""))
            serial, number = certificates.serial_of(papers["certificate"]), certificates.crl_number(papers["crl"], papers["authority"])
            return {**papers, "key": self._keys["libvirt"], "qemu_key": self._keys["qemu"], "serial": serial, "number": number}

    def install(self, credentials: Mapping[str, Any]) -> None:
        """Have libvirt use what `check` returned; that goes on in the background. Raises OSError."""
        with self._lock:
            self._save(dict(credentials))
            self._keys, self._requests = {}, None
        self._wake.set()

    def take_crl(self, crl: str, gone: Iterable[str] = ()) -> None:
        """Have libvirt refuse what this list (PEM) revokes, and end the sessions of servers that are gone.

        An older list changes nothing. Raises InvalidSpec.
        """
        from . import certificates

        with self._lock:
            if self._truth is None:
                return
            number = certificates.crl_number(crl, self._truth["authority"])
            self._gone.update(one for one in gone if isinstance(one, str) and _SERVER_ID.fullmatch(one))
            if number > self._truth["number"]:
                self._save({**self._truth, "crl": crl, "number": number})
        self._wake.set()

    def remove(self) -> None:
        """Have libvirt forget its credentials, and close its door; that goes on in the background."""
        with self._lock:
            self._truth, self._requests = None, None
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path(FILE))
        self._wake.set()

    def _run(self) -> None:
        pause: Optional[float] = None
        while not self._end.is_set():
            self._wake.wait(pause)
            if self._end.is_set():
                return
            self._wake.clear()
            try:
                self._follow()
                pause = None
                self._tell("")
            except (DomusError, OSError) as error:
                pause = RETRY_SECONDS
                self._tell(str(error))

    def _follow(self) -> None:
        """Make libvirt's files and its door as the truth says. Raises DomusError, OSError; what is left undone, the next time does."""
        with self._lock:
            truth, gone = self._truth, frozenset(self._gone)
        marked = os.path.exists(self._path(MARK))
        if truth is None:
            if marked:
                if libvirt_door.has_systemd():
                    libvirt_door.close_door()
                remove_files(self._pki)
                os.unlink(self._path(MARK))
                _log.info("libvirt listens on the network no more")
            return
        changed = write_files(self._pki, truth, keep_others=not marked)
        if not marked:
            self._write(MARK, "")
        if libvirt_door.has_systemd() and not libvirt_door.is_open():
            libvirt_door.open_door()
        elif changed:
            libvirt_door.reload_certificates()
        if gone and libvirt_door.end_sessions(gone):
            _log.warning("sessions of revoked servers with libvirt were ended")
        if changed:
            libvirt_door.check_answers(truth["authority"], truth["serial"])
            _log.info("libvirt uses certificate %s and revocation list %d", truth["serial"], truth["number"])
        with self._lock:
            self._gone -= gone

    def _tell(self, problem: str) -> None:
        """An event for each change between working and not."""
        if problem and problem != self._problem:
            _log.error("libvirt's TLS: %s", problem)
            self._store.add_event("libvirt.tls_failed", severity="error", data={"problem": problem[:1000]})
        elif self._problem and not problem:
            self._store.add_event("libvirt.tls_ready")
        self._problem = problem

    def _save(self, truth: dict[str, Any]) -> None:
        self._write(FILE, json.dumps(truth))
        self._truth = truth

    def _load(self) -> Optional[dict[str, Any]]:
        with contextlib.suppress(OSError, ValueError), open(self._path(FILE), encoding="utf-8") as file:
            return dict(json.load(file))
        return None

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, name)

    def _write(self, name: str, text: str) -> None:
        write_atomically(self._path(name), text.encode(), 0o600)
