#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: repository
short_description: Directories for virtual disks, ISO images and templates
version_added: 0.1.0
description:
  - Makes a directory of the server known, with the folders VirtualDisks, ISOs and Templates in it.
  - Forgetting a repository keeps its files.
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
  path:
    description:
      - 'Its directory on the server: the only absolute path in a document. One on an NFS server is mounted there; left out,
        below /var/lib/domus/repositories.'
      - It can be set only when the object is made; a difference later is refused.
    type: str
  description:
    description:
      - Free text.
    type: str
  nfs:
    description:
      - 'It is on an NFS server: the server mounts it, and so does each other server that it is presented to.'
    type: dict
    suboptions:
      server:
        description:
          - 'The NFS server: a host name or an address.'
        type: str
        required: true
      export:
        description:
          - The directory that it exports; to the servers' root as root (C(no_root_squash)).
        type: str
        required: true
      version:
        description:
          - 'Version of the protocol. With 3 the locks of a server that died never fall: not for HA.'
          - A new object gets C(4.2).
        type: str
        choices:
          - '4.2'
          - '4.1'
          - '4.0'
          - '3'
      soft:
        description:
          - Give VMs I/O errors when the NFS server is away; false lets them wait, which loses no data.
          - A new object gets C(false).
        type: bool
      timeo:
        description:
          - Tenths of a second until a request is sent again.
          - A new object gets C(600).
        type: int
      retrans:
        description:
          - How often a request is sent again before the kernel reports it.
          - A new object gets C(2).
        type: int
      nconnect:
        description:
          - How many TCP connections are used.
          - A new object gets C(1).
        type: int
      lookup_cache:
        description:
          - 'C(none): each name is looked up anew, so that what another server has written is seen at once; for the file system
            of a server pool.'
          - A new object gets C(positive).
        type: str
        choices:
          - positive
          - none
      read_only:
        description:
          - 'Nothing is made or changed in it: for ISO images and templates.'
          - A new object gets C(false).
        type: bool
  servers:
    description:
      - The servers it is realized on, by name; C(tag:NAME) stands for all that have the tag. Left out means all servers of
        the play.
    type: list
    elements: str
  adopted:
    description:
      - 'The directory is not Domus''s own: files in it are used where they lie, and nothing is made or deleted in it.'
    type: bool
  shared:
    description:
      - 'The directory is the same file system on every server that has it: a VM moves between them without its disks being
        copied.'
      - A new object gets C(false).
    type: bool
  force_unmount:
    description:
      - 'With C(state: absent), take it away although its NFS server does not answer: VMs that use it get I/O errors.'
    type: bool
  state:
    description:
      - Whether Domus is to know it; C(absent) forgets it (unmounts it) and keeps the files. Left out means present.
    type: str
    choices:
      - present
      - absent
seealso:
  - module: domus.virt.repository_info
  - module: domus.virt.apply
"""

EXAMPLES = r"""
- name: A directory for virtual disks, ISO images and templates
  domus.virt.repository:
    name: main
    path: /var/lib/domus/main

- name: Use the images of a directory that is not Domus's own; nothing is made or deleted in it
  domus.virt.repository:
    name: old
    path: /var/lib/libvirt/images
    adopted: true

- name: Forget a repository, and keep its files
  domus.virt.repository:
    name: old
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
"""

from ansible_collections.domus.virt.plugins.module_utils.module_glue import run_resource_module


def main() -> None:
    """Run the module."""
    run_resource_module("repository")


if __name__ == "__main__":
    main()
