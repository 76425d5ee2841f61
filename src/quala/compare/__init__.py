"""Tracked runs side by side: what their stages cost and scored, grouped by system and setting."""
