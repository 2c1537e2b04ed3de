"""The VM that the manager itself runs in: it does not saw off the branch that it sits on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from domus_core.errors import Conflict

REMEDY = "Do it without the manager, on its server or a member of its pool: domus-agent pool stop-vm, or virsh"
GOES_ON = ("start", "resume")
RUNNING = "running"


def spare_from_verb(own_vm: str, name: str, verb: str) -> None:
    """Raises Conflict when the verb would end the manager's own VM."""
    if own_vm and name == own_vm and verb not in GOES_ON:
        raise Conflict("the manager runs in it, and would end itself", object=f"vm {name}", field="verb", value=verb, remedy=REMEDY)


def spare_from_document(own_vm: str, document: Mapping[str, Any]) -> None:
    """Raises Conflict when a document wants the manager's own VM to be anything but running. The document has been checked."""
    for vm in document.get("vms") or () if own_vm else ():
        if vm.get("name") == own_vm and vm.get("state") not in (None, "present", RUNNING):
            raise Conflict("the manager runs in it, and would end itself", object=f"vm {own_vm}", field="state", value=vm["state"], remedy=REMEDY)
