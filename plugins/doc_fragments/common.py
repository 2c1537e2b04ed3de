# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options that modules have in common."""

from __future__ import annotations


class ModuleDocFragment:
    """How the server is reached; for modules that change something, how long to wait, and for what."""

    DOCUMENTATION = r"""
requirements:
  - python3-libvirt
  - python3-lxml
options:
  uri:
    description:
      - The libvirt connection of the server.
      - V(fake:///path/of/server.json) is a server in a file, which needs no libvirt and runs nothing, for trying playbooks.
    type: str
    default: qemu:///system
  state_directory:
    description: Where Domus keeps on the server what libvirt does not.
    type: path
    default: /var/lib/domus
"""

    WAIT = r"""
options:
  wait:
    description: Whether to wait for another apply that holds the same objects, and where there is C(wait_for) for what that says.
    type: bool
    default: true
  wait_timeout:
    description: How many seconds to wait at most; after that the task fails.
    type: int
    default: 120
"""

    SITE = r"""
options:
  site:
    description: The site that the object belongs to. UUIDs and MAC addresses of new objects are derived from it.
    type: str
    default: default
"""

    ADDRESS = r"""
options:
  wait_for:
    description: Whether a VM that is to run is only waited for until it runs, or until it has an IP address.
    type: str
    choices: [state, address]
    default: state
"""
