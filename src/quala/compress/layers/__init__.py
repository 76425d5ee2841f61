"""Depth: which encoder layers a model keeps."""
