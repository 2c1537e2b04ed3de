#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: server
short_description: What Domus is to know of a server, and which virtualization it uses
version_added: 0.1.0
description:
  - Writes down what is wanted of the server that the task runs on.
author: The Domus developers (!UNKNOWN)
extends_documentation_fragment:
  - domus.virt.common
  - domus.virt.common.transport
  - domus.virt.common.site
  - domus.virt.common.wait
  - domus.virt.attributes
options:
  name:
    description:
      - Name of the server, as the inventory has it.
    type: str
    required: true
  description:
    description:
      - Free text.
    type: str
  virtualization:
    description:
      - The virtualization type of its new VMs; C(auto) lets a tiny probe guest find out, once a boot, whether KVM really
        runs guests here.
      - A new object gets C(auto).
    type: str
    choices:
      - auto
      - kvm
      - qemu
  tags:
    description:
      - 'Labels: VMs ask for servers that have them, networks and repositories are realized on those.'
    type: list
    elements: str
  memory_reserve:
    description:
      - Memory that is kept for the server itself when VMs are placed.
      - Bytes, or a number with C(KiB), C(MiB), C(GiB) or C(TiB).
      - A new object gets 502 MiB and 2.05 % of its memory.
    type: str
  memory_factor:
    description:
      - How often the rest of its memory may be promised to VMs when they are placed.
      - A new object gets C(1.0).
    type: float
  cpu_ratio:
    description:
      - How many virtual CPUs may be placed on it for each of its threads.
      - A new object gets C(4.0).
    type: float
  cpu_group:
    description:
      - 'Its CPU compatibility group: VMs are moved only among the servers of a group.'
      - A new object gets a group of all servers whose CPU libvirt calls the same.
    type: str
seealso:
  - module: domus.virt.server_info
  - module: domus.virt.apply
"""

EXAMPLES = r"""
- name: New VMs of this server use KVM where it really runs guests
  domus.virt.server:
    name: srv1
    description: rack 1, slot 7
    virtualization: auto

- name: Emulation only, on a server without KVM
  domus.virt.server:
    name: srv1
    virtualization: qemu
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
  description: The fields whose definition has changed and that wait for a restart of the object.
  returned: always
  type: list
  elements: str
object:
  description: The object as it was measured after the task, in check mode before it.
  returned: always
  type: dict
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
"""

from ansible_collections.domus.virt.plugins.module_utils.module_glue import run_resource_module


def main() -> None:
    """Run the module."""
    run_resource_module("server")


if __name__ == "__main__":
    main()
