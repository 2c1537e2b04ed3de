"""What a member is told of its pool, as plain data: the pool, who has which node id, the members' common key, the secrets of fence devices. Pure."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Optional, TypeVar, Union, get_args, get_origin, get_type_hints

from ..errors import InvalidSpec
from .corosync import assign_node_ids
from .pool import FenceDevice, HaVm, Member, Pool, QuorumDevice, Watchdog, check_pool

Made = TypeVar("Made")
Scalar = Union[str, int, float, bool]


@dataclasses.dataclass(frozen=True)
class PoolDocument:
    """`authkey` is Corosync's key in base64; `secrets` has device -> option -> value; `settings` become /etc/domus/pool.json.

    A secret that is None stays as it is on the member.

    `keeps_vms`: nothing was said of VMs, so they stay as they are.
    """

    pool: Pool
    node_ids: Mapping[str, int]
    authkey: str = ""
    secrets: Mapping[str, Mapping[str, Optional[str]]] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    keeps_vms: bool = False


def as_data(document: PoolDocument) -> dict[str, Any]:
    """The document as `read_pool_document` reads it, secrets in clear."""
    pool = {name: value for name, value in dataclasses.asdict(document.pool).items() if not (name == "vms" and document.keeps_vms)}
    for device in pool["devices"]:
        del device["secrets"]
    for member in pool["members"]:
        member["tags"] = sorted(member["tags"])
    secrets = {device: dict(told) for device, told in document.secrets.items()}
    told = {"pool": pool, "known_ids": dict(document.node_ids), "secrets": secrets, "settings": dict(document.settings)}
    return {**told, "authkey": document.authkey}


def read_pool_document(data: Any) -> PoolDocument:
    """The document in plain data (`pool`, `known_ids`, `authkey`, `secrets`, `settings`). Raises InvalidSpec for what a pool can not be."""
    if not isinstance(data, Mapping) or not isinstance(data.get("pool"), Mapping):
        raise InvalidSpec("a pool is a mapping of names to values", field="pool")
    unknown = sorted(set(data) - {"pool", "known_ids", "authkey", "secrets", "settings"})
    if unknown:
        raise InvalidSpec("there is no such field", field=unknown[0])
    secrets = data.get("secrets", {})
    if not _fits(secrets, Mapping[str, Mapping[str, Optional[Scalar]]]):
        raise InvalidSpec("is a mapping of fence devices to their options", field="secrets")
    secrets = {device: {name: None if value is None else _text(value) for name, value in told.items()} for device, told in secrets.items()}
    pool = _read_pool(data["pool"], secrets)
    for problem in check_pool(pool):
        raise problem
    known = data.get("known_ids", {})
    if not _fits(known, Mapping[str, int]):
        raise InvalidSpec("is a mapping of members to their numbers", field="known_ids")
    ids = assign_node_ids([member.name for member in pool.members], known)
    return PoolDocument(pool, ids, data.get("authkey", ""), secrets, data.get("settings", {}), "vms" not in data["pool"])


def _read_pool(data: Mapping[str, Any], secrets: Mapping[str, Mapping[str, Any]]) -> Pool:
    devices = [_written_out(device, secrets) for device in _parts(data, "devices", "fencing")]
    told = {
        **data,
        "members": tuple(_made(Member, one, "servers") for one in _parts(data, "members", "servers")),
        "devices": tuple(_made(FenceDevice, one, "fencing") for one in devices),
        "vms": tuple(_made(HaVm, one, "vms") for one in _parts(data, "vms", "vms")),
    }
    if data.get("quorum_device") is not None:
        told["quorum_device"] = _made(QuorumDevice, data["quorum_device"], "quorum_device")
    if data.get("watchdog") is not None:
        told["watchdog"] = _made(Watchdog, data["watchdog"], "watchdog")
    return _made(Pool, told, "server_pool")


def _written_out(device: Mapping[str, Any], secrets: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A fence device with the names of its secrets, and with plugs and options as texts: people write 4, 623 or true."""
    texts = {
        name: {key: _text(value) for key, value in device[name].items()} for name in ("servers", "options") if _fits(device.get(name), Mapping[str, Scalar])
    }
    return {**device, **texts, "secrets": sorted(secrets.get(device["name"], {}))}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _parts(data: Mapping[str, Any], name: str, where: str) -> list[Mapping[str, Any]]:
    """A list of mappings with a name each."""
    parts = data.get(name, [])
    if not isinstance(parts, list) or not all(isinstance(one, Mapping) and isinstance(one.get("name"), str) for one in parts):
        raise InvalidSpec("is a list of mappings, each with a name", field=where)
    return parts


def _made(kind: type[Made], data: Any, where: str) -> Made:
    """A part of a pool from plain data; lists become what the part has. Raises InvalidSpec for what it can not be made of."""
    if not isinstance(data, Mapping):
        raise InvalidSpec("is a mapping of names to values", field=where)
    fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(kind)  # type: ignore[arg-type]
    hints, values = get_type_hints(kind), dict(data)
    unknown = sorted(set(data) - {field.name for field in fields})
    if unknown:
        raise InvalidSpec("there is no such field", field=f"{where}.{unknown[0]}")
    for field in fields:
        if field.name not in data:
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                raise InvalidSpec("is missing", field=f"{where}.{field.name}")
        elif not _fits(data[field.name], hints[field.name]):
            raise InvalidSpec(f"is no {_shown(hints[field.name])}", field=f"{where}.{field.name}", value=data[field.name])
        elif isinstance(data[field.name], list):
            values[field.name] = (frozenset if get_origin(hints[field.name]) is frozenset else tuple)(data[field.name])
    return kind(**values)


def _fits(value: Any, hint: Any) -> bool:
    """Can plain data be a value of this type?"""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Union:
        return any(_fits(value, one) for one in inner)
    if origin in (tuple, frozenset):
        return isinstance(value, (list, tuple)) and all(_fits(one, inner[0]) for one in value)
    if origin is not None:
        return isinstance(value, Mapping) and all(_fits(name, inner[0]) and _fits(one, inner[1]) for name, one in value.items())
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


def _shown(hint: Any) -> str:
    return getattr(hint, "__name__", str(hint)) if get_origin(hint) is None else str(hint).replace("typing.", "")
