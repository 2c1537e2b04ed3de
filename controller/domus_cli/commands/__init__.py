"""All commands of `domus`, a file for each subject."""

from __future__ import annotations

import click
from domus_core.version import VERSION

from .documents import adopt_command, apply_command, drift_command, plan_command
from .events import event_group
from .jobs import job_group
from .login import completion_command, login_command
from .objects import kind_groups
from .people import user_group
from .pools import pool_group
from .servers import server_group
from .vms import vm_group


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(VERSION, prog_name="domus")
def domus() -> None:
    """Virtual machines from text: apply documents, look at VMs and servers, follow jobs.

    Where the manager is comes from ~/.config/domus/config.yml (written by `domus login`), or from $DOMUS_URL, $DOMUS_TOKEN and $DOMUS_CA.

    Exit codes: 0 done or nothing to change; 1 refused or failed; 2 there is something to change (plan) or drift; 3 the manager does not answer or
    does not let us in; 64 wrong usage; 130 interrupted.
    """


for _command in (
    apply_command,
    plan_command,
    drift_command,
    adopt_command,
    vm_group,
    *kind_groups(),
    server_group,
    pool_group,
    job_group,
    event_group,
    user_group,
    login_command,
    completion_command,
):
    domus.add_command(_command)
