#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: libvirt_config
short_description: Settings in a configuration file of libvirt
version_added: 0.2.0
description:
  - Sets values in a file like C(/etc/libvirt/libvirtd.conf), all of them at once, and leaves every other line as it is.
  - A setting takes the place of the line that has it, in force or commented out, and is appended when there is none.
author: The Domus developers (!UNKNOWN)
extends_documentation_fragment:
  - domus.virt.attributes.host
options:
  path:
    description: The file, which must be there; in check mode one that is missing counts as empty.
    type: path
    required: true
  settings:
    description:
      - The values by name - a text, a number, true or false (1 and 0), or a list of texts.
      - What is null is not managed.
    type: dict
    required: true
seealso:
  - name: libvirtd's settings
    description: Each of them is explained in the file itself.
    link: https://libvirt.org/daemons.html
"""

EXAMPLES = r"""
- name: More clients of libvirtd
  domus.virt.libvirt_config:
    path: /etc/libvirt/libvirtd.conf
    settings:
      max_clients: 1000
      tls_allowed_dn_list: ["O=Domus,OU=default,CN=*"]
"""

RETURN = r"""
settings:
  description: The names of the settings that were changed.
  returned: always
  type: list
  elements: str
  sample: [max_clients]
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.domus.virt.plugins.module_utils.libvirt_settings import edited


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def main() -> None:
    """Run the module."""
    module = AnsibleModule({"path": {"type": "path", "required": True}, "settings": {"type": "dict", "required": True}}, supports_check_mode=True)
    path = module.params["path"]
    try:
        before = "" if module.check_mode and not os.path.exists(path) else _read(path)
        after, changed = edited(before, module.params["settings"])
    except (OSError, UnicodeDecodeError, ValueError) as error:
        module.fail_json(msg=f"{path}: {getattr(error, 'strerror', None) or error}")
    if changed and not module.check_mode:
        new = os.path.join(module.tmpdir, os.path.basename(path))
        with open(new, "w", encoding="utf-8") as file:
            file.write(after)
        module.atomic_move(new, path)
    module.exit_json(
        changed=bool(changed),
        settings=changed,
        diff={"before": before, "after": after, "before_header": path, "after_header": path} if module._diff else {},
    )


if __name__ == "__main__":
    main()
