#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: network
short_description: Make, change and delete networks of VMs
version_added: 0.1.0
description:
  - 'Makes one network as the task wants it: behind the server''s address, routed, isolated, or on a bridge of the server.'
  - An existing network is changed in place, without a restart where libvirt can; options that are left out are not managed.
  - A network that Domus did not make is neither changed nor deleted, unless the task says C(adopted=true).
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
      - Name, unique in the site.
    type: str
    required: true
  mode:
    description:
      - 'C(nat): VMs reach outside behind the server''s address; C(routed): with their own; C(isolated): only each other;
        C(bridge): on a bridge of the server.'
      - A new object gets C(nat).
      - A change waits for the next restart.
    type: str
    choices:
      - nat
      - routed
      - isolated
      - bridge
  bridge:
    description:
      - The server's bridge to use (mode bridge), or the name of the bridge to make.
      - A change waits for the next restart.
    type: str
  subnet:
    description:
      - IPv4 subnet of the network; the server takes its gateway address.
      - A change waits for the next restart.
    type: str
  gateway:
    description:
      - The server's address in the subnet; the first one unless given.
      - A change waits for the next restart.
    type: str
  dhcp:
    description:
      - Give addresses to the VMs.
      - A change waits for the next restart.
    type: dict
    suboptions:
      start:
        description:
          - First address given out.
          - A change waits for the next restart.
        type: str
        required: true
      end:
        description:
          - Last address given out.
          - A change waits for the next restart.
        type: str
        required: true
      reservations:
        description:
          - Fixed addresses; those not mentioned stay.
          - A change waits for the next restart.
        type: list
        elements: dict
        suboptions:
          name:
            description:
              - Host name given with the address; also what the reservation is known by.
            type: str
            required: true
          mac:
            description:
              - The MAC address that gets it.
            type: str
            required: true
          address:
            description:
              - The address given.
            type: str
            required: true
  dns:
    description:
      - Name service for the VMs.
    type: dict
    suboptions:
      enabled:
        description:
          - Answer DNS queries of the VMs.
          - A new object gets C(true).
          - A change waits for the next restart.
        type: bool
      domain:
        description:
          - DNS domain of the VMs.
          - A change waits for the next restart.
        type: str
      forwarders:
        description:
          - DNS servers asked for other names.
          - A change waits for the next restart.
        type: list
        elements: str
      hosts:
        description:
          - Names answered; those not mentioned stay.
        type: list
        elements: dict
        suboptions:
          name:
            description:
              - The host name answered; what the entry is known by.
            type: str
            required: true
          address:
            description:
              - Its address.
            type: str
            required: true
  mtu:
    description:
      - Largest packet in bytes.
      - A change waits for the next restart.
    type: int
  switch:
    description:
      - What the bridge is (mode bridge); only Open vSwitch can tag VLANs here.
      - A new object gets C(linux).
      - A change waits for the next restart.
    type: str
    choices:
      - linux
      - openvswitch
  vlan:
    description:
      - VLAN tag of the VMs' traffic; needs switch openvswitch.
      - A change waits for the next restart.
    type: int
  autostart:
    description:
      - Start it with the server.
      - A new object gets C(true).
    type: bool
  servers:
    description:
      - The servers it is realized on, by name; C(tag:NAME) stands for all that have the tag. Left out means all servers of
        the play.
    type: list
    elements: str
  adopted:
    description:
      - It was not made by Domus and may be managed, and deleted, by it.
    type: bool
  state:
    description:
      - 'C(absent) deletes it. Left out: active, if Domus made it.'
    type: str
    choices:
      - active
      - inactive
      - absent
seealso:
  - module: domus.virt.network_info
  - module: domus.virt.apply
"""

EXAMPLES = r"""
- name: A network behind the server's address, with DHCP and a fixed address for one VM
  domus.virt.network:
    name: lan
    mode: nat
    subnet: 192.0.2.0/24
    dhcp:
      start: 192.0.2.100
      end: 192.0.2.200
      reservations:
        - {name: web1, mac: "52:54:00:00:00:01", address: 192.0.2.10}
    dns:
      domain: lan.example.org

- name: A network on a bridge that the server has
  domus.virt.network:
    name: office
    mode: bridge
    bridge: br0

- name: Delete a network
  domus.virt.network:
    name: office
    state: absent
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
    uuid:
      description: Its UUID.
      returned: when the object exists
      type: str
    active:
      description: Whether it runs.
      returned: when the object exists
      type: bool
    bridge:
      description: The bridge of the server that it is on.
      returned: when the object exists
      type: str
    leases:
      description: How many DHCP leases it has given out.
      returned: when the object exists
      type: int
    made_by_domus:
      description: Whether Domus made it.
      returned: when the object exists
      type: bool
"""

from ansible_collections.domus.virt.plugins.module_utils.module_glue import run_resource_module


def main() -> None:
    """Run the module."""
    run_resource_module("network")


if __name__ == "__main__":
    main()
