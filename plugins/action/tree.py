# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The control node's half of domus.virt.tree: packs the files, and sends them only to hosts that do not have them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from typing import Any, Optional

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.domus.virt.plugins.plugin_utils.packing import digest_of, files_of, pack


class ActionModule(ActionBase):
    """Asks the host first by a digest; most runs of a play send nothing."""

    _supports_check_mode = True
    TRANSFERS_FILES = True

    def run(self, tmp: Optional[str] = None, task_vars: Optional[dict[str, Any]] = None) -> dict[str, Any]:
        """Bring the tree to the host where it is missing or another."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        sources = arguments.get("sources")
        if not isinstance(sources, Mapping) or not sources:
            raise AnsibleActionFail("sources: is missing, or no mapping of paths below dest to files and directories of the control node")
        try:
            files = files_of({str(name): self._found(str(path)) for name, path in sources.items()})
        except OSError as error:
            raise AnsibleActionFail(f"sources: {error.filename}: {error.strerror}") from error
        arguments["digest"] = digest_of(files)
        told: dict[str, Any] = self._call(arguments, task_vars)
        if told.get("changed") and not self._task.check_mode and not told.get("failed"):
            told = self._send(arguments, files, task_vars)
        return {**result, **told}

    def _send(self, arguments: dict[str, Any], files: Mapping[str, str], task_vars: Any) -> dict[str, Any]:
        place = self._connection._shell.tmpdir or self._make_tmp_path()
        remote = self._connection._shell.join_path(place, "tree.tar")
        with tempfile.TemporaryDirectory() as directory:
            local = os.path.join(directory, "tree.tar")
            pack(files, local)
            self._transfer_file(local, remote)
        self._fixup_perms2((place, remote))
        return self._call({**arguments, "archive": remote}, task_vars)

    def _call(self, arguments: Mapping[str, Any], task_vars: Any) -> dict[str, Any]:
        told: dict[str, Any] = self._execute_module(module_name="domus.virt.tree", module_args=arguments, task_vars=task_vars)
        return told

    def _found(self, path: str) -> str:
        return path if os.path.isabs(path) else str(self._find_needle("files", path))
