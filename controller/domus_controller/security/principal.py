"""Who asks, and what that allows."""

from __future__ import annotations

import dataclasses

from domus_core.errors import InvalidSpec

VIEWER, OPERATOR, ADMINISTRATOR = "viewer", "operator", "administrator"
# Each role may do what those before it may, and one thing more.
ROLES = (VIEWER, OPERATOR, ADMINISTRATOR)
READ, OPERATE, ADMINISTER = "read", "operate", "administer"
PERMISSIONS = (READ, OPERATE, ADMINISTER)


@dataclasses.dataclass(frozen=True)
class Principal:
    """A person (or a token of theirs) that was authenticated."""

    name: str
    role: str


def may(principal: Principal, permission: str) -> bool:
    """Does the principal's role allow this? What is unknown is never allowed."""
    if principal.role not in ROLES or permission not in PERMISSIONS:
        return False
    return ROLES.index(principal.role) >= PERMISSIONS.index(permission)


def role_for(permission: str) -> str:
    """The least role that has a permission; no role has one that is not known."""
    return ROLES[PERMISSIONS.index(permission)] if permission in PERMISSIONS else "of nobody"


def checked_role(role: str) -> str:
    """The role. Raises InvalidSpec when there is none of that name."""
    if role not in ROLES:
        raise InvalidSpec("is not a role", field="role", value=role, remedy=f"Roles: {', '.join(ROLES)}")
    return role


def lower_role(first: str, second: str) -> str:
    """The one of two roles that allows less. Raises InvalidSpec."""
    return min(checked_role(first), checked_role(second), key=ROLES.index)
