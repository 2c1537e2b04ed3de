"""The envelopes between agents and their callers: what goes in comes out, and nothing hostile gets through."""

from __future__ import annotations

import json
import xmlrpc.client
from typing import Any

import pytest
from domus_core.clients import wire
from domus_core.clients.wire import (
    PROTOCOL,
    decode_answer,
    decode_request,
    encode_error,
    encode_request,
    encode_result,
    job_urns,
    manager_urn,
    server_urn,
    split_invitation,
)
from domus_core.errors import BY_CODE, Conflict, DomusError, DriverError, InvalidSpec, NotFound, Refused, TooLarge, Unsupported
from hypothesis import given
from hypothesis import strategies as st

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(value=VALUES)
def test_what_goes_in_comes_out(value: Any) -> None:
    assert decode_answer(encode_result(value)) == value
    assert decode_request(encode_request("plan", {"document": value})) == ("plan", {"document": value})


def test_what_xml_can_not_hold_gets_through() -> None:
    odd = {"text": "a\r\n\x00\x0b\ud800 <&]]> é", "large": 2**63, "none": None}
    assert decode_answer(encode_result(odd)) == odd


def test_the_body_is_xml_rpc_with_one_json_text() -> None:
    (text,), method = xmlrpc.client.loads(encode_request("hello", {"n": 1}).decode())
    assert method == "hello" and json.loads(str(text)) == {"protocol": 1, "n": 1}
    (text,), method = xmlrpc.client.loads(encode_result([1]).decode())
    assert method is None and json.loads(str(text)) == {"protocol": 1, "result": [1]}


@pytest.mark.parametrize("kind", BY_CODE.values())
def test_errors_come_out_as_what_they_were(kind: type[DomusError]) -> None:
    error = kind("is wrong", object="vm web1", field="cpus", value=3, remedy="Ask for less")
    with pytest.raises(kind) as raised:
        decode_answer(encode_error(error))
    assert type(raised.value) is kind and raised.value.as_dict() == error.as_dict()


def test_several_errors_and_unknown_ones() -> None:
    refused = Refused([InvalidSpec("is wrong", object="vm a"), NotFound("is not there", object="vm b", remedy="Make it")])
    with pytest.raises(Refused) as raised:
        decode_answer(encode_error(refused))
    assert raised.value.as_dict() == refused.as_dict() and raised.value.code == "invalid_spec"
    for answer in ({"code": "from_the_future", "message": "is new"}, {"code": "error", "message": "is new"}, {"code": ["x"], "message": "is new"}):
        body = xmlrpc.client.dumps((json.dumps({"protocol": PROTOCOL, "error": answer}),), methodresponse=True).encode()
        with pytest.raises(DriverError) as unknown:
            decode_answer(body)
        assert unknown.value.message == "is new"


def test_what_json_can_not_say_is_refused() -> None:
    for value in (float("nan"), float("inf"), {1, 2}, b"x"):
        with pytest.raises(InvalidSpec):
            encode_result({"value": value})
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(InvalidSpec):
        encode_request("plan", {"document": endless})


def call(text: Any, method: str = "plan") -> bytes:
    """A call with this parameter."""
    return xmlrpc.client.dumps((text,), method).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"\xff\xfe\x00",
        b"<methodCall>",
        b"<methodCall><methodName>plan</methodName></methodCall>",
        b"<methodCall><methodName>plan</methodName><params></params></methodCall>",
        b"<methodCall><params><param><value><int>x</int></value></param></params></methodCall>",
        b"<methodCall><params><param><value><nonsense/></value></param></params></methodCall>",
        xmlrpc.client.dumps(("{}", "{}"), "plan").encode(),
        call(5),
        call("["),
        call("[1]"),
        call('{"protocol": 1, "n": NaN}'),
        call('{"protocol": 1, "n": -Infinity}'),
        call("[" * 200_000),
        call('{"protocol": 1, "n": ' + "9" * 10_000 + "}"),
        xmlrpc.client.dumps(('{"protocol": 1}',), methodresponse=True).encode(),
        b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaa">]><methodCall><methodName>&a;</methodName><params/></methodCall>',
    ],
)
def test_what_is_no_call_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidSpec) as raised:
        decode_request(body)
    assert len(str(raised.value)) < 400 and json.dumps(raised.value.as_dict())


@given(body=st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_no_body_breaks_it(body: bytes) -> None:
    with pytest.raises((InvalidSpec, Unsupported)):
        decode_request(body)
    with pytest.raises(DomusError):
        decode_answer(body)


@pytest.mark.parametrize("protocol", [2, 0, "1", None, True, 1.5, [1]])
def test_another_protocol_is_unsupported(protocol: Any) -> None:
    with pytest.raises(Unsupported) as raised:
        decode_request(call(json.dumps({"protocol": protocol})))
    assert raised.value.code == "unsupported" and raised.value.remedy
    with pytest.raises(Unsupported):
        decode_answer(xmlrpc.client.dumps((json.dumps({"protocol": protocol, "result": 1}),), methodresponse=True).encode())


def test_answers_of_others_are_driver_errors() -> None:
    fault = xmlrpc.client.dumps(xmlrpc.client.Fault(1, "boom"), methodresponse=True).encode()
    empty = xmlrpc.client.dumps((json.dumps({"protocol": 1}),), methodresponse=True).encode()
    for body, told in ((fault, "boom"), (empty, "neither"), (b"<html>", "not an agent's")):
        with pytest.raises(DriverError) as raised:
            decode_answer(body)
        assert told in raised.value.message and raised.value.remedy


def test_a_body_that_is_too_large_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MOST_BYTES", 1000)
    with pytest.raises(TooLarge):
        encode_request("plan", {"document": "x" * 1000})
    with pytest.raises(TooLarge):
        decode_request(b" " * 1001)


def test_invitations_and_names() -> None:
    fingerprint, secret = "ab" * 32, "cd" * 16
    assert split_invitation(f" {fingerprint}:{secret}\n") == (fingerprint, secret)
    for wrong in ("", fingerprint, f"{fingerprint}:{secret}0", f"{fingerprint[1:]}:{secret}", f"{fingerprint}:{secret.upper()}", None, 5):
        with pytest.raises(InvalidSpec) as raised:
            split_invitation(wrong)  # type: ignore[arg-type]
        assert raised.value.value is None, "a secret is not repeated"
    assert (server_urn("s"), manager_urn("m")) == ("urn:domus:server:s", "urn:domus:manager:m")
    assert job_urns("j", ["a", "b"]) == ["urn:domus:job:j", "urn:domus:for:a", "urn:domus:for:b"]


def test_the_parser_is_the_safe_one_here() -> None:
    assert wire.Parser.__module__.startswith("defusedxml")
    assert isinstance(Conflict("x"), DomusError)
