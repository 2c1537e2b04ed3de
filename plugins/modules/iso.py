#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: iso
short_description: Make ISO images known, to be put into the drives of VMs
version_added: 0.1.0
description:
  - Makes the image of an optical disc known, which is in the ISOs folder of a repository. Forgetting it keeps the file.
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
  image:
    description:
      - Its file in the ISOs folder of a repository.
      - It can be set only when the object is made; a difference later is refused.
    type: str
  checksum:
    description:
      - SHA-256 the file must have when the ISO is made known.
      - It can be set only when the object is made; a difference later is refused.
    type: str
  description:
    description:
      - Free text.
    type: str
  servers:
    description:
      - The servers it is realized on, by name; C(tag:NAME) stands for all that have the tag. Left out means all servers of
        the play.
    type: list
    elements: str
  state:
    description:
      - Whether Domus is to know it; C(absent) forgets it and keeps the file. Left out means present.
    type: str
    choices:
      - present
      - absent
seealso:
  - module: domus.virt.iso_info
  - module: domus.virt.apply
"""

EXAMPLES = r"""
- name: Make an ISO image known; its file is in the ISOs folder of the repository
  domus.virt.iso:
    name: debian12-netinst
    image: main/debian-12-netinst.iso

- name: Forget it, and keep the file
  domus.virt.iso:
    name: debian12-netinst
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
    path:
      description: Its file.
      returned: when the object exists
      type: str
    size:
      description: The size of the file in bytes.
      returned: when the object exists
      type: int
    available:
      description: Whether the file is there.
      returned: when the object exists
      type: bool
    repository_uuid:
      description: The UUID of the shared repository that it lies in.
      returned: when the object exists
      type: str
"""

from ansible_collections.domus.virt.plugins.module_utils.module_glue import run_resource_module


def main() -> None:
    """Run the module."""
    run_resource_module("iso")


if __name__ == "__main__":
    main()
