"""The names of a graph that others rely on; `{}` stands for the layer, counted from 0."""

INPUTS = ("input_ids", "attention_mask", "segment_ids", "lengths")
OUTPUT = "logits"
QUERY, KEY, VALUE = "query_{}", "key_{}", "value_{}"
"""Nodes that split (B, n, H) into heads."""
BIASED = "attention_bias_{}"
"""The node that adds the padding's bias to the attention logits."""
CONTEXT = "context_{}"
"""The node that joins the heads to (B, n, H)."""
DROP = "drop_{}"
"""The `If` that drops tokens or leaves them alone."""
KEPT = "kept_{}_{}"
"""Its outputs: hidden, positions, valid, question, answers."""
