"""The argument specs come from the field tables, whole and with all constraints."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from plugins.module_utils import module_glue as glue
from plugins.module_utils.domus_core.errors import InvalidSpec
from plugins.module_utils.domus_core.fake_driver.file_driver import FileDriver
from plugins.module_utils.domus_core.model.document import parse_document
from plugins.module_utils.domus_core.model.fields import Object, Objects, public_fields
from plugins.module_utils.domus_core.model.kind import Kind
from plugins.module_utils.domus_core.model.kinds import BY_NAME, KINDS

PYTHON_TYPES = {"str": str, "int": int, "float": float, "bool": bool, "list": list, "dict": dict}


def with_examples(spec: type) -> dict[str, Any]:
    """An object with every field that has an example, those of nested objects as well."""
    values = {}
    for field in public_fields(spec):
        if isinstance(field.type, (Object, Objects)):
            nested = with_examples(field.type.spec)
            values[field.name] = nested if isinstance(field.type, Object) else [nested]
        elif field.example is not None:
            values[field.name] = field.example
    return values


def every_option(options: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """All options with those nested in them."""
    found = []
    for name, option in options.items():
        found += [(name, option), *every_option(option.get("options", {}))]
    return found


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_field_is_an_option_and_no_option_hides_one(kind: Kind) -> None:
    options = glue.resource_options(kind)
    fields = {field.name for field in public_fields(kind.spec)}
    assert fields <= set(options)
    assert not fields & {*glue.COMMON, *glue.CHANGE, *glue.WAIT_FOR}
    assert options["name"]["required"] is True


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_examples_of_the_table_pass_ansible_unchanged(kind: Kind) -> None:
    examples = with_examples(kind.spec)
    result = ArgumentSpecValidator(glue.options_of(kind.spec)).validate(examples)
    assert result.error_messages == []
    assert glue.without_none(result.validated_parameters) == examples


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_option_has_a_type_and_lists_say_of_what(kind: Kind) -> None:
    for name, option in every_option(glue.resource_options(kind)):
        assert option["type"] in {*PYTHON_TYPES, "path"}, name
        assert ("elements" in option) == (option["type"] == "list"), name
        if "options" in option:
            assert "dict" in (option["type"], option.get("elements")), name


def test_choices_requirements_and_secrets_come_from_the_table() -> None:
    options = glue.resource_options(BY_NAME["vm"])
    assert options["state"]["choices"] == ["running", "stopped", "suspended", "paused", "absent"]
    assert options["boot"]["choices"] and options["boot"]["elements"] == "str"
    assert options["disks"]["options"]["name"]["required"] is True
    assert options["memory"]["type"] == "str"
    secret = {name for name, option in every_option(options) if option.get("no_log")}
    assert secret == {"password", "user_data", "network_config", "manager_token"}
    assert glue.apply_options()["document_json"]["no_log"] is True


def test_what_was_left_out_is_not_managed() -> None:
    asked = {"name": "web1", "disks": [{"name": "root", "size": "2GiB"}], "nics": [], "description": "", "autostart": False}
    parameters = ArgumentSpecValidator(glue.options_of(BY_NAME["vm"].spec)).validate(asked).validated_parameters
    assert parameters["disks"][0]["template"] is None
    assert glue.without_none(parameters) == asked


def test_sizes_that_ansible_made_text_of_are_bytes() -> None:
    parameters = ArgumentSpecValidator(glue.options_of(BY_NAME["vm"].spec)).validate({"name": "web1", "memory": 1 << 30}).validated_parameters
    site = parse_document({"vms": [glue.without_none(parameters)]})
    assert site.wanted("vm")["web1"].memory == 1 << 30


def test_the_uri_chooses_the_driver(tmp_path: Any) -> None:
    driver = glue.open_driver_for({"uri": f"fake://{tmp_path}/server.json", "state_directory": str(tmp_path)})
    assert isinstance(driver, FileDriver)
    for uri in ("fake:server.json", "fake://server.json", "fake:///etc/passwd"):
        with pytest.raises(InvalidSpec):
            glue.open_driver_for({"uri": uri, "state_directory": str(tmp_path)})
