"""ocf:domus:vm, the door through which Pacemaker runs VMs; the script `vm` beside it starts it, without site packages.

Whether a VM runs is said by /proc alone, and costs no more than Python's own start. Everything else is in domus_core.cluster.
"""

from __future__ import annotations

import os
import sys

# typing itself costs as much as all of this.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

sys.path.insert(0, os.environ.get("DOMUS_ENGINE") or os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
OCF_SUCCESS, OCF_ERR_GENERIC, OCF_ERR_ARGS, OCF_NOT_RUNNING = 0, 1, 2, 7
STATE = "/run/domus/ha"


def proven() -> Optional[int]:
    """A monitor's return code where /proc is enough for it: it runs, or it is asked for the first time and does not. Else None."""
    from domus_core.libvirt_driver.qemu_processes import RUNNING, STOPPED, begun, look

    uuid = os.environ.get("OCF_RESKEY_uuid", "")
    if len(uuid) != 36 or not set(uuid) <= set("0123456789abcdef-"):
        return None
    note = os.path.join(os.environ.get("DOMUS_HA_STATE", STATE), uuid)
    state = look(uuid, note)
    if state == RUNNING:
        return OCF_SUCCESS
    is_probe = os.environ.get("OCF_RESKEY_CRM_meta_interval", "0") == "0"
    return OCF_NOT_RUNNING if state == STOPPED and is_probe and not begun(note) else None


def main() -> int:
    """Carry out the action that Pacemaker names; its return code."""
    if len(sys.argv) != 2:
        print("usage: vm start|stop|monitor|migrate_to|migrate_from|validate-all|meta-data", file=sys.stderr)
        return OCF_ERR_ARGS
    code = proven() if sys.argv[1] == "monitor" else None
    if code is not None:
        return code
    if sys.argv[1] == "meta-data":
        from domus_core.cluster.vm_metadata import METADATA

        sys.stdout.write(METADATA)
        return OCF_SUCCESS
    import site

    site.main()  # libvirt and lxml are site packages
    from domus_core.cluster.ocf_door import perform

    answer = perform(sys.argv[1], os.environ)
    if answer.reason:
        print(f"ocf-exit-reason:{' '.join(answer.reason.split())}", file=sys.stderr)
    return answer.code


if __name__ == "__main__":
    try:
        code = main()
    except Exception as error:  # whatever it is, it proves nothing: never "not running"
        print(f"ocf-exit-reason:{type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        code = OCF_ERR_GENERIC
    sys.stdout.flush()
    sys.stderr.flush()
    # A thread that still waits for a libvirtd or a file system that hangs must not hold up Pacemaker.
    os._exit(code)
