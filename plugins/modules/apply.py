#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: apply
short_description: Make a server match a site document
version_added: 0.1.0
description:
  - 'Applies a whole site document in one task, ordered by dependency: networks, repositories, templates, ISO images, virtual
    disks and VMs.'
  - 'The document is read from a file on the control node, and nothing in it is a template: what looks like one arrives as
    it is written.'
  - In a play with several hosts each host takes from the document what concerns it, and every VM must name its O(server).
  - Everything is checked before anything is touched. When an object fails after that, those that do not need it go on, and
    the task fails in the end.
author: The Domus developers (!UNKNOWN)
extends_documentation_fragment:
  - domus.virt.common
  - domus.virt.common.wait
  - domus.virt.common.address
  - domus.virt.attributes
options:
  file:
    description: The site document on the control node, YAML or JSON, if need be encrypted by Ansible Vault. Looked for like
      the files of M(ansible.builtin.copy). Required unless O(transport=agent).
    type: path
  server:
    description: Which of the document's servers this host is. Left out, it is the one with the host's name in the inventory.
    type: str
  targets_file:
    description: What a manager wrote for one of its jobs. Used only when O(transport=agent).
    type: path
  document_json:
    description: What was read from O(file). It is filled in by the action plugin, and refused in tasks.
    type: str
  transport:
    description: 'How the document reaches the engine: V(local) on every host of the play, V(manager) from the control node
      by the API of the manager, which knows where everything is (use C(run_once) in a play with several hosts). V(agent)
      is for the jobs of a manager only. Left out, it comes from E(DOMUS_TRANSPORT).'
    type: str
    choices:
      - local
      - manager
      - agent
    default: local
seealso:
  - module: domus.virt.server
  - module: domus.virt.network
  - module: domus.virt.repository
  - module: domus.virt.server_pool
  - module: domus.virt.template
  - module: domus.virt.iso
  - module: domus.virt.virtual_disk
  - module: domus.virt.vm
"""

EXAMPLES = r"""
- name: Make everything as the document says
  domus.virt.apply:
    file: site.yml

- name: Only say what that would do
  domus.virt.apply:
    file: site.yml
  check_mode: true
  diff: true

- name: Wait until every VM that is to run has an address
  domus.virt.apply:
    file: site.yml
    wait_for: address
    wait_timeout: 300
"""

RETURN = r"""
actions:
  description: 'The steps that were taken, or would be in check mode: action, kind and name.'
  returned: always
  type: list
  elements: str
  sample:
    - create virtual_disk main/web1-root
    - create vm web1
    - start vm web1
error:
  description: 'What was wrong: a stable C(code), the message, and where known C(object), C(field), C(value) and C(remedy).'
  returned: on failure
  type: dict
  sample:
    code: conflict
    message: 'a disk can not shrink: it has 20GiB'
    object: vm web1
    field: disks[root].size
    value: 10GiB
restart_required:
  description: The objects with fields that wait for a restart.
  returned: always
  type: list
  elements: str
  sample:
    - vm web1
objects:
  description: Every object of the document, and what it brought along, with what was measured of it (see the module of its
    kind).
  returned: unless refused
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
    changed:
      description: Whether it was changed, or would be.
      returned: always
      type: bool
    actions:
      description: The actions of its steps.
      returned: always
      type: list
      elements: str
    restart_required:
      description: The fields that wait for a restart of it.
      returned: always
      type: list
      elements: str
    error:
      description: What went wrong with it; independent objects go on.
      returned: on failure
      type: dict
    server:
      description: The server that it is on.
      returned: when O(transport=manager), and it is not a server itself
      type: str
"""

from ansible_collections.domus.virt.plugins.module_utils.module_glue import run_apply_module


def main() -> None:
    """Run the module."""
    run_apply_module()


if __name__ == "__main__":
    main()
