# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options that modules have in common."""

from __future__ import annotations


class ModuleDocFragment:
    """How the server is reached, itself or by its manager; for modules that change something, how long to wait, and for what."""

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
  manager_url:
    description:
      - The address of the manager, like C(https://manager.example.org:7002). Used when O(transport=manager).
      - Left out, it comes from E(DOMUS_URL).
    type: str
  manager_token:
    description:
      - An API token of the manager. Used when O(transport=manager).
      - Left out, it comes from E(DOMUS_TOKEN).
    type: str
  manager_ca:
    description:
      - The PEM file of the CA that signed the certificate of the manager.
      - Left out, it comes from E(DOMUS_CA); without that it is one that the system trusts.
    type: path
  force_local:
    description:
      - Change a server that a manager owns without its manager. That is written down, and reported to the manager.
      - Without it, O(transport=local) refuses to change such a server; check mode and the information modules are not affected.
    type: bool
    default: false
"""

    TRANSPORT = r"""
options:
  transport:
    description:
      - How the task reaches the engine. With V(local) the module works on the host that it runs on.
      - With V(manager) it sends what is wanted to the manager and waits until that is carried out, or asks the manager what there is.
        It can run on any host that reaches the manager, such as C(localhost), and needs no libvirt there.
      - Left out, it comes from E(DOMUS_TRANSPORT).
    type: str
    choices: [local, manager]
    default: local
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

    MANAGER = r"""
options:
  manager_url:
    description:
      - The address of the manager, like C(https://manager.example.org:7002).
      - Left out, it comes from E(DOMUS_URL).
    type: str
  manager_token:
    description:
      - An API token of the manager, of an administrator.
      - Left out, it comes from E(DOMUS_TOKEN).
    type: str
  manager_ca:
    description:
      - The PEM file of the CA that signed the certificate of the manager.
      - Left out, it comes from E(DOMUS_CA); without that it is one that the system trusts.
    type: path
"""
