#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: virtual_disk
short_description: Make, grow and delete virtual disks
version_added: 0.1.0
description:
  - 'Makes one image file in a repository: empty, or from a template or an image.'
  - A disk can grow, also while a VM uses it, and never shrinks. One that is in use, or that Domus did not make, is not deleted.
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
      - Name, unique in its repository; the file is this name with .qcow2 or .img.
    type: str
    required: true
  repository:
    description:
      - The repository that holds it.
    type: str
    required: true
  description:
    description:
      - Free text.
    type: str
  size:
    description:
      - Its size as the VM sees it; it can grow, never shrink.
      - Bytes, or a number with C(KiB), C(MiB), C(GiB) or C(TiB).
    type: str
  format:
    description:
      - Image format.
      - A new object gets C(qcow2).
      - It can be set only when the object is made; a difference later is refused.
    type: str
    choices:
      - qcow2
      - raw
  sparse:
    description:
      - Take room only as it is written; false takes all of it at once.
      - A new object gets C(true).
      - It can be set only when the object is made; a difference later is refused.
    type: bool
  template:
    description:
      - Make it from this template.
      - It can be set only when the object is made; a difference later is refused.
    type: str
  image:
    description:
      - Make it from this image, in the Templates folder of a repository.
      - It can be set only when the object is made; a difference later is refused.
    type: str
  clone:
    description:
      - 'How it is made from a template or image: C(thin) keeps only the differences, C(sparse) copies what is written, C(full)
        takes all room at once.'
      - A new object gets thin for a template, sparse for an image.
      - It can be set only when the object is made; a difference later is refused.
    type: str
    choices:
      - thin
      - sparse
      - full
  shareable:
    description:
      - 'Several VMs may use it at once (raw only: QEMU can not share qcow2).'
      - A new object gets C(false).
    type: bool
  servers:
    description:
      - The servers it is realized on, by name; C(tag:NAME) stands for all that have the tag. Left out means all servers of
        the play.
    type: list
    elements: str
  state:
    description:
      - Whether it is to exist; C(absent) deletes the file. Left out means present.
    type: str
    choices:
      - present
      - absent
seealso:
  - module: domus.virt.virtual_disk_info
  - module: domus.virt.apply
"""

EXAMPLES = r"""
- name: An empty disk that takes room only as it is written
  domus.virt.virtual_disk:
    name: data1
    repository: main
    size: 20GiB

- name: Let it grow, also while a VM uses it
  domus.virt.virtual_disk:
    name: data1
    repository: main
    size: 40GiB

- name: A disk that two VMs may use at once
  domus.virt.virtual_disk:
    name: quorum
    repository: main
    size: 1GiB
    format: raw
    shareable: true

- name: Delete a disk that no VM uses
  domus.virt.virtual_disk:
    name: data1
    repository: main
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
    allocated:
      description: The room it takes in bytes.
      returned: when the object exists
      type: int
    backing:
      description: The file that a thin clone keeps its differences to.
      returned: when the object exists
      type: str
    owner:
      description: The UUID of the VM that it was made for.
      returned: when the object exists
      type: str
    made_by_domus:
      description: Whether Domus made it.
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
    run_resource_module("virtual_disk")


if __name__ == "__main__":
    main()
