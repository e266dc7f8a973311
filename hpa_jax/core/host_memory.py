"""The C library's allocator, kept from returning freed memory.

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
    """Makes the process keep freed memory for its next allocation; True if that took effect.

    Costs: the process stays as large as it ever was.  HPA_JAX_MALLOC=default leaves the allocator
    alone, and so does any C library but glibc.
    """
    if os.environ.get("HPA_JAX_MALLOC") == "default" or not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    # No block straight from the kernel, and none back to it (-1: the largest size_t).
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))
