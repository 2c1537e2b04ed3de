"""The query parameters that several routes share, and their answers."""

from __future__ import annotations

from domus_core.model.field_types import Choice, Flag, Integer, Name, Text

from ..store.servers import STATES as SERVER_STATES
from .reading import Moment
from .route import Answer, Parameter
from .shapes import JOB_STATES, SEVERITIES

LARGEST = 1 << 53
FIELDS = Text(1000, pattern=r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*(,[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*)*", noun="a list of fields")

LIMIT = Parameter("limit", Integer(1, 1000), "Items of a page at most.", 100)
CURSOR = Parameter("cursor", Text(1000), "`next` of the page before.")
CHOOSE = Parameter("fields", FIELDS, "Only these fields, such as `name,spec.cpus`.")
SINCE = Parameter("since", Integer(0, LARGEST), "Only what changed after this number, deleted items included: `since` of an earlier answer.")
AFTER = Parameter("since", Integer(0, LARGEST), "Only what came after this number.")
WAIT = Parameter("wait", Integer(0, 60), "Seconds to wait for the end of the job.")
REASON = Parameter("reason", Text(1000), "Why; kept with the job.")
SERVER = Parameter("server", Text(255), "Name or id of a server.")
SITE = Parameter("site", Name(), "A site.")
KIND = Parameter("kind", Text(100), "A kind.")
PAGE = (LIMIT, CURSOR, CHOOSE)

JOB = {202: Answer("The job has been started.", "Job"), 200: Answer("The job has ended.", "Job")}
EVENT_FILTERS = (
    KIND,
    SERVER,
    Parameter("object", Text(255), "Id of an object."),
    Parameter("severity", Choice(*SEVERITIES), "How grave."),
)
CHECK = Parameter("check", Flag(), "Only say what it would do.", False)
APPLY_PARAMETERS = (
    CHECK,
    WAIT,
    Parameter("wait_for_address", Integer(0, 3600), "Seconds to wait for the addresses of started VMs.", 0),
    REASON,
)
SPAN = (Parameter("from", Moment(), "The beginning; an hour ago unless given."), Parameter("to", Moment(), "The end; now unless given."))
NAME = Parameter("name", Text(255), "Name; of objects `web*` for all that begin so.")
STATE = Parameter("state", Text(63), "State.")
SERVER_STATE = Parameter("state", Choice(*SERVER_STATES), "State.")
JOB_KIND = Parameter("kind", Text(100), "apply, a verb, migrate, evacuate, balance, power_off or power_on.")
JOB_STATE = Parameter("state", Choice(*JOB_STATES), "State.")
TAG = Parameter("tag", Name(), "A tag.")
DELETE_DISKS = Parameter("delete_disks", Flag(), "Delete the disks that Domus made for it, too.", False)
FORCE = Parameter("force", Flag(), "Take it from whoever has it.", False)
FORGET = Parameter("forget", Flag(), "Also when it does not answer.", False)
FROM_START = Parameter("since", AFTER.type, AFTER.doc, 0)


def shows(schema: str) -> dict[int, Answer]:
    """The answers of a route that shows something."""
    return {200: Answer("As asked.", schema)}


def made(schema: str) -> dict[int, Answer]:
    """The answers of a route that makes something."""
    return {201: Answer("It is there.", schema)}


def gone(doc: str) -> dict[int, Answer]:
    """The answers of a route that has nothing to show."""
    return {204: Answer(doc)}
