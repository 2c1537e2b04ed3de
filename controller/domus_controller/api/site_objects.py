"""Objects of a whole site: one under its name, with what it is on each server."""

from __future__ import annotations

from collections.abc import Callable

from flask import Response

from ..store import site_objects
from .call import Call, answer, page_answer

Handler = Callable[[Call], Response]


def list_site_objects(kind: str) -> Handler:
    """A handler that answers a page of a kind, each name once."""

    def handler(call: Call) -> Response:
        query = call.query
        return page_answer(call, site_objects.page(call.parts.store, kind, query["limit"], query["cursor"], call.filters("name")))

    return handler


def show_site_object(kind: str) -> Handler:
    """A handler that answers one of them, with its state on each server."""
    return lambda call: answer(site_objects.find(call.parts.store, kind, call.path["name"]))
