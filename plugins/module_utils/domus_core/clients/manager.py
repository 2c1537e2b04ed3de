"""The manager's API over HTTPS, for modules, the inventory plugin and the domus command: JSON in, JSON or a DomusError out."""

from __future__ import annotations

import base64
import http.client
import json
import math
import ssl
import time
from collections.abc import Iterator, Mapping
from typing import Any, Callable, Optional
from urllib.parse import quote, urlencode, urlsplit

from ..errors import Busy, DomusError, DriverError, InvalidSpec, Unreachable, error_from_dict

LARGEST_ANSWER = 256 << 20
LARGEST_EVENT = 16 << 20
PATIENCE = 60.0
PAUSE = 0.1
RETRY_PAUSE = 1.0
LONGEST_WAIT = 20
PROGRESS_WAIT = 1
ENDED = frozenset({"succeeded", "failed", "cancelled"})
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
CODES = {401: "unauthorized", 403: "forbidden", 404: "not_found", 413: "too_large", 502: "unreachable", 503: "unreachable", 504: "unreachable"}
NEW_TOKEN = "Give a valid token of this manager, for example as DOMUS_TOKEN in the environment"

Progress = Callable[[Mapping[str, Any]], None]
Event = tuple[Optional[str], str, str]


class ManagerClient:
    """A manager at an https URL. Each request is a connection of its own, so threads can share a client.

    `authority_path` is the file of the manager's CA (None: the system's CAs), `timeout` the seconds that one answer may take;
    `login` is a name and a password in place of a token, for getting one. A path is one of the API's description (`/api/v1/vms`).
    Every method raises DomusError: what the manager answered, Unreachable when it does not answer, InvalidSpec for an address or a
    token that can not be one. `authorization` (a header's value) and `context` (TLS) are for those who speak another protocol with it.
    """

    def __init__(
        self, url: str, token: Optional[str] = None, authority_path: Optional[str] = None, timeout: float = 60.0, *, login: Optional[tuple[str, str]] = None
    ) -> None:
        self.url = url.rstrip("/") if isinstance(url, str) else ""
        self._timeout = timeout
        self._secure, self._host, self._port, self._prefix = _parts(self.url)
        self.authorization = _authorization(token, login)
        self.context = _context(authority_path) if self._secure else None

    def get(self, path: str, **query: Any) -> Any:
        """What is at the path; None in the query is left out."""
        return self._json("GET", path, None, query)

    def post(self, path: str, body: Any = None, **query: Any) -> Any:
        """Make, start or send something. A connection lost on the way raises Unreachable: whether it was done is not known then."""
        return self._json("POST", path, body, query)

    def put(self, path: str, body: Any, *, etag: Optional[str] = None, **query: Any) -> Any:
        """Replace an object; with `etag` only as long as it is the one that was read."""
        return self._json("PUT", path, body, query, {"If-Match": etag} if etag else {})

    def delete(self, path: str, *, etag: Optional[str] = None, **query: Any) -> Any:
        """Delete an object; with `etag` only as long as it is the one that was read."""
        return self._json("DELETE", path, None, query, {"If-Match": etag} if etag else {})

    def pages(self, path: str, **filters: Any) -> Iterator[dict[str, Any]]:
        """All items of a list, page by page."""
        cursor: Optional[str] = None
        while True:
            page = self.get(path, **{**filters, "cursor": cursor})
            yield from page["items"]
            cursor = page.get("next")
            if cursor is None:
                return

    def stream(self, path: str, last_event_id: Optional[str] = None, **query: Any) -> Iterator[Event]:
        """Server-sent events as (id, event, data text), from after `last_event_id` on, until the stream ends.

        It may also break off, with Unreachable or without: unless its last event said that it is the end, go on with the id of that.
        """
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last_event_id} if last_event_id is not None else {})}
        connection, answer = self._open("GET", path, None, query, headers)
        try:
            if answer.status != 200:
                raise error_of(answer.status, _read(answer))
            yield from _events(answer)
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from None
        finally:
            connection.close()

    def apply(self, document: Mapping[str, Any], *, check: bool = False, wait_for_address: float = 0, **query: Any) -> dict[str, Any]:
        """Send a document and return the job that carries it out, not waited for; with `check` the plan. `wait_for_address` is in seconds."""
        query = {"check": True if check else None, "wait_for_address": math.ceil(wait_for_address) or None, **query}
        return dict(self.post("/api/v1/apply", document, **query))

    def follow(
        self, job_id: str, *, on_progress: Optional[Progress] = None, timeout: Optional[float] = None, patience: Optional[float] = None
    ) -> dict[str, Any]:
        """Wait until a job has ended and return it, whatever its end; each of its events goes to `on_progress`.

        A manager that is away for up to 60 s (it may restart) is waited for. Raises Unreachable after `timeout` seconds; the job goes
        on. Raises Busy when the job still waits for another one after `patience` seconds; it is cancelled then.
        """
        path, start = job_path(job_id), time.monotonic()
        answered, since, step = start, 0, LONGEST_WAIT if on_progress is None and patience is None else PROGRESS_WAIT
        job: dict[str, Any] = {}
        while True:
            left = step if timeout is None else max(0.0, start + timeout - time.monotonic())
            try:
                job = dict(self.get(path, wait=math.ceil(min(left, step))))
                if on_progress:
                    since = self._tell_progress(f"{path}/events", since, on_progress)
                answered = time.monotonic()
            except Unreachable:
                if time.monotonic() - answered > PATIENCE:
                    raise
                time.sleep(RETRY_PAUSE)
            if job.get("state") in ENDED:
                return job
            if timeout is not None and time.monotonic() >= start + timeout:
                raise Unreachable(f"has not ended after {timeout:g} s", object=f"job {job_id}", remedy="It goes on: look at it with `domus job show`")
            if patience is not None and job.get("waiting_for") and time.monotonic() >= start + patience:
                self.post(f"{path}/cancel")
                raise Busy(f"waits for job {job['waiting_for']}, and was cancelled after {patience:g} s", object=f"job {job_id}", remedy="Try again later")
            step = PROGRESS_WAIT if on_progress or (patience is not None and job.get("waiting_for")) else LONGEST_WAIT
            time.sleep(PAUSE)  # a manager whose waiting room is full answers at once

    def apply_and_wait(
        self,
        document: Mapping[str, Any],
        *,
        check: bool = False,
        wait_for_address: float = 0,
        on_progress: Optional[Progress] = None,
        timeout: Optional[float] = None,
    ) -> dict[str, Any]:
        """Send a document and return its ended job (see follow), with `check` the plan. To cancel on the way, use apply and follow."""
        sent = self.apply(document, check=check, wait_for_address=wait_for_address)
        return sent if check or sent.get("state") in ENDED else self.follow(sent["id"], on_progress=on_progress, timeout=timeout)

    def _tell_progress(self, path: str, since: int, on_progress: Progress) -> int:
        while items := self.get(path, since=since)["items"]:
            for event in items:
                on_progress(event)
            since = int(items[-1]["id"])
        return since

    def _json(self, method: str, path: str, body: Any, query: Mapping[str, Any], headers: Optional[Mapping[str, str]] = None) -> Any:
        content = None if body is None else json.dumps(body).encode()
        sent = {"Accept": "application/json", **({} if content is None else {"Content-Type": "application/json"}), **(headers or {})}
        connection, answer = self._open(method, path, content, query, sent)
        try:
            text = _read(answer)
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from None
        finally:
            connection.close()
        if not 200 <= answer.status < 300:
            raise error_of(answer.status, text)
        try:
            return json.loads(text) if text else None
        except ValueError:
            raise self._stranger() from None

    def _open(
        self, method: str, path: str, content: Optional[bytes], query: Mapping[str, Any], headers: Mapping[str, str]
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        timeout = self._timeout + float(query.get("wait") or 0)
        connection = (
            http.client.HTTPSConnection(self._host, self._port, timeout=timeout, context=self.context)
            if self._secure
            else http.client.HTTPConnection(self._host, self._port, timeout=timeout)
        )
        who = {} if self.authorization is None else {"Authorization": self.authorization}
        try:
            connection.request(method, self._prefix + path + _query(query), content, {**headers, **who})
            return connection, connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._unreachable(error) from None

    def _unreachable(self, error: Exception) -> Unreachable:
        if isinstance(error, ssl.SSLCertVerificationError):
            remedy = "Name the file of the manager's CA (option manager_ca), and check that the address is the one of the certificate"
            return Unreachable(f"its certificate is not trusted: {error.verify_message}", object=f"manager {self.url}", remedy=remedy)
        told = "it gave no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
        return Unreachable(f"does not answer: {told}", object=f"manager {self.url}", remedy="Is the address right, and does the manager run?")

    def _stranger(self) -> DriverError:
        return DriverError("did not answer as a manager does", object=f"manager {self.url}", remedy="Is that the address of a manager?")


def job_path(job_id: str) -> str:
    """The path of a job."""
    return f"/api/v1/jobs/{quote(job_id, safe='')}"


def _parts(url: str) -> tuple[bool, str, Optional[int], str]:
    """Whether TLS is spoken, host, port and path of a manager's URL. Raises InvalidSpec."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InvalidSpec("is not a URL", field="manager_url", remedy="Like https://manager.example.org:7002") from None
    if parts.username or parts.password:
        raise InvalidSpec("has a user or a password in it", field="manager_url", remedy="Use a token")
    if not parts.hostname or not url.isprintable() or " " in url or parts.scheme not in ("https", "http") or parts.query or parts.fragment:
        raise InvalidSpec("is not the URL of a manager", field="manager_url", value=url, remedy="Like https://manager.example.org:7002")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise InvalidSpec("would send the token unencrypted", field="manager_url", value=url, remedy="Use https")
    return parts.scheme == "https", parts.hostname, port, parts.path


def _authorization(token: Optional[str], login: Optional[tuple[str, str]]) -> Optional[str]:
    """The value of the header that says who asks. Raises InvalidSpec, which does not repeat the token."""
    if login is not None:
        return f"Basic {base64.b64encode(':'.join(login).encode()).decode()}"
    if token is not None and not (token.isascii() and token.isprintable() and token.strip()):
        raise InvalidSpec("is not a token", field="manager_token", remedy=NEW_TOKEN)
    return None if token is None else f"Bearer {token}"


def _context(authority_path: Optional[str]) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=authority_path)
    except OSError as error:
        told = error.strerror if error.filename or error.errno else "no certificate in it"
        raise InvalidSpec(f"can not be read: {told}", field="manager_ca", value=authority_path, remedy="Name the PEM file of the manager's CA") from None


def _query(query: Mapping[str, Any]) -> str:
    given = {name: str(value).lower() if isinstance(value, bool) else value for name, value in query.items() if value is not None}
    return f"?{urlencode(given, doseq=True)}" if given else ""


def _read(answer: http.client.HTTPResponse) -> bytes:
    text = answer.read(LARGEST_ANSWER + 1)
    if len(text) > LARGEST_ANSWER:
        raise DriverError(f"the manager's answer is larger than {LARGEST_ANSWER >> 20} MiB", remedy="Ask for less, by filters or limit")
    return text


def _events(answer: http.client.HTTPResponse) -> Iterator[Event]:
    """The events of a stream as the HTML standard has it: fields line by line, an empty line ends an event, a colon starts a comment."""
    event_id: Optional[str] = None
    fields: dict[str, str] = {}
    while True:
        line = answer.readline(LARGEST_EVENT + 1)
        if not line:
            return
        if len(line) > LARGEST_EVENT:
            raise DriverError("an event of the manager is too large", remedy="Please report this")
        name, dummy, value = line.decode("utf-8", "replace").rstrip("\r\n").partition(":")
        value = value[1:] if value.startswith(" ") else value
        if name == "data":
            fields["data"] = f"{fields['data']}\n{value}" if "data" in fields else value
        elif name == "event":
            fields["event"] = value
        elif name == "id":
            event_id = value
        elif not line.strip():
            if "data" in fields:
                yield event_id, fields.get("event", "message"), fields["data"]
            fields = {}


def error_of(status: int, text: bytes) -> DomusError:
    """The error that an answer tells of: its problem document, or only its HTTP status."""
    try:
        problem = json.loads(text)
    except ValueError:
        problem = None
    if not isinstance(problem, Mapping) or "code" not in problem:
        problem = {"code": CODES.get(status, "driver_error"), "detail": f"the manager answered with HTTP status {status}"}
    if problem["code"] == "unauthorized" and not problem.get("remedy"):
        problem = {**problem, "remedy": NEW_TOKEN}
    return error_from_dict({"message": problem.get("detail") or problem.get("title"), **problem})
