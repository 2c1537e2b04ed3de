"""The process's memory: what a large operation needed goes back to the system, which Python and glibc would keep."""

from __future__ import annotations

import ctypes
import gc

# malloc.h: the most heaps that threads may have. The default is eight for each processor, and each keeps what was freed in it.
_M_ARENA_MAX = -8
ARENAS = 1

_libc = ctypes.CDLL(None)


def use_one_heap() -> None:
    """Let all threads share one heap; to be called before there are threads. Does nothing without glibc."""
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(_M_ARENA_MAX, ARENAS)


def give_back() -> None:
    """Give the system what is free; may take some 50 ms. Does nothing without glibc."""
    gc.collect()
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)
