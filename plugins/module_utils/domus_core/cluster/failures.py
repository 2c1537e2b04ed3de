"""Failures that are shown, forgotten once somebody has mended their cause, without a VM that runs being restarted for it."""

from __future__ import annotations

import time

from ..errors import DomusError, Unreachable
from ..libvirt_driver.tools import run
from .cib import VM
from .pool_status import read_status

SECONDS, PATIENCE, PAUSE = 60.0, 60.0, 0.5


def clear_failures() -> list[str]:
    """Forget every failed action and every failed fencing; returns the resources concerned. Raises DriverError, Unreachable.

    After a failed migration Pacemaker would restart the healthy VM when it forgets: it looks anew first, with the VM out of its hands.
    """
    failed = read_status().failed
    for resource in failed:
        if resource.startswith(VM):
            look_anew(resource)
        else:
            run(["crm_resource", "--cleanup", "--resource", resource], timeout=SECONDS, what=f"clearing {resource}")
    run(["stonith_admin", "--cleanup", "--history", "*"], timeout=SECONDS, what="clearing the history of fencing")
    return list(failed)


def look_anew(resource: str) -> None:
    """Forget what failed of a VM, with it out of Pacemaker's hands until every server has told whether it runs there. Raises DriverError, Unreachable."""
    of_it = ["crm_resource", "--resource", resource]
    run([*of_it, "--meta", "--set-parameter", "is-managed", "--parameter-value", "false"], timeout=SECONDS, what=f"holding {resource}")
    try:
        run([*of_it, "--refresh"], timeout=SECONDS, what=f"clearing {resource}")
        _wait_until_seen(resource)
    finally:
        run([*of_it, "--meta", "--delete-parameter", "is-managed"], timeout=SECONDS, what=f"giving {resource} back to Pacemaker")


def _wait_until_seen(resource: str) -> None:
    """Until every server has said whether it runs there."""
    end = time.monotonic() + PATIENCE
    run(["crm_resource", "--wait", "--timeout", f"{PATIENCE:g}s"], timeout=PATIENCE + 10, what="waiting for Pacemaker")
    while _is_failed(resource):
        if time.monotonic() > end:
            raise Unreachable(f"{resource} is still shown as failed after {PATIENCE:g} s", remedy="domus-agent pool status")
        time.sleep(PAUSE)


def _is_failed(resource: str) -> bool:
    """As far as anybody can say."""
    try:
        return resource in read_status().failed
    except DomusError:
        return True
