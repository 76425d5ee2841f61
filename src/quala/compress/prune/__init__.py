"""Pruning: single weights under a mask; heads and neurons taken out for good."""
