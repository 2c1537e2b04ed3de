"""Pool records: whole or not at all, by whoever has read what is there, with quorum."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import pytest
from domus_core.cluster import record_files
from domus_core.cluster.record_files import all_records, read_record, remove_record, write_record
from domus_core.cluster.records import PoolRecord, as_text, from_text
from domus_core.errors import Conflict, DomusError, DriverError, Forbidden, NotFound, PreconditionFailed, Unreachable

RECORD = PoolRecord("u1", "web1", "<domain/>", {"name": "web1"}, generation=3, server="srv1", start_delay=5)


def quorate() -> bool:
    return True


def test_what_is_written_is_read(tmp_path: Path) -> None:
    token = write_record(str(tmp_path), RECORD, "", quorate)
    assert read_record(str(tmp_path), "u1") == (RECORD, token)
    assert [path.name for path in tmp_path.glob("*.new")] == []


def test_only_who_has_read_what_is_there_writes(tmp_path: Path) -> None:
    token = write_record(str(tmp_path), RECORD, "", quorate)
    with pytest.raises(PreconditionFailed):
        write_record(str(tmp_path), RECORD, "", quorate)
    second = write_record(str(tmp_path), dataclasses.replace(RECORD, server="srv2"), token, quorate)
    with pytest.raises(PreconditionFailed):
        write_record(str(tmp_path), RECORD, token, quorate)
    assert read_record(str(tmp_path), "u1")[1] == second


def test_an_older_generation_never_wins(tmp_path: Path) -> None:
    token = write_record(str(tmp_path), RECORD, "", quorate)
    with pytest.raises(Conflict):
        write_record(str(tmp_path), dataclasses.replace(RECORD, generation=2), token, quorate)


def test_without_quorum_nothing_is_written_or_removed(tmp_path: Path) -> None:
    with pytest.raises(Forbidden):
        write_record(str(tmp_path), RECORD, "", lambda: False)
    assert list(tmp_path.iterdir()) == []
    token = write_record(str(tmp_path), RECORD, "", quorate)
    with pytest.raises(Forbidden):
        remove_record(str(tmp_path), "u1", token, lambda: False)
    remove_record(str(tmp_path), "u1", token, quorate)
    with pytest.raises(NotFound):
        read_record(str(tmp_path), "u1")


def test_a_file_system_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(DriverError):
        write_record(str(tmp_path / "records"), RECORD, "", quorate)
    assert not (tmp_path / "records").exists()


def test_one_that_hangs_hangs_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    thawed = threading.Event()
    monkeypatch.setattr(record_files, "READ_SECONDS", 0.1)
    monkeypatch.setattr(record_files, "_read", lambda path: thawed.wait(60) and None)
    with pytest.raises(Unreachable):
        read_record(str(tmp_path), "u1")
    thawed.set()


@pytest.mark.parametrize("cut", [1, 20, 64, 65, 66, 120])
def test_a_record_that_was_cut_off_is_not_read(cut: int) -> None:
    with pytest.raises(DriverError):
        from_text(as_text(RECORD).rstrip("\n")[:-cut], "u1")


def test_a_record_of_another_vm_is_not_read() -> None:
    with pytest.raises(DriverError):
        from_text(as_text(RECORD), "u2")


def test_many_writers_lose_nothing(tmp_path: Path) -> None:
    write_record(str(tmp_path), dataclasses.replace(RECORD, generation=0), "", quorate)

    def count() -> None:
        done = 0
        while done < 10:
            record, token = read_record(str(tmp_path), "u1")
            try:
                write_record(str(tmp_path), dataclasses.replace(record, generation=record.generation + 1), token, quorate)
                done += 1
            except (PreconditionFailed, DomusError):
                continue

    threads = [threading.Thread(target=count) for dummy in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read_record(str(tmp_path), "u1")[0].generation == 40


def test_all_records_and_what_is_wrong_with_the_others(tmp_path: Path) -> None:
    write_record(str(tmp_path), RECORD, "", quorate)
    (tmp_path / "u2.json").write_text("{", encoding="utf-8")
    records, problems = all_records(str(tmp_path))
    assert records == [RECORD] and len(problems) == 1
