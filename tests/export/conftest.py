"""Exported toy models."""

from exported import export_folder, export_of

__all__ = ["export_folder", "export_of"]
