"""Distillation losses, one idea per file: pure functions with their reductions spelled out."""
