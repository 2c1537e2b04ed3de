#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: vm_info
short_description: Tell of the VMs of a server
version_added: 0.1.0
description:
  - Returns the VMs that there are on the server, Domus's own and others. Nothing is changed.
author: The Domus developers (!UNKNOWN)
extends_documentation_fragment:
  - domus.virt.common
  - domus.virt.common.transport
  - domus.virt.attributes.info
options:
  name:
    description: Tell only of the one with this name.
    type: str
  as_document:
    description: Return a site document with every field of the VMs, as they are now, and a list of what in their definitions
      Domus does not manage. Applying that document changes nothing and makes Domus manage them.
    type: bool
    default: false
  site:
    description: The site that the document is for.
    type: str
    default: default
seealso:
  - module: domus.virt.vm
"""

EXAMPLES = r"""
- name: All VMs of the server, Domus's own and others
  domus.virt.vm_info:
  register: found

- name: The addresses of one VM
  domus.virt.vm_info:
    name: web1
  register: web1

- name: Show them
  ansible.builtin.debug:
    msg: "{{ web1.vms | map(attribute='addresses') }}"

- name: Write a document for VMs that were there before Domus came
  domus.virt.vm_info:
    as_document: true
  register: adopted
"""

RETURN = r"""
vms:
  description: The objects.
  returned: unless O(as_document=true)
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
    uuid:
      description: Its UUID.
      returned: when the object exists
      type: str
    memory:
      description: The memory that its guest has now in bytes; null when it does not run.
      returned: when the object exists
      type: int
    persistent:
      description: Whether libvirt keeps a definition of it.
      returned: when the object exists
      type: bool
    managed:
      description: Whether Domus manages it.
      returned: when the object exists
      type: bool
    generation:
      description: How often its specification was changed.
      returned: when the object exists
      type: int
    site:
      description: The site that it belongs to.
      returned: when the object exists
      type: str
    addresses:
      description: Its IP addresses, as far as they are known.
      returned: when the object exists
      type: list
    vnc_port:
      description: The port of its graphical console.
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
document:
  description: A site document with the VMs, and the directories of their disks as repositories.
  returned: when O(as_document=true)
  type: dict
not_managed:
  description: For each VM, what in its definition Domus does not manage.
  returned: when O(as_document=true)
  type: dict
"""

from ansible_collections.domus.virt.plugins.module_utils.module_glue import run_info_module


def main() -> None:
    """Run the module."""
    run_info_module("vm")


if __name__ == "__main__":
    main()
