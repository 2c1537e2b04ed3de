"""Which functions of libvirt's C library are called, and which of them change something."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable

import libvirt

# Whatever is not known to only read counts as a write.
READS = re.compile(
    r"vir(Connect(Get|List|Is|NumOf|Open|Close|Ref|BaselineCPU|CompareCPU)|NodeGet|Get|"
    r"(Domain|Network|NWFilter|StoragePool|StorageVol)(Get|List|Lookup|Is|Has|Free|Ref|InterfaceAddresses|ManagedSaveGetXMLDesc)|"
    r"RegisterErrorHandler|InitializeErrorHandler|Event)\w*"
)


@contextmanager
def recorded_calls() -> Iterator[Counter[str]]:
    """Count the calls of this process inside the block by the name of the function, whoever makes them."""
    calls: Counter[str] = Counter()
    real = libvirt.libvirtmod

    class Recording:
        def __getattr__(self, name: str) -> Any:
            function = getattr(real, name)
            return _counting(function, name, calls) if callable(function) else function

    libvirt.libvirtmod = Recording()
    try:
        yield calls
    finally:
        libvirt.libvirtmod = real


def writes(calls: Counter[str]) -> dict[str, int]:
    """The calls that are not known to only read."""
    return {name: times for name, times in calls.items() if not READS.fullmatch(name)}


def _counting(function: Callable[..., Any], name: str, calls: Counter[str]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        calls[name] += 1
        return function(*arguments)

    return call
