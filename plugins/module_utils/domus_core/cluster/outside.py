"""`domus-agent pool`, run by the system and not below the agent, whose unit may write neither /etc nor /usr, and starts no cluster and no fence agent."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from typing import Any, Optional

from ..errors import DomusError, DriverError, error_from_dict
from ..libvirt_driver.tools import run

AGENT = "domus-agent"


def has_systemd() -> bool:
    """Does systemd run this server?"""
    return os.path.isdir("/run/systemd/system")


def pool_action(action: str, *arguments: str, data: Optional[Mapping[str, Any]] = None, timeout: float, agent: str = AGENT) -> dict[str, Any]:
    """What `domus-agent pool ACTION` tells in JSON; `data` goes to its standard input, and so is seen by nobody. Raises the error that it tells."""
    command = [agent, "pool", action, "--output", "json", *arguments, *(["--file", "-"] if data is not None else [])]
    if has_systemd():
        unit = f"--unit=domus-pool-{action}-{uuid.uuid4().hex[:8]}"
        command = ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", unit, f"--description=domus-agent pool {action}", *command]
    given = None if data is None else json.dumps(data).encode()
    try:
        said = run(command, timeout=timeout, input=given, what=f"domus-agent pool {action}")
    except DriverError as error:
        raise told_error(error) from None
    told = json.loads(said)
    return dict(told)


def told_error(error: DriverError) -> DomusError:
    """The error that `domus-agent` told in JSON on its standard error, or the one that is there."""
    dummy, brace, rest = error.message.partition("{")
    try:
        return error_from_dict(json.loads(brace + rest))
    except (ValueError, AttributeError, TypeError):
        return error
