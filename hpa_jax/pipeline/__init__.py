"""Composes the parts of the package into the steps of `run` and into the other verbs."""
