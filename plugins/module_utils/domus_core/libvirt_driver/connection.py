"""The only import of libvirt: connections, and its errors told in ours."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from ..errors import Busy, Conflict, DomusError, DriverError, NoCapacity, NotFound, Unreachable, Unsupported

libvirt: Any
try:
    import libvirt as _bindings
except ImportError:  # reported by `connect` with the package that is missing
    libvirt = None
else:
    libvirt = _bindings

# https://libvirt.org/html/libvirt-virterror.html
_KINDS: dict[str, type[DomusError]] = {
    "VIR_ERR_NO_DOMAIN": NotFound,
    "VIR_ERR_NO_NETWORK": NotFound,
    "VIR_ERR_NO_NWFILTER": NotFound,
    "VIR_ERR_NO_SUPPORT": Unsupported,
    "VIR_ERR_CONFIG_UNSUPPORTED": Unsupported,
    "VIR_ERR_OPERATION_UNSUPPORTED": Unsupported,
    "VIR_ERR_ARGUMENT_UNSUPPORTED": Unsupported,
    "VIR_ERR_OPERATION_INVALID": Conflict,
    "VIR_ERR_DOM_EXIST": Conflict,
    "VIR_ERR_NETWORK_EXIST": Conflict,
    "VIR_ERR_RESOURCE_BUSY": Busy,
    "VIR_ERR_OPERATION_TIMEOUT": Busy,
    "VIR_ERR_NO_CONNECT": Unreachable,
    "VIR_ERR_INVALID_CONN": Unreachable,
    "VIR_ERR_AGENT_UNRESPONSIVE": Unreachable,
}
# What libvirt-python says when it knows nothing of an error.
_UNTOLD = "() failed"
_thread = threading.local()
_LOST = ("client socket is closed", "end of file while reading", "connection closed", "failed to connect socket", "cannot recv data", "cannot write data")


def connect(uri: str) -> Any:
    """Open a libvirt connection. Raises Unsupported without python3-libvirt, Unreachable when libvirt does not answer."""
    if libvirt is None:
        raise Unsupported("the libvirt bindings for Python are not installed here", remedy="Install them: apt-get install python3-libvirt")
    libvirt.registerErrorHandler(lambda context, error: None, None)
    try:
        return libvirt.open(uri)
    except libvirt.libvirtError as error:
        raise Unreachable(
            f"libvirt does not answer: {error}", object=f"connection {uri}", remedy="Is it running? systemctl status libvirtd; journalctl -u libvirtd"
        ) from None


def _remember(phase: str, info: dict[str, int]) -> None:
    """Before garbage collection: one in the midst of a failing call may free a libvirt object, which empties the thread's last error."""
    if phase == "start" and (error := libvirt.virGetLastError()) is not None:
        _thread.error = error


if libvirt is not None:
    gc.callbacks.append(_remember)


def code_of(error: Any) -> int | None:
    """The code of a libvirtError, one of libvirt's `VIR_ERR_...`; also when libvirt-python asked for it too late (see `_remember`)."""
    if error.err is None and str(error).endswith(_UNTOLD):
        error.err = getattr(_thread, "error", None)
    code: int | None = error.get_error_code()
    return code


@contextmanager
def separate(connection: Any) -> Iterator[Any]:
    """A connection of its own to the same libvirt, for a call that may take long. Raises Unreachable.

    A thread's call can wait for that of another thread on the same connection (seen with libvirt 9.0, whose client loses the
    wake-up): one QEMU that hangs would hold up everything. Drivers inside this process have only the one connection.
    """
    uri = connection.getURI()
    if connection.getType() == "TEST" or urlsplit(uri).path == "/embed":
        yield connection
        return
    own = connect(uri)
    try:
        yield own
    finally:
        with suppress(libvirt.libvirtError):
            own.close()


@contextmanager
def told(what: str) -> Iterator[None]:
    """Turn libvirt's errors inside the block into ours; `what` says what was being done."""
    try:
        yield
    except Exception as error:
        if libvirt is None or not isinstance(error, libvirt.libvirtError):
            raise
        raise translate(error, what) from None


def translate(error: Any, what: str) -> DomusError:
    """The DomusError for a libvirtError."""
    kind = kind_of(error)
    text = error.get_error_message() or str(error)
    if any(sign in text.lower() for sign in _LOST):
        return Unreachable(f"{what}: the connection to libvirt broke: {text}", remedy="Is it running? systemctl status libvirtd virtlogd; then apply again")
    if "No space left on device" in text:
        return NoCapacity(f"{what}: {text}", remedy="Free some room on that file system")
    return kind(f"{what}: {text}")


def kind_of(error: Any) -> type[DomusError]:
    """Which of our errors a libvirtError is."""
    code = code_of(error)
    for name, kind in _KINDS.items():
        if code == getattr(libvirt, name, None):
            return kind
    return DriverError
