"""What the manager is told at its start: one YAML file, checked as a whole."""

from __future__ import annotations

import dataclasses
import os
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

import yaml
from domus_core.errors import InvalidSpec

DEFAULT_PATH = "/etc/domus/manager.yml"
VARIABLE = "DOMUS_MANAGER_CONFIG"


@dataclasses.dataclass(frozen=True)
class ManagerConfig:
    """The manager's configuration; times are in the unit that the name says."""

    directory: Path = Path("/var/lib/domus/manager")
    run_directory: Path = Path("/run/domus")
    url: str = "https://localhost:7002"
    site: str = "default"
    socket: Path = Path("/run/domus/manager.sock")
    runner_socket: Path = Path("/run/domus/runner.sock")
    collections: Path = Path("/usr/share/ansible/collections")
    job_limit: int = 4
    job_seconds: int = 3600
    web_address: str = "0.0.0.0"
    web_port: int = 7002
    keep_jobs_days: int = 30
    disconnected_seconds: int = 30
    offline_seconds: int = 120
    policy_start_seconds: int = 180
    #: the name of the VM that the manager runs in, if it runs in one of its own
    own_vm: str = ""


SECONDS_OF_SERVERS = ("disconnected_seconds", "offline_seconds", "policy_start_seconds")
LEAST = {"job_limit": 1, "job_seconds": 1, "web_port": 1, "keep_jobs_days": 1, **dict.fromkeys(SECONDS_OF_SERVERS, 1)}
MOST = {"job_limit": 1000, "job_seconds": 604800, "web_port": 65535, "keep_jobs_days": 36500, **dict.fromkeys(SECONDS_OF_SERVERS, 86400)}


def load_config(path: Optional[Path] = None) -> ManagerConfig:
    """The configuration in `path`, else in the file that $DOMUS_MANAGER_CONFIG names, else in /etc/domus/manager.yml.

    A file that is not there means the defaults, unless it was named. Raises InvalidSpec.
    """
    named = path or os.environ.get(VARIABLE)
    file = Path(named or DEFAULT_PATH)
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if named:
            raise InvalidSpec("is not there", object=f"configuration {file}", remedy=f"Write it, or let {VARIABLE} name another") from None
        data = None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        problem = " ".join(str(error).split())
        raise InvalidSpec(f"can not be read: {problem}", object=f"configuration {file}", remedy="It must be a YAML mapping") from None
    return parse_config({} if data is None else data, str(file))


def parse_config(data: Any, source: str = "") -> ManagerConfig:
    """The configuration that a mapping describes; `run_directory` moves both sockets along. Raises InvalidSpec."""
    label = f"configuration {source}".strip()
    if not isinstance(data, Mapping):
        raise InvalidSpec("is not a mapping", object=label, value=type(data).__name__)
    types = typing.get_type_hints(ManagerConfig)
    unknown = [str(name) for name in data if name not in types]
    if unknown:
        raise InvalidSpec("is not a known key", object=label, field=unknown[0], remedy=f"Known keys: {', '.join(types)}")
    values = {name: _value(name, types[name], value, label) for name, value in data.items()}
    if "run_directory" in values:
        values = {"socket": values["run_directory"] / "manager.sock", "runner_socket": values["run_directory"] / "runner.sock", **values}
    return ManagerConfig(**values)


def _value(name: str, wanted: type, value: Any, label: str) -> Any:
    if wanted is int:
        if isinstance(value, bool) or not isinstance(value, int) or not LEAST[name] <= value <= MOST[name]:
            raise InvalidSpec(f"is not a number from {LEAST[name]} to {MOST[name]}", object=label, field=name, value=value)
        return value
    if not isinstance(value, str) or not value or "\0" in value:
        raise InvalidSpec("is not a text", object=label, field=name, value=value)
    if wanted is Path:
        if not os.path.isabs(value):
            raise InvalidSpec("is not an absolute path", object=label, field=name, value=value)
        return Path(value)
    if name == "url" and not value.startswith("https://"):
        raise InvalidSpec("is not an https URL", object=label, field=name, value=value)
    return value.rstrip("/") if name == "url" else value
