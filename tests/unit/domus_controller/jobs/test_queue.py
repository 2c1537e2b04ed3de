"""Which jobs may run: pure decisions, and threads that serve again."""

from __future__ import annotations

import threading
from typing import Any

from domus_controller.jobs.queue import MOST_VERBS, Entry, Workers, startable
from hypothesis import given
from hypothesis import strategies as st


def job(name: str, *objects: str, kind: str = "apply", server: str = "s1") -> Entry:
    return Entry(name, kind, frozenset(("vm", one, server) for one in objects))


def names(entries: list[Entry]) -> list[str]:
    return [entry.id for entry in entries]


def test_a_job_waits_for_the_running_one_that_holds_its_object() -> None:
    starts, waiting = startable([job("1", "a", "b")], [job("2", "b"), job("3", "c")], 4)
    assert (names(starts), waiting) == (["3"], {"2": "1"})


def test_a_job_does_not_overtake_an_earlier_one_that_waits() -> None:
    starts, waiting = startable([job("1", "a")], [job("2", "a", "b"), job("3", "b")], 4)
    assert (names(starts), waiting) == ([], {"2": "1", "3": "2"})


def test_the_same_name_on_another_server_is_another_object() -> None:
    assert names(startable([job("1", "a")], [job("2", "a", server="s2")], 4)[0]) == ["2"]


def test_playbooks_wait_for_a_place_and_verbs_do_not() -> None:
    running = [job("1", "a"), job("2", "b")]
    starts, waiting = startable(running, [job("3", "c"), job("4", "d", kind="start")], 2)
    assert (names(starts), waiting) == (["4"], {"3": None})


@given(
    st.lists(st.tuples(st.sampled_from(["apply", "verb"]), st.frozensets(st.sampled_from("abcd"), min_size=1)), max_size=12),
    st.integers(0, 12),
    st.integers(1, 3),
)
def test_no_two_running_jobs_share_an_object_and_none_starves(made: Any, already: int, limit: int) -> None:
    entries = [job(str(number), *objects, kind=kind) for number, (kind, objects) in enumerate(made)]
    running: list[Entry] = []
    queued = entries
    ended: list[str] = []
    while queued or running:
        starts, waiting = startable(running, queued, limit)
        running += starts
        queued = [entry for entry in queued if entry not in starts]
        assert set(waiting) == {entry.id for entry in queued}
        held = [target for entry in running for target in entry.targets]
        assert len(held) == len(set(held))
        assert sum(entry.kind == "apply" for entry in running) <= limit and len(running) <= MOST_VERBS + limit
        assert running, "nothing runs, though something waits"
        ended.append(running.pop(already % len(running)).id)
    assert sorted(ended) == sorted(entry.id for entry in entries)


def test_an_idle_thread_serves_again_and_a_busy_one_stops_nobody() -> None:
    workers = Workers()
    seen: list[int] = []
    for _ in range(3):
        done = threading.Event()
        workers.begin(lambda done=done: (seen.append(threading.get_ident()), done.set()))  # type: ignore[misc]
        assert done.wait(10)
        for _ in range(1000):
            if workers._idle:
                break
            threading.Event().wait(0.001)
    assert len(set(seen)) == 1
    gate, other = threading.Event(), threading.Event()
    workers.begin(lambda: bool(gate.wait(10)) and None)
    workers.begin(other.set)
    assert other.wait(10)
    gate.set()
