#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: managed_server
short_description: Which servers a manager owns
version_added: 0.2.0
description:
  - Has a manager take a server over, or let it go. Talks to the manager, so it can run on any host that reaches it, such as C(localhost).
  - A server is taken over once; afterwards the task only looks whether it is there.
author: The Domus developers (!UNKNOWN)
extends_documentation_fragment:
  - domus.virt.common.manager
  - domus.virt.attributes
options:
  name:
    description: Name of the server.
    type: str
    required: true
  state:
    description:
      - With V(managed) the manager owns the server.
      - With V(free) it does not. A server with running VMs is not let go unless O(force).
    type: str
    choices: [managed, free]
    default: managed
  address:
    description: Where its agent answers. Needed when the server is not the manager's yet.
    type: str
  port:
    description: The port of its agent. Left out for a new server, it is 8899.
    type: int
  secret:
    description: The one-time secret that C(domus-agent secret) shows on the server. Needed when the server is not the manager's yet.
    type: str
  pool:
    description: The pool that it becomes a member of. Left out, C(default).
    type: str
  replace:
    description: The server was installed anew. What the manager knows of the old one of this name is given up.
    type: bool
    default: false
  force:
    description: Let a server go although VMs run there, or although it does not answer. Then it must be freed on its own console as well.
    type: bool
    default: false
  fresh:
    description: Wait for a report that comes after this task has begun; what the server told before it was restarted does not count.
    type: bool
    default: false
  wait:
    description: Whether to wait until the server has reported to its manager.
    type: bool
    default: true
  wait_timeout:
    description: How many seconds to wait at most; after that the task fails.
    type: int
    default: 120
seealso:
  - module: domus.virt.server_maintenance
"""

EXAMPLES = r"""
- name: The manager owns srv1
  domus.virt.managed_server:
    name: srv1
    address: 192.0.2.11
    secret: "{{ agent_secret }}"

- name: And lets it go
  domus.virt.managed_server:
    name: srv1
    state: free
"""

RETURN = r"""
server:
  description: The server as its manager knows it, empty when it does not.
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
    run_server_module("managed_server")


if __name__ == "__main__":
    main()
