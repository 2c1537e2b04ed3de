"""Dry runs: what a policy would do now, and what the loss of a server would mean."""

from __future__ import annotations

from domus_core.model.field_types import Choice
from domus_core.model.fields import fields_of, make
from domus_core.model.policy import DPM, DRS, PolicySpec
from flask import Response

from ..jobs import balancing
from ..store import servers
from .call import Call, answer
from .route import Parameter

# What of a policy can be tried out; the rest says when it looks, and by what it is known.
TRIED = ("cpu_threshold", "memory_threshold", "network_threshold", "tolerance", "most_moves", "spare_servers", "least_on")
MODE = Parameter("mode", Choice(DRS, DPM), "`drs` spreads VMs over the servers, `dpm` gathers them on few.", DRS)
POLICY = (MODE, *(Parameter(field.name, field.type, field.doc) for field in fields_of(PolicySpec) if field.name in TRIED))


def show_balance(call: Call) -> Response:
    """What the policy would do now, for each pool; nothing is changed."""
    given = {name: call.query[name] for name in ("mode", *TRIED) if call.query[name] is not None}
    return answer({"mode": given["mode"], "pools": balancing.show_balance(call.parts.store, make(PolicySpec, given))})


def show_loss(call: Call) -> Response:
    """Where the VMs of a server would start again if it died; nothing is changed."""
    return answer(balancing.show_loss(call.parts.store, servers.find(call.parts.store, call.path["id"])))
