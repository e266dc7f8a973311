"""Coordination of several hosts that run one command.

Without HPA_COORDINATOR in the environment there is one host, and JAX is not imported.
"""

import os


def several() -> bool:
    """Whether this process is one of several hosts."""
    return bool(os.environ.get("HPA_COORDINATOR"))


def joined_as_first() -> bool:
    """Join the other hosts, if any; return whether this is the first host."""
    if not several():
        return True
    import jax

    from hpa_jax.training import distributed

    distributed.initialize()
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Wait for all hosts; do nothing on a single host."""
    if several():
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(what)


def value_of_first(value: bool) -> bool:
    """Return the first host's value on all hosts."""
    if not several():
        return value
    from hpa_jax.training import distributed

    return distributed.agree(value)
