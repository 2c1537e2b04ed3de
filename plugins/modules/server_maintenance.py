#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: server_maintenance
short_description: Whether a server is in maintenance
version_added: 0.2.0
description:
  - Puts a server of a manager into maintenance, or ends that. A server in maintenance gets no VMs.
  - Talks to the manager, so it can run on any host that reaches it, such as C(localhost).
author: The Domus developers (!UNKNOWN)
extends_documentation_fragment:
  - domus.virt.common.manager
  - domus.virt.attributes
options:
  name:
    description: Name of the server.
    type: str
    required: true
  enabled:
    description: Whether it is to be in maintenance.
    type: bool
    default: true
  evacuate:
    description: Move its running VMs to other servers first. Refused as a whole, before anything moves, when one of them can not.
    type: bool
    default: false
  copy_storage:
    description: With O(evacuate), copy the disks that lie on storage of the server's own.
    type: bool
    default: false
  stopped:
    description: With O(evacuate), move stopped VMs, too, where their disks can be reached from another server; those that can not move stay.
    type: bool
    default: false
  reason:
    description: Why; people see it with the server.
    type: str
  wait_timeout:
    description: How many seconds the evacuation may take; after that the task fails, and the evacuation goes on.
    type: int
    default: 3600
seealso:
  - module: domus.virt.managed_server
"""

EXAMPLES = r"""
- name: Empty srv1 for work on its hardware
  domus.virt.server_maintenance:
    name: srv1
    evacuate: true

- name: It may have VMs again
  domus.virt.server_maintenance:
    name: srv1
    enabled: false
"""

RETURN = r"""
server:
  description: The server as its manager knows it.
  returned: always
  type: dict
error:
  description: 'What was wrong: a stable C(code), the message, and where known C(object), C(field), C(value) and C(remedy).'
  returned: on failure
  type: dict
"""

from ansible_collections.domus.virt.plugins.module_utils.module_glue import run_server_module


def main() -> None:
    """Run the module."""
    run_server_module("server_maintenance")


if __name__ == "__main__":
    main()
