"""Protein localisation in fluorescence images of cells, on JAX.

The systems of three winning teams of the 2018 Human Protein Atlas image competition as one program.
"""

from typing import Any

from hpa_jax.core import classes

__all__ = ["classes", "decide"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`hpa_jax.decide`, loaded when it is asked for: `import hpa_jax` stays light."""
    if name == "decide":
        from hpa_jax.pipeline.decide import decide

        return decide
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
