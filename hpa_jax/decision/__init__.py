"""Probabilities to labels."""

from hpa_jax.core import metrics
from hpa_jax.decision.stack import stacking

__all__ = ["metrics", "stacking"]
