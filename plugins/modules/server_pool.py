#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: server_pool
short_description: Form, change and end server pools
version_added: 0.1.0
description:
  - Makes servers a pool. A clustered pool runs Corosync and Pacemaker on its servers, so that VMs of a server that died start
    on another.
  - A clustered pool is formed by a manager, which knows all of its servers (O(transport=manager)), or by the playbook C(domus.virt.server_pools).
  - 'Servers come and go without a VM being touched: name them in O(servers), or leave them out. A server does not leave while
    HA VMs run on it.'
  - A list that is given (O(servers), O(heartbeat), O(fencing)) is the whole list.
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
  description:
    description:
      - Free text.
    type: str
  servers:
    description:
      - Its members.
    type: list
    elements: str
  clustered:
    description:
      - 'Corosync and Pacemaker run on its servers: HA, records of its VMs, disk locks.'
      - A new object gets C(true).
      - It can be set only when the object is made; a difference later is refused.
    type: bool
  heartbeat:
    description:
      - The networks on which its servers hear each other.
    type: list
    elements: dict
    suboptions:
      name:
        description:
          - Name of the link.
        type: str
        required: true
      subnet:
        description:
          - Each server's address in this subnet is used; it must have one.
        type: str
        required: true
  token:
    description:
      - Milliseconds of silence after which a server counts as lost.
      - A new object gets C(3000).
    type: int
  file_system:
    description:
      - 'The repository that holds the records of its VMs and their disk locks: on NFS version 4, or one that says C(shared).
        Best one of its own.'
      - It can be set only when the object is made; a difference later is refused.
    type: str
  fencing:
    description:
      - The devices that cut the power of its servers.
    type: list
    elements: dict
    suboptions:
      name:
        description:
          - Name of the device.
        type: str
        required: true
      agent:
        description:
          - The agent, of Debian's package fence-agents.
        type: str
        required: true
      servers:
        description:
          - The servers that it can cut.
        type: list
        elements: dict
        required: true
        suboptions:
          name:
            description:
              - The server.
            type: str
            required: true
          plug:
            description:
              - 'What the device calls it: an outlet, a slot, a name.'
              - A new object gets its name.
            type: str
      options:
        description:
          - Options of the agent.
        type: list
        elements: dict
        suboptions:
          name:
            description:
              - Name of the option.
            type: str
            required: true
          value:
            description:
              - Its value, in clear.
            type: str
          secret:
            description:
              - 'Its value, kept in a file of root''s: for options that have a twin NAME_script, as password has.'
              - 'Secret: it is never shown, logged or told in a difference.'
            type: str
      level:
        description:
          - Devices of level 2 are tried where those of level 1 have failed; all of a level must succeed.
          - A new object gets C(1).
        type: int
  quorum_device:
    description:
      - A vote from outside, for two or another even number of servers.
    type: dict
    suboptions:
      host:
        description:
          - Where it runs.
        type: str
        required: true
      algorithm:
        description:
          - C(ffsplit) for an even number of servers; C(lms) lets the last server go on.
          - A new object gets C(ffsplit).
        type: str
        choices:
          - ffsplit
          - lms
      state:
        description:
          - Whether it has a vote in the pool. Left out means present.
        type: str
        choices:
          - present
          - absent
  watchdog:
    description:
      - 'Each server resets itself when it has no quorum: for servers whose power nobody can cut. When nobody has quorum all
        reset themselves. Needs three servers or a quorum device.'
    type: dict
    suboptions:
      timeout:
        description:
          - Seconds without quorum after which a server resets itself; the others wait twice as long before they start its
            VMs.
          - A new object gets C(10).
          - It can be set only when the object is made; a difference later is refused.
        type: int
      state:
        description:
          - Whether servers reset themselves. Left out means present.
        type: str
        choices:
          - present
          - absent
  untested_fencing:
    description:
      - 'HA is allowed although a fence device has not passed a test: when that device fails, the VMs of a server that died
        stay down. Shown as a problem.'
      - A new object gets C(false).
    type: bool
  start_policy:
    description:
      - Where its VMs start, unless they say so themselves.
      - A new object gets C(best).
    type: str
    choices:
      - best
      - balanced
      - current
  policy:
    description:
      - How the manager keeps its servers balanced, or few of them on; nothing is done without.
    type: dict
    suboptions:
      mode:
        description:
          - C(drs) spreads VMs over the servers, C(dpm) gathers them on few and switches the others off.
          - A new object gets C(off).
        type: str
        choices:
          - 'off'
          - drs
          - dpm
      period:
        description:
          - Minutes between two looks.
          - A new object gets C(10).
        type: int
      cpu_threshold:
        description:
          - 'Percent of a server''s processors in use above which it is relieved; left out: servers are always evened out.'
        type: int
      memory_threshold:
        description:
          - The same for the memory that is promised to VMs.
        type: int
      network_threshold:
        description:
          - The same for the speed of its network ports.
        type: int
      tolerance:
        description:
          - Percent that servers may be away from the mean and still count as even.
          - A new object gets C(5).
        type: int
      most_moves:
        description:
          - How many VMs a look moves at most.
          - A new object gets C(4).
        type: int
      spare_servers:
        description:
          - 'Room is kept for what is on so many servers, should they die: by every move, and by every new VM whatever the
            mode is.'
          - A new object gets C(0).
        type: int
      least_on:
        description:
          - How many servers C(dpm) leaves on at least; a clustered pool keeps its quorum anyway.
          - A new object gets C(1).
        type: int
      servers:
        description:
          - The servers that C(dpm) may switch off; only those that were seen to be able to wake.
          - A new object gets C(all).
        type: list
        elements: str
      memory_weight:
        description:
          - How much memory counts when servers are evened out.
          - A new object gets C(1.0).
        type: float
      cpu_weight:
        description:
          - How much vCPUs and the use of processors count.
          - A new object gets C(1.0).
        type: float
      network_weight:
        description:
          - How much the use of networks counts.
          - A new object gets C(1.0).
        type: float
  state:
    description:
      - Whether it is to exist. C(absent) ends it; it is refused while HA VMs run in it. Left out means present.
    type: str
    choices:
      - present
      - absent
seealso:
  - module: domus.virt.server_pool_info
  - module: domus.virt.apply
"""

EXAMPLES = r"""
# A clustered pool (the default) is formed by its manager, with transport=manager and delegate_to: localhost, or by the playbook domus.virt.server_pools:
# see its section in docs/reference/site-document.md for heartbeat networks, the pool file system and fence devices.
- name: Servers that belong together, without a cluster
  domus.virt.server_pool:
    name: lab
    servers: [srv8, srv9]
    clustered: false

- name: A server leaves the pool
  domus.virt.server_pool:
    name: lab
    servers: [srv8]

- name: The pool ends
  domus.virt.server_pool:
    name: lab
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
"""

from ansible_collections.domus.virt.plugins.module_utils.module_glue import run_resource_module


def main() -> None:
    """Run the module."""
    run_resource_module("server_pool")


if __name__ == "__main__":
    main()
