"""Programs are run without a shell, with a closed input, and their refusals are told as errors of ours."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from domus_core.errors import Conflict, DriverError, InvalidSpec, NoCapacity, NotFound, Unreachable, Unsupported
from domus_core.libvirt_driver import tools
from domus_core.libvirt_driver.tools import explain, run

SOURCES = str(Path(tools.__file__).parents[2])


def shell(script: str, **options: object) -> str:
    return run(("sh", "-c", script), timeout=20, what="the test", **options)  # type: ignore[arg-type]


def test_the_output_comes_back_and_arguments_are_never_a_shell_line() -> None:
    assert run(("printf", "%s|", "$HOME", "; id", "a b", "*"), timeout=20, what="the test") == "$HOME|; id|a b|*|"


def test_the_environment_is_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("SECRET", "canary")
    monkeypatch.setenv("PATH", "/nowhere")
    assert set(shell("env").split()) - {"PWD=/"} == {f"PATH={tools.SEARCH_PATH}", "LC_ALL=C"}


def test_the_input_is_given_and_closed_otherwise() -> None:
    assert shell("cat", input=b"told\n") == "told\n"
    assert shell("cat") == ""


def test_bytes_that_are_no_text_do_not_break_it() -> None:
    assert shell(r"printf 'a\377b'") == "a\ufffdb"


@pytest.mark.parametrize(("program", "package"), [("qemu-img", "qemu-utils"), ("qemu-system-x86_64", "qemu-system-x86"), ("xorriso", "xorriso")])
def test_a_missing_program_names_its_package(program: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "setpriv").symlink_to("/usr/bin/setpriv")
    monkeypatch.setattr(tools, "SEARCH_PATH", str(tmp_path))
    with pytest.raises(Unsupported) as caught:
        run((program, "--version"), timeout=20, what="the test")
    assert program in caught.value.message
    assert caught.value.remedy == f"Install it: apt-get install {package}"


def test_a_refusal_says_what_failed_with_the_last_lines() -> None:
    with pytest.raises(DriverError) as caught:
        shell("seq 1 100 >&2; echo it broke >&2; exit 3")
    assert caught.value.message == "the test failed: 97\n98\n99\n100\nit broke"
    with pytest.raises(DriverError) as caught:
        shell("yes | tr -d '\\n' | head -c 100000 >&2; exit 3")
    assert len(caught.value.message) < 1100


def test_a_silent_refusal_says_how_it_ended() -> None:
    with pytest.raises(DriverError, match="the test failed: sh ended with status 3"):
        shell("exit 3")
    with pytest.raises(DriverError, match="sh was killed by SIGSEGV"):
        shell("kill -SEGV $$")


@pytest.mark.parametrize("text", ["write failed: No space left on device", "Disk quota exceeded"])
def test_a_full_disk_is_no_capacity(text: str) -> None:
    with pytest.raises(NoCapacity) as caught:
        shell(f"echo '{text}' >&2; exit 1")
    assert text in caught.value.message
    assert caught.value.remedy


def test_a_program_that_does_not_end_is_killed(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match=r"did not end within 0\.5 seconds"):
        run(("sh", "-c", f"echo $$ >{tmp_path}/pid; exec sleep 60"), timeout=0.5, what="the test")
    assert not os.path.exists(f"/proc/{(tmp_path / 'pid').read_text().strip()}")


def test_a_program_ends_when_its_caller_is_killed(tmp_path: Path) -> None:
    script = f"from domus_core.libvirt_driver.tools import run; run(('sh', '-c', 'echo $$ >{tmp_path}/pid; exec sleep 60'), timeout=60, what='it')"
    with subprocess.Popen((sys.executable, "-c", script), env={"PYTHONPATH": SOURCES}) as caller:
        wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().endswith("\n"))
        caller.kill()
    wait_until(lambda: is_gone(int((tmp_path / "pid").read_text())))


def test_an_argument_that_can_not_be_given_is_refused() -> None:
    with pytest.raises(InvalidSpec):
        run(("printf", "a\0b"), timeout=20, what="the test")
    with pytest.raises(InvalidSpec):
        run(("printf", "\ud800"), timeout=20, what="the test")
    with pytest.raises(DriverError, match="Argument list too long"):
        run(("printf", "x" * 10_000_000), timeout=20, what="the test")


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOENT, NotFound),
        (errno.ENOTDIR, NotFound),
        (errno.EEXIST, Conflict),
        (errno.ENOSPC, NoCapacity),
        (errno.EDQUOT, NoCapacity),
        (errno.ELOOP, InvalidSpec),
        (errno.ENAMETOOLONG, InvalidSpec),
        (errno.EFBIG, InvalidSpec),
        (errno.EIO, DriverError),
    ],
)
def test_errors_of_the_operating_system_are_told_as_ours(number: int, expected: type[Exception]) -> None:
    error = explain(OSError(number, os.strerror(number)), "making it", "/path")
    assert type(error) is expected
    assert error.message.startswith("making it failed: ")
    assert error.value == "/path"


def wait_until(is_so: object) -> None:
    for _ in range(2000):
        if is_so():  # type: ignore[operator]
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen")


def is_gone(process: int) -> bool:
    try:
        return ") Z " in Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
