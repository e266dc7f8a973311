"""Synthetic data: a small competition of fluorescence images, made from a seed alone."""
