#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: tree
short_description: A directory with exactly these files of the control node
version_added: 0.2.0
description:
  - Packs files and directories of the control node, and unpacks them on the host when they are not there in just this form.
  - The new directory is made beside the old one and takes its place in one step; what was in the old one is gone.
  - Everything in it is root's, and readable for all. Compiled Python files are left out.
author: The Domus developers (!UNKNOWN)
extends_documentation_fragment:
  - domus.virt.attributes.host
options:
  sources:
    description:
      - Where it comes from on the control node, by the path that it is to have below O(dest). C(.) is O(dest) itself.
      - A source is a file or a directory.
    type: dict
    required: true
  dest:
    description: The directory on the host.
    type: path
    required: true
  compile:
    description: Compile what is Python for the host's Python.
    type: bool
    default: false
  digest:
    description: Filled in by the action plugin.
    type: str
  archive:
    description: Filled in by the action plugin.
    type: path
"""

EXAMPLES = r"""
- name: The tools of this site
  domus.virt.tree:
    sources:
      bin: files/tools
      README: files/README
    dest: /opt/tools
"""

RETURN = r"""
digest:
  description: What tells these files from others, SHA-256.
  returned: always
  type: str
"""

import compileall
import ctypes
import os
import shutil
import tarfile

from ansible.module_utils.basic import AnsibleModule

STAMP = ".domus-tree"
# linux/fcntl.h, linux/fs.h
AT_FDCWD = -100
RENAME_EXCHANGE = 2


def main() -> None:
    """Run the module; the action plugin calls it without an archive first, to hear whether it needs one."""
    options = {
        "sources": {"type": "dict", "required": True},
        "dest": {"type": "path", "required": True},
        "compile": {"type": "bool", "default": False},
        "digest": {"type": "str"},
        "archive": {"type": "path"},
    }
    module = AnsibleModule(options, supports_check_mode=True)
    dest, digest = module.params["dest"], module.params["digest"]
    if digest is None:
        module.fail_json(msg="digest: is filled in by the action plugin: call domus.virt.tree as a task")
    before = _stamp(dest)
    changed = before != digest
    if changed and module.params["archive"] and not module.check_mode:
        try:
            _replace(dest, module.params["archive"], digest, module.params["compile"])
        except (OSError, tarfile.TarError) as error:
            module.fail_json(msg=f"{dest}: {getattr(error, 'strerror', None) or error}")
    diff = {"before": f"{before or 'absent'}\n", "after": f"{digest}\n", "before_header": dest, "after_header": dest} if module._diff else {}
    module.exit_json(changed=changed, digest=digest, diff=diff)


def _stamp(dest: str) -> str:
    try:
        with open(os.path.join(dest, STAMP), encoding="ascii") as file:
            return file.read().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _replace(dest: str, archive: str, digest: str, compiled: bool) -> None:
    """Unpack beside, then change places: whoever looks sees the old tree or the new one. Pacemaker takes a missing agent for a VM that failed."""
    new, old = f"{dest}.new", f"{dest}.old"
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    os.makedirs(new, mode=0o755)
    os.chmod(new, 0o755)
    with tarfile.open(archive) as packed:
        packed.extractall(new)
    if compiled:
        compileall.compile_dir(new, quiet=2, stripdir=new, prependdir=dest)
    with open(os.path.join(new, STAMP), "w", encoding="ascii") as file:
        file.write(f"{digest}\n")
    if os.path.lexists(dest):
        if _exchange(new, dest):
            os.rename(new, old)
        else:
            os.rename(dest, old)
            os.rename(new, dest)
    else:
        os.rename(new, dest)
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: str, other: str) -> bool:
    """Let two paths change places at once, as renameat2(2) does it; False where kernel or file system can not."""
    try:
        return bool(ctypes.CDLL(None).renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0)
    except AttributeError:
        return False


if __name__ == "__main__":
    main()
