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
import json
from collections.abc import Iterator
from typing import Any

from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin, Cacheable, Constructable
from ansible.utils.unsafe_proxy import wrap_var
from ansible_collections.domus.virt.plugins.module_utils.domus_core.clients.manager import ManagerClient
from ansible_collections.domus.virt.plugins.module_utils.domus_core.errors import DomusError

try:
    # From 2.19 on only what is marked as trusted is a template; before that all is, but for what is marked as unsafe.
    from ansible.template import is_trusted_as_template as _trust
except ImportError:
    _trust = None

PAGE = 500
LISTS = {"servers": ("servers",), "vms": ("vms",), "both": ("servers", "vms")}
SERVER_VARIABLES = ("id", "state", "version", "libvirt", "facts")
VM_VARIABLES = ("id", "state", "server", "site", "addresses", "generation", "restart_required", "spec")
CONSTRUCTED = ("compose", "groups", "keyed_groups")

Item = dict[str, Any]
Host = tuple[str, str, Item]


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
        self._constructed = {name: self.get_option(name) for name in CONSTRUCTED}
        self._plain = not self.get_option("use_extra_vars")
        self._own: Item = {}
        found = self._cached(path, cache)
        for group in dict.fromkeys(group for dummy, group, dummy in found):
            self.inventory.add_group(group)
        for name, group, variables in found:
            self._add(name, group, variables if _trust else wrap_var(variables))

    def _cached(self, path: str, cache: bool) -> list[Host]:
        """What the manager tells, or told when the cache is used and young enough. It is kept as one text, which Ansible need not look into."""
        self.load_cache_plugin()
        key = self.get_cache_key(path)
        wanted = bool(self.get_option("cache"))
        if wanted and cache and key in self._cache:
            kept = self._cache[key]
            if isinstance(kept, str):
                return list(json.loads(str(kept)))
        try:
            found = list(hosts(self._ask()))
        except DomusError as error:
            raise AnsibleParserError(str(error)) from None
        if wanted:
            self._cache[key] = json.dumps(found)
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
        self.inventory.add_host(name, group)
        host = self.inventory.get_host(name)
        # The inventory's own set_variable would look through each value for what may be a template.
        host.vars.update(variables)
        if not any(self._constructed.values()):
            return
        strict = self.get_option("strict")
        self._own = variables
        self._set_composite_vars(self._constructed["compose"], variables, name, strict=strict)
        variables = {**variables, **host.get_vars()}
        self._add_host_to_composed_groups(self._constructed["groups"], variables, name, strict=strict, fetch_hostvars=False)
        self._add_host_to_keyed_groups(self._constructed["keyed_groups"], variables, name, strict=strict, fetch_hostvars=False)

    def _compose(self, template: Any, variables: Item, *more: Any, **options: Any) -> Any:
        """The value of an expression; that of one of our own variables is looked up, for which Jinja takes a hundred times as long."""
        if isinstance(template, str) and self._plain and template in self._own:
            return self._own[template]
        return super()._compose(template, variables, *more, **options)


def hosts(found: dict[str, list[Item]]) -> Iterator[Host]:
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
