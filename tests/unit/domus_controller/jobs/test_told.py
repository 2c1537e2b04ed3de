"""What the runner tells, as events of the job."""

from __future__ import annotations

from domus_controller.jobs.apply_run import _told


def test_several_lines_of_progress_are_an_event_each() -> None:
    told = _told({"event": "verbose", "stdout": "s0: create vm web1\r\ns0: start vm web1\r\n"})
    assert told == [("progress", {"line": "s0: create vm web1"}), ("progress", {"line": "s0: start vm web1"})]


def test_output_stays_as_it_is() -> None:
    assert _told({"event": "playbook_on_task_start", "stdout": "\r\nTASK [one]\r\nok"}) == [("output", {"text": "TASK [one]\nok"})]
