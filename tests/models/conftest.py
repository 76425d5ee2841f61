"""Toy models, batches and exports."""

from exported import export_folder
from toys import build, build_hf, make_batch

__all__ = ["build", "build_hf", "export_folder", "make_batch"]
