"""Feed-forwards of several experts, of which the id of each token chooses one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from quala.errors import QualaError
from quala.models.families import Block


class Experts(nn.ModuleList):
    """One module of a layer, such as its first feed-forward matrix, as each expert has it.

    `table` (vocabulary,) int8 is the expert of each token id. The first module of a feed-forward
    has it as a buffer, so that it is saved with the weights: another table is another model.
    """

    table: Tensor | None

    def __init__(self, modules: Iterable[nn.Module], table: Tensor | None = None) -> None:
        super().__init__(modules)
        self.register_buffer("table", table)

    def forward(self, *_: object) -> Tensor:
        """Raise QualaError: without token ids there is no route, as in transformers' own code."""
        raise QualaError("Experts are chosen by token ids: run the model as quala loads it.")


def first_of(module: nn.Module) -> nn.Module:
    """Return the module itself, or that of the first expert: all have the same sizes."""
    return module[0] if isinstance(module, Experts) else module


def blocks_of(block: Block) -> list[Block]:
    """Return the block as each expert has it."""
    parts = (cast("Experts", part) for part in (block.ffn_in, block.ffn_out, block.ffn_norm))
    return [
        replace(block, ffn_in=first, ffn_out=second, ffn_norm=norm)
        for first, second, norm in zip(*parts, strict=True)
    ]


def feed_routed(
    block: Block, ids: Tensor, hidden: Tensor, feed: Callable[[Block, Tensor], Tensor]
) -> Tensor:
    """Feed each token of `hidden` (B, n, H) through the expert of its id in `ids` (B, n).

    `feed` runs the whole feed-forward, norm included, of an ordinary block on rows (m, H). Tokens
    are sorted by expert, so that each expert is run once (MoEBERT, arXiv 2204.07675).
    """
    blocks, table = blocks_of(block), cast("Tensor", block.ffn_in.table)
    chosen = table[ids].flatten().long()
    order = chosen.argsort(stable=True)
    counts = chosen.bincount(minlength=len(blocks)).tolist()
    parts = hidden.flatten(0, 1)[order].split(counts)
    fed = [feed(one, rows) for one, rows in zip(blocks, parts, strict=True) if len(rows)]
    return torch.cat(fed)[order.argsort()].view_as(hidden)
