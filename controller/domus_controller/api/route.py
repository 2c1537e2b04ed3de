"""What a route is: one line of the table from which URL rules, the gate and the OpenAPI document are made."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from domus_core.model.field_types import FieldType

if TYPE_CHECKING:
    from .call import Call

OPEN, AGENT = "open", "agent"
READ, OPERATE, ADMINISTER = "read", "operate", "administer"
JSON, STREAM = "application/json", "text/event-stream"


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A query parameter: a field type of the core checks it, and gives its schema."""

    name: str
    type: FieldType
    doc: str
    default: Any = None


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a route answers with one status: the name of a schema, and how it is carried."""

    doc: str
    schema: str | None = None
    media_type: str = JSON


@dataclasses.dataclass(frozen=True)
class Route:
    """A method and a path, who may call it, and what it reads and answers; `body` is the name of a schema.

    `instead` is what those can do who may not call it.
    """

    method: str
    path: str
    name: str
    handler: Callable[[Call], Any]
    permission: str
    doc: str
    answers: Mapping[int, Answer]
    parameters: tuple[Parameter, ...] = ()
    body: str | None = None
    body_types: tuple[str, ...] = (JSON, "application/yaml")
    body_required: bool = True
    websocket: bool = False
    instead: str = ""

    @property
    def tag(self) -> str:
        """The resource it belongs to: the first word of its path that is not the prefix."""
        return self.path.removeprefix("/api/v1").removeprefix("/agent/v1").strip("/").split("/")[0]
