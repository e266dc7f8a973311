"""Protein localisation in fluorescence images of cells, on JAX.

The systems of three winning teams of the 2018 Human Protein Atlas image competition as one program.
"""

from hpa_jax.core import classes

__all__ = ["classes"]
__version__ = "0.1.0"
