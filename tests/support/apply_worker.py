"""One run of the engine in a process of its own, which may kill itself: a job as JSON on standard input, its outcome on standard output.

The job: `document`, `uri`, `state_directory`; `patience`, `check`; `before_step` (kill before this step, from 1); `at_call` (kill
at this call inside the driver); `after` (kill when this function of the driver has returned for the first time); `limit` (seconds
that a step of a VM may take); `hold` (seconds to wait under the locks); `kill_libvirtd` (before this step, or "while reading": kill
the processes `libvirtds`).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "plugins" / "module_utils"))

from domus_core import engine
from domus_core.errors import DomusError
from domus_core.libvirt_driver import virtual_disk, vm
from domus_core.libvirt_driver.driver import open_driver
from domus_core.model.document import parse_document

DRIVER = f"{os.sep}libvirt_driver{os.sep}"


class Deaths:
    """Counts steps and calls inside the driver, and kills this process at the wanted one."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.before_step, self.at_call = job.get("before_step"), job.get("at_call")
        self.steps = self.calls = 0
        self.lock = threading.Lock()
        if self.at_call is not None or job.get("after"):
            threading.setprofile(self.call)
            sys.setprofile(self.call)

    def step(self, line: str) -> None:
        with self.lock:
            self.steps += 1
            if self.steps == self.before_step:
                os.kill(os.getpid(), signal.SIGKILL)
            if self.steps == self.job.get("kill_libvirtd"):
                self.kill_libvirtd()

    def kill_libvirtd(self) -> None:
        for process in self.job["libvirtds"]:
            os.kill(process, signal.SIGKILL)

    def call(self, frame: Any, event: str, argument: Any) -> None:
        if event == "return" and frame.f_code.co_name == self.job.get("after") and DRIVER in frame.f_code.co_filename:
            os.kill(os.getpid(), signal.SIGKILL)
        if event in ("c_call", "c_return", "call") and DRIVER in frame.f_code.co_filename:
            with self.lock:
                self.calls += 1
                if self.calls == self.at_call:
                    os.kill(os.getpid(), signal.SIGKILL)


def run(job: dict[str, Any]) -> dict[str, Any]:
    deaths = Deaths(job)
    vm.STEP_LIMIT = job.get("limit", vm.STEP_LIMIT)
    virtual_disk.GROW_LIMIT = job.get("limit", virtual_disk.GROW_LIMIT)
    try:
        site = parse_document(job["document"])
        driver = open_driver(job["uri"], job["state_directory"])
        if job.get("kill_libvirtd") == "while reading":
            before_reading(driver, deaths.kill_libvirtd)
        if job.get("hold"):
            before_reading(driver, lambda: hold(job["hold"]))
        report = engine.apply(site, driver, check=job.get("check", False), patience=job.get("patience", 60.0), progress=deaths.step)
    except DomusError as error:
        return {"error": error.as_dict(), "text": str(error), "traceback": traceback.format_exc()}
    return {"report": report.as_dict(), "errors": [error.as_dict() for error in report.errors], "steps": deaths.steps, "calls": deaths.calls}


def before_reading(driver: Any, action: Any) -> None:
    read = driver.read

    def acted(site: Any) -> Any:
        action()
        return read(site)

    driver.read = acted


def hold(seconds: float) -> None:
    print("holding", file=sys.stderr, flush=True)
    time.sleep(seconds)


if __name__ == "__main__":
    print(json.dumps(run(json.load(sys.stdin))), flush=True)
