"""What a member is told of its pool, as plain data: the pool, who has which node id, the members' common key, the secrets of fence devices. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Optional

from ..errors import InvalidSpec
from .corosync import assign_node_ids
from .pool import FenceDevice, HaVm, Member, Pool, QuorumDevice, check_pool


@dataclasses.dataclass(frozen=True)
class PoolDocument:
    """`authkey` is Corosync's key in base64; `secrets` has device -> option -> value; `settings` become /etc/domus/pool.json.

    `keeps_vms`: nothing was said of VMs, so they stay as they are.
    """

    pool: Pool
    node_ids: Mapping[str, int]
    authkey: str = ""
    secrets: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    keeps_vms: bool = False


def read_pool_document(data: Any) -> PoolDocument:
    """The document in plain data (`pool`, `known_ids`, `authkey`, `secrets`, `settings`). Raises InvalidSpec for what a pool can not be."""
    if not isinstance(data, Mapping) or not isinstance(data.get("pool"), Mapping):
        raise InvalidSpec("a pool is a mapping of names to values", field="pool")
    unknown = sorted(set(data) - {"pool", "known_ids", "authkey", "secrets", "settings"})
    if unknown:
        raise InvalidSpec("there is no such field", field=unknown[0])
    secrets = {device: {option: str(value) for option, value in told.items()} for device, told in data.get("secrets", {}).items()}
    pool = _read_pool(data["pool"], secrets)
    for problem in check_pool(pool):
        raise problem
    known = {name: int(number) for name, number in data.get("known_ids", {}).items()}
    ids = assign_node_ids([member.name for member in pool.members], known)
    return PoolDocument(pool, ids, data.get("authkey", ""), secrets, data.get("settings", {}), "vms" not in data["pool"])


def _read_pool(data: Mapping[str, Any], secrets: Mapping[str, Mapping[str, str]]) -> Pool:
    devices = [{**device, "secrets": sorted(secrets.get(device.get("name", ""), {}))} for device in data.get("devices", [])]
    told = {
        **data,
        "members": tuple(_made(Member, one, "servers") for one in data.get("members", [])),
        "devices": tuple(_made(FenceDevice, one, "fencing") for one in devices),
        "vms": tuple(_made(HaVm, one, "vms") for one in data.get("vms", [])),
    }
    device: Optional[Mapping[str, Any]] = data.get("quorum_device")
    if device is not None:
        told["quorum_device"] = _made(QuorumDevice, device, "quorum_device")
    return Pool(**_known(Pool, told, "server_pool"))


def _made(kind: Any, data: Any, where: str) -> Any:
    """One of the pool's parts; lists become what the part has."""
    values = _known(kind, data, where)
    types = {field.name: str(field.type) for field in dataclasses.fields(kind)}
    for name, value in values.items():
        if isinstance(value, (list, tuple)):
            values[name] = frozenset(value) if types[name].startswith("frozenset") else tuple(value)
    return kind(**values)


def _known(kind: Any, data: Any, where: str) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise InvalidSpec("is a mapping of names to values", field=where)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name in data:
        if name not in fields:
            raise InvalidSpec("there is no such field", field=f"{where}.{name}")
    for name, field in fields.items():
        if name not in data and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise InvalidSpec("is missing", field=f"{where}.{name}")
    return dict(data)
