#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: repository_info
short_description: Tell of the repositories of a server
version_added: 0.1.0
description:
  - Returns the repositories that there are on the server, with their capacity and free room. Nothing is changed.
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
  - module: domus.virt.repository
"""

EXAMPLES = r"""
- name: All repositories of the server
  domus.virt.repository_info:
  register: found

- name: How much room each has left, in bytes
  ansible.builtin.debug:
    msg: "{{ found.repositories | items2dict(key_name='name', value_name='free') }}"
"""

RETURN = r"""
repositories:
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
    capacity:
      description: Size of its file system in bytes.
      returned: when the object exists
      type: int
    free:
      description: Free room of its file system in bytes.
      returned: when the object exists
      type: int
    available:
      description: Whether its directory is there.
      returned: when the object exists
      type: bool
    registered:
      description: Whether Domus knows it.
      returned: when the object exists
      type: bool
    mounted:
      description: Whether it is mounted; null for a directory that Domus does not mount.
      returned: when the object exists
      type: bool
    shared:
      description: Whether it is the same files on every server that it is presented to.
      returned: when the object exists
      type: bool
    file_system:
      description: The type of its file system.
      returned: when the object exists
      type: str
    uuid:
      description: What a shared repository is known by everywhere.
      returned: when the object exists
      type: str
    lease:
      description: Seconds after which the locks of a server that died fall; null when that is not told.
      returned: when the object exists
      type: int
    problem:
      description: Why it is not available.
      returned: when the object exists
      type: str
    not_for_ha:
      description: Why VMs on it can not be restarted on another server.
      returned: when the object exists
      type: str
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
    run_info_module("repository")


if __name__ == "__main__":
    main()
