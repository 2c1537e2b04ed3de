#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: template
short_description: Make images known, that disks of VMs are made from
version_added: 0.1.0
description:
  - Makes an image known, which is in the Templates folder of a repository. Forgetting it keeps the file.
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
      - 'Its image: a file in the Templates folder of a repository.'
      - It can be set only when the object is made; a difference later is refused.
    type: str
  checksum:
    description:
      - SHA-256 the image must have when the template is made.
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
      - Whether Domus is to know it; C(absent) forgets it and keeps the image. Left out means present.
    type: str
    choices:
      - present
      - absent
seealso:
  - module: domus.virt.template_info
  - module: domus.virt.apply
"""

EXAMPLES = r"""
- name: Make a template known; its image is in the Templates folder of the repository
  domus.virt.template:
    name: debian12
    image: main/debian-12.qcow2
    description: Debian 12, cloud-init

- name: Forget it, and keep the image
  domus.virt.template:
    name: debian12
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
    format:
      description: The format of the image.
      returned: when the object exists
      type: str
    size:
      description: The size of a disk made from it in bytes.
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
    run_resource_module("template")


if __name__ == "__main__":
    main()
