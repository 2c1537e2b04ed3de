"""The OCF agent's door: an action's name and Pacemaker's environment in, a return code out."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Callable

from .libvirt_host import LibvirtHost, Settings
from .vm_agent import ERR_ARGS, ERR_CONFIGURED, ERR_INSTALLED, ERR_UNIMPLEMENTED, Answer, VmAgent

SETTINGS = "/etc/domus/pool.json"
# What Pacemaker allows for an operation is not all ours: it must hear of the result before its own time is over.
MARGIN = 5.0
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def perform(action: str, environment: Mapping[str, str]) -> Answer:
    """Carry out one action."""
    name, uuid = environment.get("OCF_RESKEY_name", ""), environment.get("OCF_RESKEY_uuid", "")
    if not re.fullmatch(r"[A-Za-z0-9_.][A-Za-z0-9_.-]{0,62}", name):
        return Answer(ERR_CONFIGURED, f"the parameter name is no VM's name: {name[:80]!r}")
    if not _UUID.fullmatch(uuid):
        return Answer(ERR_CONFIGURED, f"the parameter uuid is no UUID: {uuid[:80]!r}")
    try:
        settings = read_settings(environment.get("DOMUS_POOL_SETTINGS", SETTINGS))
    except (OSError, ValueError, TypeError) as error:
        return Answer(ERR_INSTALLED, f"the settings of the pool can not be read: {error}")
    settings = dataclasses.replace(settings, state=environment.get("DOMUS_HA_STATE", settings.state))
    seconds = _seconds(environment)
    host = LibvirtHost(settings, name, uuid, environment.get("OCF_RESOURCE_INSTANCE", ""), seconds)
    is_probe = environment.get("OCF_RESKEY_CRM_meta_interval", "0") == "0"
    agent = VmAgent(host, seconds, settings.lock_patience, is_probe)
    actions: dict[str, Callable[[], Answer]] = {
        "monitor": agent.monitor,
        "start": agent.start,
        "stop": agent.stop,
        "migrate_to": lambda: _migrate(agent, environment),
        "migrate_from": agent.migrate_from,
        "validate-all": agent.validate,
    }
    if action not in actions:
        return Answer(ERR_UNIMPLEMENTED, f"there is no action {action[:80]!r}")
    return actions[action]()


def read_settings(path: str) -> Settings:
    """The settings of the pool on this server. Raises OSError, ValueError, TypeError."""
    with open(path, encoding="utf-8") as file:
        return Settings(**json.load(file))


def _seconds(environment: Mapping[str, str]) -> float:
    """What the operation may take; Pacemaker tells milliseconds."""
    told = environment.get("OCF_RESKEY_CRM_meta_timeout", "")
    return max(MARGIN, int(told) / 1000 - MARGIN) if told.isdigit() else 115.0


def _migrate(agent: VmAgent, environment: Mapping[str, str]) -> Answer:
    target = environment.get("OCF_RESKEY_CRM_meta_migrate_target", "")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]{0,254}", target):
        return Answer(ERR_ARGS, f"Pacemaker told no server to migrate to: {target[:80]!r}")
    return agent.migrate_to(target)
