"""The packages of the wheel: hpa_jax, and the recipes of configs/ inside it."""

from pathlib import Path

from setuptools import find_packages, setup

RECIPES = "hpa_jax.shipped.configs"

folders = [path.parent.as_posix() for path in Path("configs").rglob("*.py")]
setup(
    packages=[
        *find_packages(include=["hpa_jax", "hpa_jax.*"]),
        *(folder.replace("configs", RECIPES, 1).replace("/", ".") for folder in sorted({*folders})),
    ],
    package_dir={RECIPES: "configs"},
)
