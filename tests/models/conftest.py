"""Toy models and batches."""

from toys import build, build_hf, make_batch

__all__ = ["build", "build_hf", "make_batch"]
