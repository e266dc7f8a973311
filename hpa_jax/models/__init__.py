"""Networks (flax.nnx): `create` one by name, `list_models` for the table of names."""

from hpa_jax.models.registry import create, list_models

__all__ = ["create", "list_models"]
