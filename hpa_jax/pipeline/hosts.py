"""Several hosts that run one command: joining them, and what they must agree on.

One host, told by no HPA_COORDINATOR in the environment, needs none of it, and no import of JAX.
"""

import os


def several() -> bool:
    """Whether this process is one of several hosts."""
    return bool(os.environ.get("HPA_COORDINATOR"))


def joined_as_first() -> bool:
    """Joins the other hosts, if there are any; whether this is the first of them."""
    if not several():
        return True
    import jax

    from hpa_jax.training import distributed

    distributed.initialize()
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """A barrier over all hosts; nothing where there is one."""
    if several():
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(what)


def answer_of_first(answer: bool) -> bool:
    """The first host's answer, on all hosts."""
    if not several():
        return answer
    from hpa_jax.training import distributed

    return distributed.agree(answer)
