#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: server_info
short_description: Tell of the capabilities and facts of a server
version_added: 0.1.0
description:
  - Returns the capabilities and facts that there are on the server, and what Domus was told of it. Nothing is changed.
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
  - module: domus.virt.server
"""

EXAMPLES = r"""
- name: What this server is and can do
  domus.virt.server_info:
  register: found

- name: Its virtualization type
  ansible.builtin.debug:
    msg: "{{ found.measured.virtualization }}"
"""

RETURN = r"""
servers:
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
    virtualization:
      description: The virtualization type that new VMs get.
      returned: when the object exists
      type: str
    domain_types:
      description: The virtualization types that libvirt offers.
      returned: when the object exists
      type: list
    machines:
      description: The machine types that VMs can have.
      returned: when the object exists
      type: list
    facts:
      description: 'Hardware, versions and capabilities of the server; sizes in bytes: among them C(uuid) (libvirt''s host
        UUID), C(cpu) (model, vendor, features that its model does not have, and the XML that libvirt compares), C(guest_cpu_xml)
        and C(guest_cpu) (what C(host-model) gives, as XML and as data), C(cpus), C(cpu_topology), C(memory), C(numa_cells)
        (memory, cpus and distances), C(libvirt_version) and C(hypervisor_version); in C(measured) also what the kernel tells:
        C(kernel), C(distribution), C(booted_at), C(machine), C(block_devices) (size, rotational, model, wwn), C(interfaces)
        (kind, link, speed in Mbit/s, ports of bridges and bonds) and C(huge_pages).'
      returned: when the object exists
      type: dict
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
measured:
  description: This server, whether or not it is in a document.
  returned: when O(transport=local)
  type: dict
  contains:
    virtualization:
      description: The virtualization type that new VMs get.
      returned: when the object exists
      type: str
    domain_types:
      description: The virtualization types that libvirt offers.
      returned: when the object exists
      type: list
    machines:
      description: The machine types that VMs can have.
      returned: when the object exists
      type: list
    facts:
      description: 'Hardware, versions and capabilities of the server; sizes in bytes: among them C(uuid) (libvirt''s host
        UUID), C(cpu) (model, vendor, features that its model does not have, and the XML that libvirt compares), C(guest_cpu_xml)
        and C(guest_cpu) (what C(host-model) gives, as XML and as data), C(cpus), C(cpu_topology), C(memory), C(numa_cells)
        (memory, cpus and distances), C(libvirt_version) and C(hypervisor_version); in C(measured) also what the kernel tells:
        C(kernel), C(distribution), C(booted_at), C(machine), C(block_devices) (size, rotational, model, wwn), C(interfaces)
        (kind, link, speed in Mbit/s, ports of bridges and bonds) and C(huge_pages).'
      returned: when the object exists
      type: dict
"""

from ansible_collections.domus.virt.plugins.module_utils.module_glue import run_info_module


def main() -> None:
    """Run the module."""
    run_info_module("server")


if __name__ == "__main__":
    main()
