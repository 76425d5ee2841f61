"""Comparison of tracked runs, grouped by system and setting."""
