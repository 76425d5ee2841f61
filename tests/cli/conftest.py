"""An exported toy model."""

from exported import export_folder

__all__ = ["export_folder"]
