#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: iso_info
short_description: Tell of the ISO images of a server
version_added: 0.1.0
description:
  - Returns the ISO images that there are on the server, that Domus knows. Nothing is changed.
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
  - module: domus.virt.iso
"""

EXAMPLES = r"""
- name: All ISO images that the server knows
  domus.virt.iso_info:
  register: found
"""

RETURN = r"""
isos:
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
"""

from ansible_collections.domus.virt.plugins.module_utils.module_glue import run_info_module


def main() -> None:
    """Run the module."""
    run_info_module("iso")


if __name__ == "__main__":
    main()
