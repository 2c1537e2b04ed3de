"""A manager for tests: the API's paths that modules and the inventory plugin use, over TLS, with the engine on a server in a file behind it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import ssl
import threading
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import trustme
from domus_core.description import describe
from domus_core.engine import apply
from domus_core.errors import DomusError, NotFound, Unauthorized
from domus_core.fake_driver.file_driver import open_file_driver
from domus_core.model.document import Site, parse_document
from domus_core.model.kinds import KINDS

from tests.contract.servers import FakeServer

SERVER_ID = str(uuid.UUID(int=1))
STATUS = {"unauthorized": 401, "not_found": 404, "conflict": 409, "invalid_spec": 400}


class FakeManager:
    """Owns one server in a file, `srv1`. Every request is in `requests`; pages hold one item, so that every list has several."""

    def __init__(self, directory: Path, uri: str) -> None:
        self.uri, self.token = uri, "domus_test-token"
        self.requests: list[tuple[str, str, Any]] = []
        self.jobs: dict[str, dict[str, Any]] = {}
        self.items_changed: Callable[[dict[str, Any]], dict[str, Any]] = lambda item: item
        authority = trustme.CA()
        self.authority = directory / "manager-ca.pem"
        authority.cert_pem.write_to_path(self.authority)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"manager": self}))
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"https://127.0.0.1:{self._http.server_port}"

    @property
    def options(self) -> dict[str, str]:
        """The options of a module that is to go through it."""
        return {"transport": "manager", "manager_url": self.url, "manager_token": self.token, "manager_ca": str(self.authority)}

    def close(self) -> None:
        """Stop it."""
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> Any:
        """What the API answers. Raises DomusError."""
        parts = path.strip("/").split("/")[2:]
        if (method, parts) == ("POST", ["apply"]):
            return self._apply(body, query)
        if method == "GET" and parts[0] == "jobs" and parts[1] in self.jobs:
            return {"items": [], "next": None} if parts[2:] else self.jobs[parts[1]]
        sections = {**{kind.section.replace("_", "-"): kind.name for kind in KINDS}, "server-pool-members": "server_pool"}
        if method == "GET" and len(parts) == 1 and parts[0] in sections:
            items = [self.items_changed(item) for item in self._items(sections[parts[0]])]
            return _page([item for item in items if query.get("name") in (None, item["name"])], query)
        raise NotFound(f"there is no {path}")

    def _apply(self, document: Any, query: dict[str, str]) -> dict[str, Any]:
        check = query.get("check") == "true"
        site = parse_document(document, server="srv1")
        with contextlib.closing(open_file_driver(self.uri)) as driver:
            report = apply(site, driver, check=check, wait_for_address=float(query.get("wait_for_address", 0)))
        objects = [{**one, "server": "srv1"} for one in report.as_dict()["objects"]]
        for one in objects:
            one.pop("state", None)  # it is in the lists
        if check:
            return {"id": "p1", "state": "open", "changed": report.changed, "objects": objects, "errors": []}
        state = "failed" if report.errors else "succeeded"
        error = report.errors[0].as_dict() if report.errors else None
        job = {"id": str(uuid.uuid4()), "kind": "apply", "state": state, "changed": report.changed, "error": error, "result": {"objects": objects}}
        self.jobs[job["id"]] = {**job, "waiting_for": None}
        return {**job, "state": "queued", "result": None, "changed": None}

    def _items(self, kind: str) -> list[dict[str, Any]]:
        with contextlib.closing(open_file_driver(self.uri)) as driver:
            snapshot = driver.read(Site("default", {}))
            if kind == "server":
                return [
                    {
                        "id": SERVER_ID,
                        "name": "srv1",
                        "address": "192.0.2.1",
                        "port": 8899,
                        "state": "running",
                        "facts": dataclasses.asdict(snapshot.server),
                        "vms": 0,
                    }
                ]
            described = [describe(kind, key, found, SERVER_ID) for key, found in snapshot.all(kind)]
        return [{**one, "server": "srv1", "server_id": SERVER_ID, "addresses": list(one["measured"].get("addresses", ()))} for one in described]


class ManagedServer(FakeServer):
    """The server in a file, reached through a manager."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.manager = FakeManager(directory, self.parameters["uri"])
        # A module that does not go through the manager has no libvirt to talk to.
        self.parameters = {"uri": "fake:///nowhere", "state_directory": "/nowhere", **self.manager.options}

    def close(self) -> None:
        """Stop the manager."""
        self.manager.close()


def _page(items: list[dict[str, Any]], query: dict[str, str]) -> dict[str, Any]:
    start = int(query.get("cursor", 0))
    return {"items": items[start : start + 1], "next": str(start + 1) if start + 1 < len(items) else None}


class _Handler(BaseHTTPRequestHandler):
    manager: FakeManager
    timeout = 10

    def log_message(self, *dummy: Any) -> None:
        """Say nothing."""

    def _handle(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        self.manager.requests.append((self.command, self.path, body))
        try:
            if self.headers.get("Authorization") != f"Bearer {self.manager.token}":
                raise Unauthorized("the token is not valid")
            status, kind, data = 200, "application/json", self.manager.answer(self.command, parts.path, query, body)
        except DomusError as error:
            told = error.as_dict()
            status, kind = STATUS.get(error.code, 500), "application/problem+json"
            data = {**told, "type": f"urn:domus:error:{error.code}", "title": "refused", "status": status, "detail": told["message"]}
        text = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = _handle


@contextlib.contextmanager
def running_manager(directory: Path) -> Iterator[FakeManager]:
    """A manager with an empty server for a while."""
    server = ManagedServer(directory)
    try:
        yield server.manager
    finally:
        server.close()
