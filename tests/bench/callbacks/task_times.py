"""Ansible callback plugin: when the first task began and when its last result came, as one line of JSON in $TASK_TIMES."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: task_times
type: notification
short_description: Times of the first task
description: Writes them into the file that TASK_TIMES names.
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION, CALLBACK_TYPE, CALLBACK_NAME = 2.0, "notification", "task_times"

    began, ended, results = 0.0, 0.0, 0

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        self.began = self.began or time.time()

    def v2_runner_on_ok(self, result: Any) -> None:
        self.ended, self.results = time.time(), self.results + 1

    def v2_playbook_on_stats(self, stats: Any) -> None:
        with open(os.environ["TASK_TIMES"], "w", encoding="ascii") as file:
            json.dump({"seconds": self.ended - self.began, "results": self.results}, file)
