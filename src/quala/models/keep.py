"""From a length configuration to how many tokens each example of a batch keeps."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from quala.errors import QualaError
from quala.lengths import LengthConfig

KeepCounts = list[list[int] | None]


def keep_counts(
    mask: Tensor,
    lengths: LengthConfig,
    *,
    layers: int,
    natural: bool,
    skip_layers: frozenset[int],
) -> KeepCounts:
    """Return for each layer how many tokens each example keeps, None where none is dropped.

    `mask` (B, n) says which tokens are real. Raises QualaError unless there is one length per
    layer, and unless the batch is padded to the sequence length where lengths are not `natural`.
    """
    if len(lengths.lengths) != layers:
        raise QualaError(f"Expected {layers} lengths, one per layer, got {len(lengths.lengths)}.")
    examples, width = mask.shape
    if natural:
        present = mask.sum(dim=1).tolist()
        kept = [lengths.kept(tokens) for tokens in present]
    elif width == lengths.sequence_length:
        present, kept = [width] * examples, [lengths.lengths] * examples
    else:
        raise QualaError(
            f"`reference` semantics need inputs padded to {lengths.sequence_length} tokens, "
            f"got {width}."
        )
    return _changes(present, kept, skip_layers)


def _changes(
    present: Sequence[int], kept: Sequence[Sequence[int]], skip_layers: frozenset[int]
) -> KeepCounts:
    counts: KeepCounts = []
    before = list(present)
    for layer in range(len(kept[0])):
        after = [example[layer] for example in kept]
        dropped = layer not in skip_layers and after != before
        counts.append(after if dropped else None)
        before = after if dropped else before
    return counts
