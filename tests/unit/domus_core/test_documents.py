"""Reading documents: what is refused before anything looks at it, within bounds of time and memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from domus_core import documents
from domus_core.documents import DEEPEST, LARGEST, LARGEST_YAML, load_document
from domus_core.errors import DomusError, InvalidSpec, Unsupported

ROOT = Path(__file__).parents[3]
DEEP = 100_000
# A child that may use 1 GiB: a document that explodes ends it instead of the machine.
LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
sys.path.insert(0, "plugins/module_utils")
from domus_core.documents import load_document
from domus_core.errors import DomusError
from domus_core.model.document import parse_document
try:
    parse_document(load_document(eval(sys.argv[1])))
except DomusError as error:
    print(type(error).__name__, str(error)[:300], len(str(error.as_dict())) < 100_000 and len(getattr(error, "errors", [])) <= 200)
"""


def refusal(text: str) -> DomusError:
    """The error that reading the text raises."""
    with pytest.raises(DomusError) as caught:
        load_document(text, name="site.yml")
    return caught.value


def outcome_in_bounds(expression: str) -> str:
    """What a process of bounded memory says to the document that a Python expression makes."""
    done = subprocess.run([sys.executable, "-c", LIMITED, expression], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    return done.stdout.strip()


def test_json_and_yaml_say_the_same() -> None:
    data = {"site": "paris", "vms": [{"name": "web1", "tags": ["a"], "cpus": 2, "autostart": True}]}
    assert load_document(json.dumps(data)) == data
    assert load_document("site: paris\nvms:\n- {name: web1, tags: [a], cpus: 2, autostart: true}\n") == data
    assert load_document("{site: paris, vms: [{name: web1, tags: [a], cpus: 2, autostart: true}]}") == data


@pytest.mark.parametrize(
    "text",
    [
        '{"vms": [], "vms": []}',
        "vms: []\nvms: []",
        "vms: [{name: a, cpus: 1, cpus: 2}]",
        '[{"name": 1, "name": 2}]',
        "{a: 1, a: 2}",
        "a: 1\n'a': 2",
        "<<: {}\n<<: {}",
    ],
)
def test_a_key_given_twice_is_refused(text: str) -> None:
    error = refusal(text)
    assert (error.code, error.object, error.remedy) == ("invalid_spec", "site.yml", "Keep one of them")
    assert "twice" in error.message and error.field in ("vms", "cpus", "name", "a", "<<")


def test_a_merged_key_may_be_overridden() -> None:
    assert load_document("base: &b {cpus: 1, name: a}\nvm: {<<: *b, name: c}") == {"base": {"cpus": 1, "name": "a"}, "vm": {"cpus": 1, "name": "c"}}


@pytest.mark.parametrize(
    "expression",
    [
        f"'[' * {DEEP}",
        f"'{{\"a\":' * {DEEP}",
        f"'[' * {DEEP} + ']' * {DEEP}",
        f"'- ' * {DEEP}",
        f"'a: ' + '[' * {DEEP}",
        f"'[' * {DEEP} + '\\n#'",
        f"'? ' * {DEEP}",
    ],
)
def test_deep_nesting_is_refused_without_a_crash(expression: str) -> None:
    assert outcome_in_bounds(expression).startswith("InvalidSpec")


def test_yaml_may_be_as_deep_as_promised() -> None:
    assert load_document("x: " + "[" * (DEEPEST - 1) + "]" * (DEEPEST - 1))
    assert "levels deep" in refusal("x: " + "[" * DEEPEST + "]" * DEEPEST).message


@pytest.mark.parametrize("text", ["x" * (100 << 20), '{"a": "' + "x" * (100 << 20) + '"}'], ids=["text", "json"])
def test_a_hundred_megabytes_are_refused(text: str) -> None:
    assert (refusal(text).message, refusal(text).remedy) == (f"is larger than {LARGEST >> 20} MiB", "Split it")


def test_large_yaml_is_refused() -> None:
    error = refusal("# " + "x" * LARGEST_YAML)
    assert error.message == f"is YAML of more than {LARGEST_YAML >> 20} MiB" and "JSON" in error.remedy
    assert refusal("{" + "x" * LARGEST_YAML).code == "invalid_spec"


BOMBS = {
    "lists": "'a0: &a0 [x]\\n' + ''.join(f'a{i}: &a{i} [{\",\".join([f\"*a{i-1}\"] * 10)}]\\n' for i in range(1, 30))",
    "merges": "'a0: &a0 {k: v}\\n' + ''.join(f'a{i}: &a{i} {{<<: [{\",\".join([f\"*a{i-1}\"] * 10)}]}}\\n' for i in range(1, 30))",
    "in a field": "'x: &a0 [x]\\n' + ''.join(f'x{i}: &a{i} [{\",\".join([f\"*a{i-1}\"] * 10)}]\\n' for i in range(1, 7)) + 'vms: [{name: a, tags: *a6}]'",
    "endless": "'vms: &a [*a]'",
    "endless mapping": "'vms: &a {x: *a}'",
    "many values": "'x: [' + '1,' * 3_000_000 + ']'",
    "many objects": "'{\"vms\": [' + ','.join(['{}'] * 200_000) + ']}'",
    "many unknown sections": "'{' + ','.join(f'\"s{i}\":1' for i in range(200_000)) + '}'",
    "many unknown keys": "'{\"vms\": [{' + ','.join(f'\"s{i}\":1' for i in range(200_000)) + '}]}'",
    "many wrong devices": '\'{"networks": [{"name": "n", "dns": {"hosts": [\' + \',\'.join([\'{"x": 1, "y": 2}\'] * 4000) + \']}}]}\'',
    "slashes": '\'{"templates": [{"name": "a", "image": "\' + \'/\' * (30 << 20) + \'"}]}\'',
    "long number": '\'{"vms": [{"name": "a", "cpus": \' + \'9\' * 4000 + \'}]}\'',
    "longer number": '\'{"vms": [{"name": "a", "cpus": \' + \'9\' * 100_000 + \'}]}\'',
    "number of many bits": "'vms: [{name: a, cpus: 0x' + 'f' * 100_000 + '}]'",
    "key of many bits": "'vms: [{0x' + 'f' * 100_000 + ': 1}]'",
    "deep value": "'{\"vms\": [{\"name\": \"a\", \"description\": ' + '[' * 900 + ']' * 900 + '}]}'",
    "long text": "'{\"vms\": [{\"name\": \"' + 'a' * (50 << 20) + '\"}]}'",
}


@pytest.mark.parametrize("expression", BOMBS.values(), ids=BOMBS.keys())
def test_what_would_explode_is_refused_in_bounds(expression: str) -> None:
    said = outcome_in_bounds(expression)
    assert said.split()[0] in ("InvalidSpec", "Refused") and said.endswith("True"), said


@pytest.mark.parametrize(
    "text",
    [
        '!!int ""',
        '!!float ""',
        "!!bool x",
        "!!timestamp x",
        "!!python/object/apply:os.system [id]",
        "a: 2020-99-99",
        "\x00",
        "a: \ud800",
        "a: =",
        "? [a]\n: b",
        "a\n--- b",
        "%",
        "a:\n\tb",
        "*a",
        "{",
        "[1",
        '{"a": }',
    ]
    + ["!!omap x", "!!set [a]", "!!pairs {}", "!!binary é", '"\\ud800', "&a", "!", "- !!merge x", "!!value"],
)
def test_broken_text_is_an_invalid_spec(text: str) -> None:
    try:
        load_document(text)
    except InvalidSpec as error:
        assert error.object == "document" and error.message


@pytest.mark.parametrize(
    "text",
    [
        'password: "canary',
        "password: !canary x",
        "password: *canary",
        "{'password': canary: x}",
        "password: canary: x",
        "password: @canary",
        "password: `canary",
        '{"password": "canary" x}',
    ],
)
def test_a_syntax_error_repeats_nothing_of_the_text(text: str) -> None:
    error = refusal(text)
    assert "canary" not in str(error) + json.dumps(error.as_dict())


def test_without_pyyaml_json_still_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "yaml", None)
    assert load_document('{"vms": []}') == {"vms": []}
    assert isinstance(refusal("vms: []"), Unsupported) and "python3-yaml" in refusal("vms: []").remedy
    assert "not JSON" in refusal('{"vms": [').message


@pytest.mark.parametrize("data", [None, 1, "x", [], [{}], True, 1.5])
def test_a_document_is_a_mapping(data: Any) -> None:
    from domus_core.model.document import parse_document

    with pytest.raises(InvalidSpec) as caught:
        parse_document(data)
    assert caught.value.as_dict()["object"] == "document" and "Known sections" in caught.value.remedy
