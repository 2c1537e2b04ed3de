#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: server_pool_info
short_description: Tell of the server pools of a server
version_added: 0.1.0
description:
  - Returns the server pools that there are on the server, that the server is in. Nothing is changed.
author: The Domus developers (!UNKNOWN)
extends_documentation_fragment:
  - domus.virt.common
  - domus.virt.common.transport
  - domus.virt.attributes.info
options:
  name:
    description: Tell only of the one with this name.
    type: str
seealso:
  - module: domus.virt.server_pool
"""

EXAMPLES = r"""
- name: The pools that the server is in
  domus.virt.server_pool_info:
  register: found

- name: What is not as it was written on it
  ansible.builtin.debug:
    msg: "{{ found.server_pools | items2dict(key_name='name', value_name='amiss') }}"
"""

RETURN = r"""
server_pools:
  description: The objects.
  returned: always
  type: list
  elements: dict
  contains:
    kind:
      description: The kind of the object.
      returned: always
      type: str
    name:
      description: What it is known by; C(repository/name) for a virtual disk.
      returned: always
      type: str
    state:
      description: In which state it is.
      returned: always
      type: str
    registered:
      description: Whether a document has named it; a role may have made the cluster.
      returned: when the object exists
      type: bool
    joined:
      description: Whether the server is a member of the cluster now.
      returned: when the object exists
      type: bool
    quorate:
      description: Whether it belongs to the part that may act.
      returned: when the object exists
      type: bool
    members:
      description: The members that are there, by the names that they have for themselves.
      returned: when the object exists
      type: list
    vms:
      description: The HA VMs that run on the server.
      returned: when the object exists
      type: list
    amiss:
      description: 'What on the server is not as it was written: files, services, Pacemaker''s configuration.'
      returned: when the object exists
      type: list
    lease:
      description: Seconds after which the locks of a server that died fall; null when that is not told.
      returned: when the object exists
      type: int
    spec:
      description: Its definition, in the fields of the module that manages it; sizes in bytes, secrets masked.
      returned: always
      type: dict
    asked:
      description: What Domus was asked for, in the same fields.
      returned: when Domus keeps a record of that
      type: dict
    server:
      description: The server that it is on.
      returned: when O(transport=manager), and it is not a server itself
      type: str
    restart_required:
      description: The fields that wait for a restart of it.
      returned: always
      type: list
      elements: str
"""

from ansible_collections.domus.virt.plugins.module_utils.module_glue import run_info_module


def main() -> None:
    """Run the module."""
    run_info_module("server_pool")


if __name__ == "__main__":
    main()
