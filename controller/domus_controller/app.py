"""The web application: each route of the table behind the gate, every error a problem document."""

from __future__ import annotations

import atexit
import json
import logging
import re
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from domus_core.errors import DomusError, printable
from flask import Flask, Request, Response, g, request
from flask_sock import Sock
from werkzeug.exceptions import HTTPException

from .agents.notes import Notes
from .agents.pool import Agents
from .api.call import Call, Parts
from .api.reading import read_query
from .api.route import Route
from .api.routes import ROUTES
from .config import ManagerConfig, load_config
from .console import INTERNAL_ERROR, SERVER_OPTIONS, close
from .errors import PROBLEM_TYPE, from_http, headers_of, problem_of, status_of, unexpected
from .jobs.jobs import Jobs
from .security.authority import Authority
from .security.gate import Gate
from .security.sealing import Sealing
from .store.database import Store

LARGEST_BODY = 64 << 20
LONGEST_ASKED = 200
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")
PLACE = re.compile(r"\{([a-z_]+)(:path)?\}")
# With this code of a worker gunicorn ends as a whole, and does not try again at once.
CAN_NOT_START = 3
LOG = logging.getLogger("domus.api")


def create_app(config: ManagerConfig | None = None, *, parts: Parts | None = None, routes: Iterable[Route] = ROUTES) -> Flask:
    """The application. Without `parts` it makes them itself, starts the jobs, and ends both with the process.

    That is for the one gunicorn worker, which must not have been preloaded: threads do not survive a fork. When they can not be
    made, one line says why, and the process ends.
    """
    if parts is None:
        parts = _parts_of_worker(config)
    app = Flask("domus_controller", static_folder=None)
    app.config.update(MAX_CONTENT_LENGTH=LARGEST_BODY, SOCK_SERVER_OPTIONS=SERVER_OPTIONS, PROPAGATE_EXCEPTIONS=False)
    app.url_map.strict_slashes = True
    app.url_map.merge_slashes = False
    app.extensions["domus"] = parts
    _add_routes(app, parts, {route.name: route for route in routes})
    _answer_errors(app)
    return app


def _parts_of_worker(config: ManagerConfig | None) -> Parts:
    try:
        parts = start_parts(config or load_config())
    except DomusError as error:
        LOG.critical("the manager can not start: %s", error)
        raise SystemExit(CAN_NOT_START) from None
    atexit.register(stop_parts, parts)
    _end_streams_on_signal(parts)
    return parts


def _end_streams_on_signal(parts: Parts) -> None:
    """SIGTERM makes gunicorn wait for what is being answered: streams and consoles must end for that by themselves."""
    before = signal.getsignal(signal.SIGTERM)

    def end(number: int, frame: Any) -> None:
        parts.ending.set()
        if callable(before):
            before(number, frame)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, end)


def start_parts(config: ManagerConfig) -> Parts:
    """Make everything that the manager consists of, and start the jobs. Raises DomusError."""
    store = Store(config.directory)
    authority = Authority(config.directory)
    authority.ensure()
    agents = Agents(store, authority, config)
    jobs = Jobs(store, agents, authority, Sealing(config.directory), config)
    jobs.start()
    parts = Parts(config, store, agents, jobs, Gate(store))
    agents.trust.start(parts.ending)
    Notes(store, agents).start(parts.ending)
    if store.guard is not None:
        store.guard.watch(parts.ending)
    return parts


def stop_parts(parts: Parts) -> None:
    """Stop the jobs and close the database."""
    parts.ending.set()
    parts.jobs.stop()
    parts.store.close()


def _add_routes(app: Flask, parts: Parts, routes: dict[str, Route]) -> None:
    sock = Sock(app)
    for route in routes.values():
        rule = PLACE.sub(lambda place: f"<path:{place[1]}>" if place[2] else f"<{place[1]}>", route.path)
        if route.websocket:
            sock.route(rule, endpoint=route.name, provide_automatic_options=False)(_socket_view(route, parts))
        else:
            app.add_url_rule(rule, route.name, _view(route, parts), methods=[route.method], provide_automatic_options=False)

    @app.before_request
    def pass_gate() -> None:
        _begin(request)
        if request.routing_exception is None:
            g.principal = parts.gate.require(routes.get(request.endpoint or ""), request)

    @app.after_request
    def finish(response: Response) -> Response:
        return _finish(request, response)


def _view(route: Route, parts: Parts) -> Callable[..., Any]:
    def view(**path: str) -> Any:
        query = read_query(route.parameters, request.args)
        return route.handler(Call(parts, g.principal, path, query, request))

    return view


def _socket_view(route: Route, parts: Parts) -> Callable[..., None]:
    def view(caller: Any, **path: str) -> None:
        # The connection is a WebSocket already: what goes wrong is the reason of its close, not an HTTP answer.
        try:
            query = read_query(route.parameters, request.args)
            route.handler(Call(parts, g.principal, path, query, request))(caller)
        except DomusError as error:
            close(caller, INTERNAL_ERROR, str(error))
        except Exception as error:
            LOG.error("%s an unexpected error", g.request_id, exc_info=error)
            close(caller, INTERNAL_ERROR, str(unexpected(g.request_id)))

    return view


def _begin(request: Request) -> None:
    given = request.headers.get("X-Request-Id", "")
    g.request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
    g.began = time.monotonic()


def _finish(request: Request, response: Response) -> Response:
    response.headers["X-Request-Id"] = g.request_id
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers.setdefault("Cache-Control", "no-store")
    level = logging.DEBUG if request.method in ("GET", "HEAD") and response.status_code < 400 else logging.INFO
    if LOG.isEnabledFor(level):
        name = getattr(g.get("principal"), "name", "") or "-"
        milliseconds = (time.monotonic() - g.began) * 1000
        LOG.log(level, "%s %s %s %s by %s in %.1f ms", g.request_id, request.method, request.path, response.status_code, name, milliseconds)
    return response


def _answer_errors(app: Flask) -> None:
    @app.errorhandler(DomusError)
    def known(error: DomusError) -> Response:
        if status_of(error) >= 500:
            LOG.warning("%s %s", g.request_id, error)
        return problem_answer(error)

    @app.errorhandler(HTTPException)
    def refused(error: HTTPException) -> Response:
        return problem_answer(from_http(error, printable(f"{request.method} {request.path}")[:LONGEST_ASKED]))

    @app.errorhandler(Exception)
    def unknown(error: Exception) -> Response:
        LOG.error("%s an unexpected error", g.request_id, exc_info=error)
        return problem_answer(unexpected(g.request_id))


def problem_answer(error: DomusError) -> Response:
    """An error as an answer."""
    response = Response(json.dumps(problem_of(error)), status_of(error), headers_of(error))
    response.content_type = PROBLEM_TYPE
    return response
