"""What goes over the wire between agents and those who call them: one JSON text in, one JSON text out, inside XML-RPC."""

from __future__ import annotations

import json
import re
import xmlrpc.client
from collections.abc import Mapping
from typing import Any
from xml.parsers.expat import ExpatError

from ..errors import DomusError, DriverError, InvalidSpec, TooLarge, Unsupported, error_from_dict

Parser: Any = xmlrpc.client.ExpatParser
try:
    from defusedxml.xmlrpc import DefusedExpatParser as _Safe
except ImportError:  # the agent and the manager require it; where neither is, expat itself refuses entities that explode
    pass
else:
    Parser = _Safe

PATH = "/RPC2"
PROTOCOL = 1
PROTOCOLS = (1,)
MOST_BYTES = 64 << 20
# Carried out a second time, these do the same again, or nothing.
NOT_IDEMPOTENT = frozenset({"take_over"})
_ANY_UUID = "-".join("?" * length for length in (8, 4, 4, 4, 12))
_INVITATION = re.compile(r"([0-9a-f]{64}):([0-9a-f]{32})")


def encode_request(method: str, parameters: Mapping[str, Any]) -> bytes:
    """The body of a call. Raises InvalidSpec for what JSON can not say, TooLarge beyond 64 MiB."""
    return _body(xmlrpc.client.dumps((_text({**parameters, "protocol": PROTOCOL}),), method))


def decode_request(body: bytes) -> tuple[str, dict[str, Any]]:
    """Method and parameters of a call's body. Raises InvalidSpec, TooLarge, and Unsupported for another protocol."""
    method, text = _open(body)
    if not method:
        raise InvalidSpec("is no call", object="request", remedy="Send an XML-RPC methodCall with one string")
    data = _load(text, "request")
    _check_protocol(data, "request")
    return method, {name: value for name, value in data.items() if name != "protocol"}


def encode_result(result: Any) -> bytes:
    """The body of an answer. Raises InvalidSpec for what JSON can not say, TooLarge beyond 64 MiB."""
    return _answer({"protocol": PROTOCOL, "result": result})


def encode_error(error: DomusError) -> bytes:
    """The body of an answer that tells an error."""
    return _answer({"protocol": PROTOCOL, "error": error.as_dict()})


def decode_answer(body: bytes) -> Any:
    """The result in an answer's body. Raises the error that the answer tells; DriverError when it is none of ours."""
    try:
        data = _load(_open(body)[1], "answer")
        _check_protocol(data, "answer")
    except xmlrpc.client.Fault as fault:
        raise DriverError(f"the agent failed: {fault.faultString}", remedy="Look at its log: journalctl -u domus-agent") from None
    except InvalidSpec as error:
        raise DriverError(f"the answer is not an agent's: {error.message}", remedy="Is it a Domus agent that listens there?") from None
    if isinstance(data.get("error"), Mapping):
        raise error_from_dict(data["error"])
    if "result" not in data:
        raise DriverError("the answer holds neither a result nor an error", remedy="Is it a Domus agent that listens there?")
    return data["result"]


def server_urn(server_id: str) -> str:
    """The URI that the certificate of a server bears."""
    return f"urn:domus:server:{server_id}"


def manager_urn(manager_id: str) -> str:
    """The URI that a manager's certificate bears."""
    return f"urn:domus:manager:{manager_id}"


def job_urns(job_id: str, server_ids: list[str]) -> list[str]:
    """The URIs that a job's certificate bears: its own, and one for each server it may talk to."""
    return [f"urn:domus:job:{job_id}", *(f"urn:domus:for:{server_id}" for server_id in server_ids)]


def libvirt_subjects(pool: str) -> str:
    """The pattern, for `tls_allowed_dn_list` of libvirtd.conf, of the certificates of a pool's servers as GnuTLS prints their subjects."""
    return f"O=Domus,OU={pool},CN={_ANY_UUID}"


def split_invitation(text: str) -> tuple[str, str]:
    """The two halves of what a free server prints: its certificate's fingerprint, and the secret. Raises InvalidSpec."""
    match = _INVITATION.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise InvalidSpec("is not a server's secret", field="secret", remedy="Take the line fingerprint:secret that `domus-agent status` shows on the server")
    return match.group(1), match.group(2)


def _text(data: Any) -> str:
    try:
        return json.dumps(data, allow_nan=False, separators=(",", ":"))
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidSpec(f"can not be said in JSON: {error}", object="message") from None


def _answer(data: Any) -> bytes:
    return _body(xmlrpc.client.dumps((_text(data),), methodresponse=True))


def _body(text: str) -> bytes:
    body = text.encode("ascii")
    _check_size(len(body))
    return body


def _check_size(size: int) -> None:
    if size > MOST_BYTES:
        raise TooLarge(f"is {size >> 20} MiB, more than {MOST_BYTES >> 20} MiB", object="message", remedy="Split the document")


def _open(body: bytes) -> tuple[str, str]:
    """Method (empty in an answer) and text of an XML-RPC body. Raises InvalidSpec, TooLarge, Fault."""
    _check_size(len(body))
    unmarshaller = xmlrpc.client.Unmarshaller()
    try:
        parser = Parser(unmarshaller)
        parser.feed(body)
        parser.close()
        values: Any = unmarshaller.close()
    except xmlrpc.client.Fault:
        raise
    except (ExpatError, ValueError, TypeError, LookupError, AttributeError, xmlrpc.client.Error) as error:
        raise InvalidSpec(f"is not XML-RPC: {type(error).__name__}", object="message", remedy="Send one string, which holds JSON") from None
    if len(values) != 1 or not isinstance(values[0], str):
        raise InvalidSpec("does not hold one string", object="message", remedy="Send one string, which holds JSON")
    return unmarshaller.getmethodname() or "", values[0]


def _load(text: str, what: str) -> dict[str, Any]:
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidSpec(f"is not JSON: {str(error)[:80]}", object=what) from None
    if not isinstance(data, dict):
        raise InvalidSpec("is not a JSON object", object=what, value=type(data).__name__)
    return data


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _check_protocol(data: Mapping[str, Any], what: str) -> None:
    spoken = data.get("protocol")
    if isinstance(spoken, bool) or spoken not in PROTOCOLS:
        raise Unsupported(
            f"speaks a protocol that is not known here, only {', '.join(map(str, PROTOCOLS))}",
            object=what,
            field="protocol",
            value=spoken,
            remedy="Bring agent and manager to the same version",
        )
