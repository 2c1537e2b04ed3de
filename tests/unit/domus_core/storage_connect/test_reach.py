"""What hangs is left behind, holds few threads, and lets everybody go on when it answers again."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any, Callable

import pytest
from domus_core.libvirt_driver.bounded import is_wanted, require_wanted
from domus_core.storage_connect.reach import NotAnswering, lost_since, reached, worked

PATIENCE = 20.0


@pytest.fixture
def hanging(tmp_path: Any) -> Iterator[Any]:
    """A file system (its root, and a call that hangs in it) that answers once `answers` is set."""

    class Hanging:
        root = str(tmp_path)
        answers = threading.Event()
        calls = 0

        def call(self) -> str:
            self.calls += 1
            assert self.answers.wait(PATIENCE)
            return "answer"

    made = Hanging()
    yield made
    made.answers.set()
    wait_for(lambda: lost_since(made.root) is None)


def wait_for(question: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not question():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_what_answers_is_given_back(tmp_path: Any) -> None:
    assert reached(str(tmp_path), "nas", lambda: 7) == 7
    with pytest.raises(KeyError):
        reached(str(tmp_path), "nas", lambda: {}["x"])
    assert lost_since(str(tmp_path)) is None


def test_one_hangs_and_the_others_are_told_at_once(hanging: Any) -> None:
    with pytest.raises(NotAnswering, match="NFS server nas1:/x does not answer since 20"):
        reached(hanging.root, "nas1:/x", hanging.call, limit=0.01)
    threads = threading.active_count()
    for dummy in range(50):
        with pytest.raises(NotAnswering):
            reached(hanging.root, "nas1:/x", hanging.call)
        with pytest.raises(NotAnswering):
            worked(hanging.root, "nas1:/x", hanging.call)
    assert hanging.calls == 1 and threading.active_count() <= threads
    assert reached("/elsewhere", "nas2:/y", lambda: 1) == 1


def test_it_is_back_by_itself(hanging: Any) -> None:
    with pytest.raises(NotAnswering):
        reached(hanging.root, "nas", hanging.call, limit=0.01)
    hanging.answers.set()
    wait_for(lambda: lost_since(hanging.root) is None)
    assert reached(hanging.root, "nas", hanging.call) == "answer"


def test_work_may_take_longer_than_a_call(tmp_path: Any) -> None:
    ended = threading.Event()
    assert worked(str(tmp_path), "nas", lambda: ended.wait(0.2) or "done", poll=0.02) == "done"


def test_work_is_given_up_when_its_file_system_is_gone(hanging: Any) -> None:
    written: list[str] = []
    left = threading.Event()

    def work() -> None:
        try:
            hanging.call()
            require_wanted()
            written.append("too late")
        finally:
            left.set()

    with pytest.raises(NotAnswering):
        reached(hanging.root, "nas", hanging.call, limit=0.01)
    # it begins while the file system still answers
    hanging.answers.set()
    wait_for(lambda: lost_since(hanging.root) is None)
    hanging.answers.clear()
    begun = threading.Event()
    lost = threading.Thread(target=lambda: begun.wait() and _lose(hanging))
    lost.start()
    with pytest.raises(NotAnswering):
        worked(hanging.root, "nas", lambda: (begun.set(), work()), poll=0.05, give_up=0.1)
    hanging.answers.set()
    lost.join()
    assert left.wait(PATIENCE) and written == []


def _lose(hanging: Any) -> None:
    with pytest.raises(NotAnswering):
        reached(hanging.root, "nas", hanging.call, limit=0.001)


def test_threads_of_what_was_given_up_are_not_wanted_either(hanging: Any) -> None:
    seen: list[bool] = []
    asked = threading.Event()

    def outer() -> None:
        hanging.call()
        reached("/elsewhere", "nas", lambda: seen.append(is_wanted()))
        asked.set()

    with pytest.raises(NotAnswering):
        reached(hanging.root, "nas", outer, limit=0.01)
    hanging.answers.set()
    assert asked.wait(PATIENCE) and seen == [False]
