# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The control node's half of domus.virt.apply: reads the document from its file, so that nothing in it is ever a template."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, Optional

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.domus.virt.plugins.module_utils.domus_core.documents import LARGEST, load_document
from ansible_collections.domus.virt.plugins.module_utils.domus_core.errors import DomusError, InvalidSpec
from ansible_collections.domus.virt.plugins.module_utils.module_glue import apply_options, patience_of, unexpected
from ansible_collections.domus.virt.plugins.module_utils.module_manager import apply_through, manager_of
from ansible_collections.domus.virt.plugins.module_utils.module_results import told_of_document


class ActionModule(ActionBase):
    """Sends the document to the module as one JSON text, to the manager, or to the agents of all servers."""

    _supports_check_mode = True
    _supports_async = True

    def run(self, tmp: Optional[str] = None, task_vars: Optional[dict[str, Any]] = None) -> dict[str, Any]:
        """Bring the document to the engine by the task's transport, and tell what that did."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        transport = self._task.args.get("transport") or os.environ.get("DOMUS_TRANSPORT") or "local"
        ways = {"manager": self._through_manager, "agent": self._through_agents}
        try:
            told = ways.get(transport, self._through_module)(task_vars or {})
        except DomusError as error:
            told = {"changed": False, "msg": str(error), "error": error.as_dict()}
        except AnsibleError:
            raise
        except Exception as error:
            told = {"changed": False, **unexpected(error)}
        if "error" in told:
            told["failed"] = True
        return {**result, **told}

    def _through_module(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """Look whether every VM has one server to go to, and let the module do the rest on the host."""
        document = self._load()
        elsewhere = _check_servers(document, [str(host) for host in variables.get("ansible_play_hosts_all", ())])
        arguments = {"server": str(variables.get("inventory_hostname", "")), "transport": "local", **self._task.args, "document_json": json_of(document)}
        result: dict[str, Any] = self._execute_module(
            module_name="domus.virt.apply", module_args=arguments, task_vars=variables, wrap_async=self._task.async_val
        )
        if elsewhere:
            result.setdefault("warnings", []).append(f"The document names servers that are no hosts of this play: {', '.join(elsewhere[:10])}")
        return result

    def _through_manager(self, dummy: Mapping[str, Any]) -> dict[str, Any]:
        """Send the whole document from here: the manager knows where everything is."""
        parameters = self._parameters()
        seconds = patience_of(parameters)
        document = json.loads(json_of(self._load()))
        objects, errors = apply_through(
            manager_of(parameters),
            document,
            check=self._task.check_mode,
            wait_for_address=seconds if parameters["wait_for"] == "address" else 0,
            patience=seconds,
        )
        return told_of_document(objects, errors, diff=self._task.diff)

    def _through_agents(self, dummy: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out the job whose targets the manager has written into a file."""
        from ansible_collections.domus.virt.plugins.plugin_utils.agents import carry_out, read_targets, summary, write_result

        targets = read_targets(str(self._parameters().get("targets_file") or ""))
        outcomes = carry_out(targets, Display().display)
        write_result(targets.result_file, outcomes)
        return summary(outcomes, {one.server_id: one.name for one in targets.servers})

    def _parameters(self) -> dict[str, Any]:
        """The task's options, checked and completed as the module would do it."""
        dummy, parameters = self.validate_argument_spec(argument_spec=apply_options(), required_one_of=[("file", "targets_file")])
        return dict(parameters)

    def _load(self) -> Any:
        return load_document(self._read_file(), name=str(self._task.args.get("file")))

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
