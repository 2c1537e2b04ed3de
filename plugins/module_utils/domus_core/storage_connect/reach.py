"""Work on files that may hang: a network file system whose server is gone holds whoever touches it, until it is back.

No thread that must go on touches such files itself. Work is left behind when the file system does not answer in time; until what was
left behind has ended, everybody else is told so at once, so that few threads hang however many ask.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from typing import Any, Callable, Optional

from ..errors import Unreachable
from ..libvirt_driver.bounded import Work

LIMIT = 5.0
GIVE_UP = 30.0

_hanging: dict[str, dict[Work, float]] = {}
_lock = threading.Lock()


class NotAnswering(Unreachable):
    """A file system does not answer; libvirt and the server do."""


def reached(root: str, source: str, call: Callable[[], Any], *, limit: float = LIMIT) -> Any:
    """Return what a short call on files below `root` returns; `source` is what people call the file system.

    Raises what the call raises, and NotAnswering: after `limit` seconds, or at once while an earlier call still hangs.
    """
    _refuse_hanging(root, source)
    began, work = time.time(), Work(call, lambda work: _forget(root, work))
    if not work.wait(limit):
        _leave_behind(root, work, began)
        raise not_answering(source, lost_since(root) or began)
    return work.result()


def worked(root: str, source: str, call: Callable[[], Any], *, poll: float = LIMIT, give_up: float = GIVE_UP) -> Any:
    """The same for work that takes its time: it goes on as long as the file system answers, and is left behind when it has not for `give_up` seconds."""
    _refuse_hanging(root, source)
    work, answered = Work(call), time.monotonic()
    while not work.wait(poll):
        try:
            reached(root, source, lambda: os.statvfs(root))
            answered = time.monotonic()
        except NotAnswering:
            if time.monotonic() - answered > give_up:
                work.given_up = True
                raise
        except OSError:  # it answers, if only to refuse
            answered = time.monotonic()
    return work.result()


def lost_since(root: str) -> Optional[float]:
    """Since when (seconds since 1970) the file system has not answered this process, or None."""
    with _lock:
        return min(_hanging.get(root, {}).values(), default=None)


def not_answering(source: str, since: float) -> NotAnswering:
    """The error that tells of it."""
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(since))
    return NotAnswering(
        f"{_called(source)} does not answer since {at}",
        remedy="Everything goes on by itself once it answers; if it never will: state: absent with force_unmount: true",
    )


def trouble(error: OSError, source: str) -> str:
    """What an error of the file system itself means."""
    if error.errno == errno.ESTALE:
        return f"{source} no longer knows this directory (stale file handle): it was made anew there. Stop its VMs, then apply it with state: absent, and again"
    if error.errno in (errno.EIO, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH):
        return f"{_called(source)} does not answer ({error.strerror})"
    return f"{source}: {error.strerror}"


def _called(source: str) -> str:
    """A directory is told from server and export by the colon."""
    return f"NFS server {source}" if ":" in source else f"the file system of {source}"


def _refuse_hanging(root: str, source: str) -> None:
    since = lost_since(root)
    if since is not None:
        raise not_answering(source, since)


def _leave_behind(root: str, work: Work, began: float) -> None:
    with _lock:
        work.given_up = True
        if not work.wait(0):
            _hanging.setdefault(root, {})[work] = began


def _forget(root: str, work: Work) -> None:
    with _lock:
        left = _hanging.get(root)
        if left is not None:
            left.pop(work, None)
            if not left:
                del _hanging[root]
