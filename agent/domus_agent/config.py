"""What an agent is told before it starts: where its files are, which libvirt it works on, where its door is."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, Optional

import yaml
from domus_core.errors import InvalidSpec

VARIABLE = "DOMUS_AGENT_CONFIG"
PATH = "/etc/domus/agent.yml"


@dataclasses.dataclass(frozen=True)
class AgentConfig:
    """The settings of an agent; each key of its file is a field here. Times are in seconds.

    With `libvirt_tls` libvirt and QEMU get certificates of the manager (below `pki_directory`), and libvirt listens on port 16514.
    `migration_uri` leads to another server's libvirt at an address; `migration_address` is where VMs that come are to be sent (empty:
    where the manager reaches this server). `power_off` false: nobody switches this server off by its agent.
    """

    directory: str = "/var/lib/domus/agent"
    state_directory: str = "/var/lib/domus"
    uri: str = "qemu:///system"
    address: str = "0.0.0.0"
    port: int = 8899
    heartbeat: float = 10.0
    statistics: float = 20.0
    libvirt_tls: bool = False
    pki_directory: str = "/etc/pki"
    migration_uri: str = "qemu+tls://{address}/system"
    migration_address: str = ""
    power_off: bool = True


def load_config(environment: Optional[Mapping[str, str]] = None) -> AgentConfig:
    """The settings of the file that $DOMUS_AGENT_CONFIG names, else of /etc/domus/agent.yml, else the defaults. Raises InvalidSpec."""
    path = (os.environ if environment is None else environment).get(VARIABLE)
    if path is None and not os.path.exists(PATH):
        return AgentConfig()
    try:
        with open(path or PATH, encoding="utf-8") as file:
            data = yaml.safe_load(file)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidSpec(f"the agent's settings can not be read: {error}", object=path or PATH) from None
    return config_from(data if data is not None else {}, path or PATH)


def config_from(data: Any, source: str = "") -> AgentConfig:
    """Settings from plain data. Raises InvalidSpec for an unknown key or a value that can not be."""
    if not isinstance(data, Mapping):
        raise InvalidSpec("the agent's settings are a mapping of names to values", object=source)
    fields = {field.name: field for field in dataclasses.fields(AgentConfig)}
    values: dict[str, Any] = {}
    for name, value in data.items():
        if name not in fields:
            raise InvalidSpec("there is no such setting", object=source, field=str(name), remedy=f"Known: {', '.join(fields)}")
        values[name] = _value(source, str(name), type(fields[name].default), value)
    if not 0 <= values.get("port", 0) <= 65535:
        raise InvalidSpec("is no port number", object=source, field="port", value=values["port"])
    return AgentConfig(**values)


def _value(source: str, name: str, kind: type, value: Any) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool) or value == "":
        raise InvalidSpec(f"must be of type {kind.__name__}", object=source, field=name, value=value)
    if isinstance(value, float) and not 0.1 <= value <= 86400.0:
        raise InvalidSpec("must be between 0.1 and 86400 seconds", object=source, field=name, value=value)
    return value
