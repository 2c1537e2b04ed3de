# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What all modules can do: check mode, diff mode, idempotence, the action group."""

from __future__ import annotations


class ModuleDocFragment:
    """The attributes of the modules that change something, and of those that only tell."""

    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in check mode, and then says what it would do without doing it.
    support: full
  diff_mode:
    description: Returns what has changed (or would change) in diff mode.
    support: full
  idempotent:
    description: When run twice, the second run changes nothing.
    support: full
  action_group:
    description: Options can be given for all modules at once in C(module_defaults), for the group C(group/domus.virt.all).
    support: full
    membership:
      - domus.virt.all
"""

    INFO = r"""
options: {}
attributes:
  check_mode:
    description: Changes nothing, with or without check mode.
    support: full
  diff_mode:
    description: Changes nothing, so there is no difference to show.
    support: N/A
  idempotent:
    description: When run twice, the second run changes nothing.
    support: full
  action_group:
    description: Options can be given for all modules at once in C(module_defaults), for the group C(group/domus.virt.all).
    support: full
    membership:
      - domus.virt.all
"""

    HOST = r"""
options: {}
attributes:
  check_mode:
    description: Can run in check mode, and then says what it would do without doing it.
    support: full
  diff_mode:
    description: Returns what has changed (or would change) in diff mode.
    support: full
  idempotent:
    description: When run twice, the second run changes nothing.
    support: full
"""
