"""Keeps the C library's allocator from returning freed memory to the kernel.

Every run of a compiled XLA program on CPU allocates its work space anew.  glibc gets blocks of
that size from the kernel and gives them back at once, so each run faults all its pages in again:
adding 1 to 33 MB takes 17 ms, and 3 ms where the pages are kept (best of ten calls of `jax.jit` of
that, on a shared machine).
"""

import ctypes
import functools
import os
import sys

_TRIM_THRESHOLD = -1  # numbers of <malloc.h>
_MMAP_MAX = -4


@functools.cache
def keep_freed() -> bool:
    """Make the process keep freed memory for its next allocation; True if that took effect.

    Cost: the process never shrinks.  No effect with HPA_JAX_MALLOC=default or another C library
    than glibc.
    """
    if os.environ.get("HPA_JAX_MALLOC") == "default" or not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    # No mmap-ed blocks, and no trimming (-1: the largest size_t).
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))
