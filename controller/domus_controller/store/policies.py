"""The policies of pools, as the documents of the pools say; a pool without one, or with mode off, is left alone."""

from __future__ import annotations

import dataclasses
from typing import Any, Optional

from domus_core.model.fields import restore
from domus_core.model.policy import OFF, PolicySpec

from .database import Store
from .values import from_json

# Each member keeps the pool's document; one that was asleep, or away, keeps an older one: what took effect last on somebody's request counts.
RECORDED = (
    "SELECT o.name, json_extract(o.description, '$.spec.policy') AS policy, r.created_at AS asked_at FROM objects o"
    " LEFT JOIN requests r ON r.kind = o.kind AND r.key = o.key AND r.server_id = o.server_id AND r.state = 'effective'"
    " WHERE o.kind = 'server_pool' AND o.deleted IS NULL AND json_type(o.description, '$.spec.policy') = 'object'"
    " ORDER BY r.created_at, o.changed_at"
)


@dataclasses.dataclass(frozen=True)
class PoolPolicy:
    """The policy of a pool; `asked_at` is when the document was applied that it is of (seconds since 1970); None: never by this manager."""

    pool: str
    spec: PolicySpec
    asked_at: Optional[float] = None

    @property
    def is_on(self) -> bool:
        """Does it do anything?"""
        return self.spec.mode not in (None, OFF)


def policies_of(store: Store) -> dict[str, PoolPolicy]:
    """The policy of each pool that has one, by the pool's name."""
    found: dict[str, PoolPolicy] = {}
    for row in store.rows(RECORDED):
        told: dict[str, Any] = from_json(row["policy"])
        found[row["name"]] = PoolPolicy(row["name"], restore(PolicySpec, told), row["asked_at"])
    return found


def spare_servers(store: Store) -> dict[str, int]:
    """For the loss of how many servers each pool keeps room, whatever its policy does otherwise; those that keep none are left out."""
    return {name: one.spec.spare_servers for name, one in policies_of(store).items() if one.spec.spare_servers}
