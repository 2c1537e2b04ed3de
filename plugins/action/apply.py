# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The control node's half of domus.virt.apply: reads the document from its file, so that nothing in it is ever a template."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Optional

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.domus.virt.plugins.module_utils.domus_core.documents import LARGEST, load_document
from ansible_collections.domus.virt.plugins.module_utils.domus_core.errors import DomusError, InvalidSpec


class ActionModule(ActionBase):
    """Sends the document to the module as one JSON text."""

    _supports_check_mode = True
    _supports_async = True

    def run(self, tmp: Optional[str] = None, task_vars: Optional[dict[str, Any]] = None) -> dict[str, Any]:
        """Read, look whether every VM has one server to go to, and let the module do the rest."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        try:
            document = load_document(self._read_file(), name=str(self._task.args.get("file")))
            elsewhere = _check_servers(document, [str(host) for host in variables.get("ansible_play_hosts_all", ())])
            text = json_of(document)
        except DomusError as error:
            return {**result, "failed": True, "changed": False, "msg": str(error), "error": error.as_dict()}
        arguments = {"server": str(variables.get("inventory_hostname", "")), **self._task.args, "document_json": text}
        result.update(self._execute_module(module_name="domus.virt.apply", module_args=arguments, task_vars=variables, wrap_async=self._task.async_val))
        if elsewhere:
            result.setdefault("warnings", []).append(f"The document names servers that are no hosts of this play: {', '.join(elsewhere[:10])}")
        return result

    def _read_file(self) -> str:
        """The text of the document, decrypted when it is vaulted. Raises InvalidSpec."""
        if "document_json" in self._task.args:
            raise InvalidSpec("is not for tasks", field="document_json", remedy="Write the document into a file, and name it with file")
        if not isinstance(self._task.args.get("file"), str):
            raise InvalidSpec("is missing", field="file", remedy="Name the file of the document on the control node")
        try:
            path = self._loader.get_real_file(self._find_needle("files", self._task.args["file"]))
            with open(path, encoding="utf-8") as file:
                text = file.read(LARGEST + 1)
            self._loader.cleanup_tmp_file(path)
        except (AnsibleError, OSError, UnicodeDecodeError) as error:
            raise InvalidSpec(f"can not be read: {' '.join(str(error).split())[:300]}", field="file", value=str(self._task.args["file"])) from None
        return text


def _check_servers(document: Any, hosts: list[str]) -> list[str]:
    """The servers that VMs name and that are not in the play. Raises InvalidSpec for a VM that every host would make."""
    vms = document.get("vms") if isinstance(document, Mapping) else None
    named = [vm.get("server") for vm in vms if isinstance(vm, Mapping)] if isinstance(vms, list) else []
    if len(hosts) > 1 and None in named:
        first = next(vm.get("name") for vm in vms or () if isinstance(vm, Mapping) and vm.get("server") is None)
        raise InvalidSpec(
            f"{named.count(None)} VMs do not say on which of the {len(hosts)} hosts of this play they start their life",
            object=f"vm {first}",
            field="server",
            remedy="Write server: and the inventory name of a host",
        )
    return sorted({name for name in named if isinstance(name, str)} - set(hosts)) if hosts else []


def json_of(document: Any) -> str:
    """The document as JSON, aliases written out. Raises InvalidSpec when that is too large, or holds what JSON does not have."""
    try:
        if _size(document, {}) > LARGEST:
            raise InvalidSpec(f"is larger than {LARGEST >> 20} MiB with its aliases written out", object="document", remedy="Split it")
        return json.dumps(document)
    except RecursionError:
        raise InvalidSpec("is nested too deep", object="document") from None


def _size(value: Any, sizes: dict[int, int]) -> int:
    """The least number of characters of a value as JSON; a value that aliases repeat is looked at once, one that holds itself is endless."""
    if isinstance(value, str):
        return len(value) + 2
    if value is None or isinstance(value, (int, float)):
        return 1
    if not isinstance(value, (dict, list)):
        raise InvalidSpec("is not text, a number, true or false", object="document", value=repr(value), remedy="Put it in quotes")
    if id(value) not in sizes:
        sizes[id(value)] = LARGEST + 1
        entries = [*value.keys(), *value.values()] if isinstance(value, dict) else value
        sizes[id(value)] = 2 + sum(_size(entry, sizes) + 1 for entry in entries)
    return sizes[id(value)]
