"""Running commands on this machine, with errors that say what went wrong."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

SECONDS = 60.0


class LabError(Exception):
    """Something on the test machine is not as the lab needs it; the text says what, and what to do."""


def run(*command: str, timeout: float = SECONDS, text: str | None = None) -> str:
    """Run a command and return what it wrote; raise LabError when it fails or takes longer than `timeout` seconds."""
    try:
        done = subprocess.run(command, input=text, stdin=None if text else subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False)
    except FileNotFoundError as error:
        raise LabError(f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{' '.join(command)}: no end after {timeout:g} s") from error
    if done.returncode:
        raise LabError(f"{' '.join(command)}: ended with {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def require(program: str, package: str) -> None:
    """Raise LabError, which names the command that installs it, when a program is missing."""
    if shutil.which(program) is None:
        raise LabError(f"{program} is missing; as root, run: apt-get install --no-install-recommends {package}")


def mounts() -> list[str]:
    """The lines of /proc/mounts: device, place, type, options."""
    return Path("/proc/mounts").read_text().splitlines()


def wait_until(true: Callable[[], object], seconds: float, what: str, every: float = 0.05) -> None:
    """Ask again and again until it is true; raise LabError with `what` after so many seconds."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise LabError(f"{what}: not after {seconds:g} s")
        time.sleep(every)
