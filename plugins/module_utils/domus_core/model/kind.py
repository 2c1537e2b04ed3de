"""What a kind of object is: its specification, its measured state, its scope and its section of the document."""

from __future__ import annotations

import dataclasses
from typing import Any

from .field_types import Choice, ListOf, ServerOrTag
from .fields import IGNORE, attribute

SITE, POOL, SERVER = "site", "pool", "server"


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of object; `scope` says within what a name is unique."""

    name: str
    section: str
    spec: Any
    state: Any
    scope: str
    doc: str


def presence(doc: str = "Whether it is to exist.") -> Any:
    """The `state` of a kind that either exists or does not."""
    return attribute(Choice("present", "absent"), doc + " Left out means present.", compare=IGNORE)


def placement() -> Any:
    """The servers on which a site-wide object is realized."""
    return attribute(
        ListOf(ServerOrTag(), most=256),
        "The servers it is realized on, by name; `tag:NAME` stands for all that have the tag. Left out means all servers of the play.",
        compare=IGNORE,
    )


def is_absent(spec: Any) -> bool:
    """Is the object wanted not to exist?"""
    return getattr(spec, "state", None) == "absent"
