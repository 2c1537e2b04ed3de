# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: domus
short_description: Servers and VMs of a Domus manager
version_added: 0.1.0
description:
  - Makes hosts of the servers and of the VMs that a manager knows, with their addresses, so that playbooks can use them at once.
  - Servers are in the group C(domus_servers), VMs in C(domus_vms); more groups can be made with O(groups) and O(keyed_groups).
  - A server has the variables C(ansible_host), C(domus_id), C(domus_state), C(domus_version), C(domus_libvirt) and C(domus_facts).
  - A VM has C(ansible_host) (its first address, if one is known), C(domus_id), C(domus_state), C(domus_server), C(domus_site), C(domus_tags),
    C(domus_addresses), C(domus_generation), C(domus_restart_required) and C(domus_spec), its definition with secrets masked.
  - The host has the name of the server or VM. Where several have the same name, a VM is called C(name.server).
  - Nothing that comes from the manager is ever a template.
author: The Domus developers (!UNKNOWN)
extends_documentation_fragment:
  - ansible.builtin.constructed
  - ansible.builtin.inventory_cache
options:
  plugin:
    description: Says that the file is for this plugin. The name of the file must end with C(domus.yml) or C(domus.yaml).
    type: str
    required: true
    choices: [domus.virt.domus]
  url:
    description: The address of the manager, like C(https://manager.example.org:7002).
    type: str
    required: true
    env:
      - name: DOMUS_URL
  token:
    description: An API token of the manager; one that may only read is enough.
    type: str
    required: true
    env:
      - name: DOMUS_TOKEN
  ca:
    description: The PEM file of the CA that signed the certificate of the manager. Left out, it is one that the system trusts.
    type: path
    env:
      - name: DOMUS_CA
  what:
    description: Of what to make hosts.
    type: str
    choices: [servers, vms, both]
    default: both
  site:
    description: Only VMs of this site.
    type: str
  state:
    description: Only VMs in one of these states, such as V(running).
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
# The file inventory.domus.yml; DOMUS_URL, DOMUS_TOKEN and DOMUS_CA are in the environment.
---
plugin: domus.virt.domus

# Only the VMs that run, in groups by their tags and by the server that they are on.
---
plugin: domus.virt.domus
what: vms
state: [running]
keyed_groups:
  - key: domus_tags
    prefix: tag
  - key: domus_server
    prefix: "on"

# How to log in, a group by a condition, and a cache for five minutes.
---
plugin: domus.virt.domus
compose:
  ansible_user: "'debian' if domus_server is defined else 'root'"
groups:
  without_address: ansible_host is not defined
strict: true
cache: true
cache_plugin: ansible.builtin.jsonfile
cache_timeout: 300
cache_connection: /tmp/domus-inventory
"""

import collections
from collections.abc import Iterator
from typing import Any

from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin, Cacheable, Constructable
from ansible.utils.unsafe_proxy import wrap_var
from ansible_collections.domus.virt.plugins.module_utils.domus_core.clients.manager import ManagerClient
from ansible_collections.domus.virt.plugins.module_utils.domus_core.errors import DomusError

PAGE = 500
LISTS = {"servers": ("servers",), "vms": ("vms",), "both": ("servers", "vms")}
SERVER_VARIABLES = ("id", "state", "version", "libvirt", "facts")
VM_VARIABLES = ("id", "state", "server", "site", "addresses", "generation", "restart_required", "spec")

Item = dict[str, Any]


class InventoryModule(BaseInventoryPlugin, Constructable, Cacheable):
    """Asks the manager for its servers and VMs."""

    NAME = "domus.virt.domus"

    def verify_file(self, path: str) -> bool:
        """Is the file meant for this plugin?"""
        return super().verify_file(path) and path.endswith(("domus.yml", "domus.yaml"))

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        """Add the hosts, with their variables and groups. Raises AnsibleParserError."""
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        found = self._cached(path, cache)
        for name, group, variables in hosts(found):
            self._add(name, group, wrap_var(variables))

    def _cached(self, path: str, cache: bool) -> dict[str, list[Item]]:
        """What the manager tells, or told when the cache is used and young enough."""
        self.load_cache_plugin()
        key = self.get_cache_key(path)
        wanted = bool(self.get_option("cache"))
        if wanted and cache and key in self._cache:
            return self._cache[key]  # type: ignore[no-any-return]
        try:
            found = self._ask()
        except DomusError as error:
            raise AnsibleParserError(str(error)) from None
        if wanted:
            self._cache[key] = found
        return found

    def _ask(self) -> dict[str, list[Item]]:
        manager = ManagerClient(self.get_option("url"), self.get_option("token"), self.get_option("ca"))
        filters = {"servers": {}, "vms": {"site": self.get_option("site")}}
        found = {name: list(manager.pages(f"/api/v1/{name}", limit=PAGE, **filters[name])) for name in LISTS[self.get_option("what")]}
        states = self.get_option("state")
        if states and "vms" in found:
            found["vms"] = [vm for vm in found["vms"] if vm["state"] in states]
        return found

    def _add(self, name: str, group: str, variables: Item) -> None:
        self.inventory.add_group(group)
        self.inventory.add_host(name, group)
        for variable, value in variables.items():
            self.inventory.set_variable(name, variable, value)
        strict = self.get_option("strict")
        self._set_composite_vars(self.get_option("compose"), variables, name, strict=strict)
        variables = {**variables, **self.inventory.get_host(name).get_vars()}
        self._add_host_to_composed_groups(self.get_option("groups"), variables, name, strict=strict)
        self._add_host_to_keyed_groups(self.get_option("keyed_groups"), variables, name, strict=strict)


def hosts(found: dict[str, list[Item]]) -> Iterator[tuple[str, str, Item]]:
    """Name, group and variables of each host."""
    servers, vms = found.get("servers", []), found.get("vms", [])
    times = collections.Counter(item["name"] for item in (*servers, *vms))
    for server in servers:
        yield server["name"], "domus_servers", {"ansible_host": server["address"], **_variables(server, SERVER_VARIABLES)}
    for vm in vms:
        name = vm["name"] if times[vm["name"]] == 1 else f"{vm['name']}.{vm['server']}"
        address = {"ansible_host": vm["addresses"][0]} if vm.get("addresses") else {}
        tags = (vm.get("spec") or {}).get("tags") or []
        yield name, "domus_vms", {**address, **_variables(vm, VM_VARIABLES), "domus_tags": tags}


def _variables(item: Item, names: tuple[str, ...]) -> Item:
    return {f"domus_{name}": item.get(name) for name in names}
