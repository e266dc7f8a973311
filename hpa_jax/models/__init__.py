"""Networks (flax.nnx): `create` one by name, `list_models` for the table of names.

Both are imported on first use, so that readers of weight files and the catalogue of published
models work without JAX.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpa_jax.models.registry import create, list_models

__all__ = ["create", "list_models"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hpa_jax.models import registry

    return getattr(registry, name)
