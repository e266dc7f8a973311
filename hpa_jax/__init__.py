"""Protein localisation in fluorescence images of cells, on JAX.

The systems of three winning teams of the 2018 Human Protein Atlas image competition as one program.
"""

from typing import TYPE_CHECKING, Any

from hpa_jax.core import classes

if TYPE_CHECKING:
    from hpa_jax.api import Model, Result, load
    from hpa_jax.pipeline.decide import decide

__all__ = ["Model", "Result", "classes", "decide", "load"]
__version__ = "0.1.0"
_LAZY = {
    "load": "hpa_jax.api",
    "Model": "hpa_jax.api",
    "Result": "hpa_jax.api",
    "decide": "hpa_jax.pipeline.decide",
}


def __getattr__(name: str) -> Any:
    """Imports the API when it is used, so that `import hpa_jax` stays light."""
    import importlib

    if name not in _LAZY:
        raise AttributeError(f"module 'hpa_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
