"""A watcher's memory: what a list needed for a moment goes back to the system, not to a heap that names of nodes hold in place."""

from __future__ import annotations

import ctypes
import sys
from typing import Final

_MMAP_THRESHOLD: Final = -3  # M_MMAP_THRESHOLD of malloc.h
_PAGE_BYTES: Final = 1 << 20  # pages of lists are longer, chunks of streams shorter


def set_apart() -> None:
    """Give large buffers a mapping of their own, always: glibc would else put them on the heap from the second one on."""
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none, and needs none
        if mallopt is not None:
            mallopt(_MMAP_THRESHOLD, _PAGE_BYTES)
