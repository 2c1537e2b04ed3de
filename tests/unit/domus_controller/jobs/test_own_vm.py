"""The VM that the manager runs in is not ended by it."""

from __future__ import annotations

import pytest
from domus_controller.jobs.own_vm import spare_from_document, spare_from_verb
from domus_core.errors import Conflict
from domus_core.verbs import VERBS


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_verbs_that_end_it_are_refused(verb: str) -> None:
    spare_from_verb("manager", "web", verb)
    spare_from_verb("", "manager", verb)
    if verb in ("start", "resume"):
        spare_from_verb("manager", "manager", verb)
    else:
        with pytest.raises(Conflict, match="would end itself"):
            spare_from_verb("manager", "manager", verb)


@pytest.mark.parametrize("state", ["absent", "stopped", "suspended", "paused"])
def test_a_document_that_ends_it_is_refused(state: str) -> None:
    document = {"vms": [{"name": "web", "state": state}, {"name": "manager", "state": state}]}
    with pytest.raises(Conflict) as refused:
        spare_from_document("manager", document)
    assert refused.value.object == "vm manager" and refused.value.field == "state"
    spare_from_document("", document)


@pytest.mark.parametrize("vm", [{}, {"state": "running"}, {"state": "present"}, {"memory": "8GiB"}])
def test_all_else_goes_on(vm: dict[str, str]) -> None:
    spare_from_document("manager", {"vms": [{"name": "manager", **vm}], "networks": []})
    spare_from_document("manager", {})
