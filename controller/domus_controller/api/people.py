"""Who asks, their tokens, and the people who may log in."""

from __future__ import annotations

from typing import Any

from domus_core.errors import Forbidden
from domus_core.model.secrets import Secret
from flask import Response

from ..security import passwords
from ..security.principal import ADMINISTER, ADMINISTRATOR, PERMISSIONS, ROLES, lower_role, may
from ..store import person_certificates, tokens, users
from .bodies import NewCertificate, NewPassword, NewToken, NewUser
from .call import Call, answer


def show_me(call: Call) -> Response:
    """Name, role and permissions of who asks."""
    permissions = [permission for permission in PERMISSIONS if may(call.principal, permission)]
    return answer({"name": call.principal.name, "role": call.principal.role, "permissions": permissions})


def list_tokens(call: Call) -> Response:
    """The tokens of who asks; an administrator sees those of all."""
    owner = None if _administers(call) else call.principal.name
    return answer({"items": tokens.list(call.parts.store, owner), "next": None})


def create_token(call: Call) -> Response:
    """Make a token that may do no more than who asks; only this answer shows it."""
    wanted = call.body(NewToken)
    role = wanted.role or call.principal.role
    if ROLES.index(role) > ROLES.index(call.principal.role):
        raise Forbidden(f"a token may do no more than you: {call.principal.role}", object=f"token {wanted.name}", field="role", value=role)
    item, plaintext = tokens.create(call.parts.store, call.principal.name, wanted.name, role, wanted.expires_at)
    return answer({**item, "token": plaintext}, 201, {"Cache-Control": "no-store"})


def revoke_token(call: Call) -> Response:
    """Revoke a token of who asks; an administrator may revoke any."""
    owner = None if _administers(call) else call.principal.name
    tokens.revoke(call.parts.store, call.path["id"], owner)
    return Response(status=204)


def list_certificates(call: Call) -> Response:
    """The certificates of who asks; an administrator sees those of all."""
    owner = None if _administers(call) else call.principal.name
    return answer({"items": person_certificates.list(call.parts.store, owner), "next": None})


def create_certificate(call: Call) -> Response:
    """Sign a person's key. It is good for what who asks may do, and for no more than that person may."""
    wanted, user = call.body(NewCertificate), call.path["name"]
    if user != call.principal.name and not _administers(call):
        raise Forbidden("is somebody else", object=f"user {user}", remedy="Ask an administrator, or for a certificate of your own")
    role = lower_role(wanted.role or ADMINISTRATOR, call.principal.role)
    return answer(call.parts.agents.trust.certify(wanted.csr, user, wanted.name or "", role), 201)


def revoke_certificate(call: Call) -> Response:
    """Accept a certificate of who asks no more; an administrator may revoke any."""
    owner = None if _administers(call) else call.principal.name
    person_certificates.revoke(call.parts.store, call.path["serial"].lower(), owner)
    return Response(status=204)


def list_users(call: Call) -> Response:
    """All people."""
    return answer({"items": users.list(call.parts.store), "next": None})


def create_user(call: Call) -> Response:
    """Let a person in."""
    wanted = call.body(NewUser)
    made = users.create(call.parts.store, wanted.name, passwords.hash(_revealed(wanted.password)), wanted.role)
    return answer(made, 201, {"Location": f"/api/v1/users/{wanted.name}"})


def delete_user(call: Call) -> Response:
    """Let a person in no more."""
    if call.path["name"] == call.principal.name:
        raise Forbidden("nobody can remove themselves", object=f"user {call.principal.name}", remedy="Let another administrator do it")
    users.remove(call.parts.store, call.path["name"])
    return Response(status=204)


def set_password(call: Call) -> Response:
    """Give a person another password."""
    wanted = call.body(NewPassword)
    users.set_password(call.parts.store, call.path["name"], passwords.hash(_revealed(wanted.password)))
    return Response(status=204)


def _administers(call: Call) -> bool:
    return may(call.principal, ADMINISTER)


def _revealed(secret: Any) -> str:
    return secret.reveal() if isinstance(secret, Secret) else str(secret)
