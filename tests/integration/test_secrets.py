"""Secrets planted as canaries: they are in no output, no argument and no file that others may read."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import os
import stat
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from domus_core.engine import apply
from domus_core.errors import DomusError
from domus_core.libvirt_driver.adoption import adopt
from domus_core.model.document import parse_document
from domus_core.planning.reconcile import plan
from domus_core.rendering import render_diff, render_plan
from domus_core.snapshots import dump_snapshot

from tests.support.lab import Document, Lab
from tests.support.private_libvirtd import PRIVATE

from .test_faults import vm

pytestmark = pytest.mark.libvirt

CANARIES = ("CANARYUSER1", "CANARYNET1", "CANARYv1", "CANARYUSER2", "CANARYNET2", "CANARYv2")
MARK = b"CANARY"


def site_of(lab: Lab, number: int) -> Document:
    """A VM with a secret in every place that may hold one."""
    secrets = {"user_data": f"#cloud-config\npassword: CANARYUSER{number}\n", "network_config": f"version: 2\n# CANARYNET{number}\n"}
    disks = [{"name": "root", "repository": "main", "size": "1MiB"}]
    return {
        "site": "fault",
        "servers": [{"name": "here", "virtualization": "qemu"}],
        "repositories": [{"name": "main", "path": str(lab.repository)}],
        "vms": [
            vm("fault-vm", disks=disks, cloud_init=secrets, vnc={"password": f"CANARYv{number}"}, state="running"),
            vm("fault-bare", cloud_init=secrets, state="stopped"),
        ],
    }


@contextlib.contextmanager
def watched_arguments() -> Iterator[list[bytes]]:
    """The command lines of all processes with a canary in them, while this lasts; and how many tools were seen, as a control."""
    found: list[bytes] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            for entry in filter(str.isdigit, os.listdir("/proc")):
                with contextlib.suppress(OSError):
                    words = Path(f"/proc/{entry}/cmdline").read_bytes()
                    if MARK in words or b"xorriso" in words:
                        found.append(words)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def all_that_is_shown(lab: Lab, document: Document) -> list[str]:
    """Every form in which a document, its plan, what was found and what was done can be printed."""
    site = parse_document(document)
    with contextlib.closing(lab.driver()) as driver:
        snapshot = driver.read(site)
        planned = plan(site, snapshot)
        check = apply(site, driver, check=True)
        changes = [change for step in planned.steps for change in step.changes]
        shown = [repr(site), repr(snapshot), repr(planned), repr(check), str(check), render_plan(planned)]
        shown += [
            json.dumps(planned.as_dict()),
            json.dumps(check.as_dict()),
            repr(render_diff(changes)),
            json.dumps(dump_snapshot(snapshot)),
            json.dumps(adopt(driver, list(lab.domains()))),
        ]
        done = apply(site, driver)
        return shown + [repr(done), json.dumps(done.as_dict()), *map(str, done.errors), *map(repr, done.errors)]


def files_with_canaries(lab: Lab) -> dict[str, int]:
    """The files with a canary that this server has, with their modes."""
    roots = [lab.directory, *(lab.libvirtd.directory / name for name in PRIVATE), Path("/var/log")]
    found = {}
    for root in roots:
        for path in root.rglob("*"):
            if path.is_file() and not path.is_symlink() and path.stat().st_size < 1 << 28:
                with contextlib.suppress(OSError):
                    if MARK in path.read_bytes():
                        found[str(path)] = stat.S_IMODE(path.stat().st_mode)
    return found


def assert_kept(lab: Lab, shown: list[str]) -> None:
    assert not [text for text in shown if MARK.decode() in text]
    files = files_with_canaries(lab)
    assert files, "the search would find them"
    assert {path: oct(mode) for path, mode in files.items() if mode & 0o077} == {}


def test_secrets_are_kept(lab: Lab, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    caplog.set_level(logging.DEBUG)
    first, second = site_of(lab, 1), site_of(lab, 2)
    suspended = copy.deepcopy(second)
    suspended["vms"][0]["state"] = "suspended"
    with watched_arguments() as arguments:
        for document in (first, first, second, second, suspended):
            assert_kept(lab, all_that_is_shown(lab, document))
            assert_kept(lab, [json.dumps(lab.work(document))])
    assert arguments and not [words for words in arguments if MARK in words]
    printed = capfd.readouterr()
    assert_kept(lab, [caplog.text, printed.out, printed.err])
    assert lab.plan(suspended) == []
    lab.apply({"site": "fault", "vms": [{"name": name, "state": "absent", "delete_disks": True} for name in ("fault-vm", "fault-bare")]})
    assert files_with_canaries(lab) == {}, "nothing of them is left"


BROKEN: dict[str, dict[str, Any]] = {
    "libvirt refuses the definition": {"machine": "nosuchmachine"},
    "libvirt refuses the start": {"vnc": {"password": "CANARYv1", "listen": "203.0.113.77"}},
    "user data of another type": {"cloud_init": {"user_data": ["CANARYUSER1"]}},
    "user data with a control character": {"cloud_init": {"user_data": "CANARYUSER1\x01"}},
    "a key that is not known": {"cloud_init": {"user_dat": "CANARYUSER1"}},
    "secrets where there should be none": {"cloud_init": "CANARYUSER1"},
    "a password that is too long": {"vnc": {"password": "CANARYv1-too-long"}},
    "a password in a list": {"vnc": {"password": ["CANARYv1"]}},
    "a password with a new line": {"vnc": {"password": "CANARY\n"}},
}


@pytest.mark.parametrize("how", BROKEN)
def test_secrets_are_kept_when_it_fails(lab: Lab, how: str) -> None:
    document = site_of(lab, 1)
    document["vms"][0].update(BROKEN[how])
    told: list[str] = []
    try:
        report = lab.apply(document)
        assert report.errors, "it was to fail"
        told += [str(report), json.dumps(report.as_dict())]
        told += [text for error in report.errors for text in (str(error), repr(error), json.dumps(error.as_dict()), "".join(traceback.format_exception(error)))]
    except DomusError as error:
        told += [str(error), repr(error), repr(error.args), json.dumps(error.as_dict()), traceback.format_exc()]
    outcome = lab.work(document)
    told.append(json.dumps(outcome))
    assert not [text for text in told if MARK.decode() in text]
    assert {path: oct(mode) for path, mode in files_with_canaries(lab).items() if mode & 0o077} == {}
