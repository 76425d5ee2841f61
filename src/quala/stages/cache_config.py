"""The typed configuration of a distillation without a teacher in the loop."""

from __future__ import annotations

from dataclasses import dataclass

from quala.errors import QualaError


@dataclass(kw_only=True)
class CacheConfig:
    """What is stored of the teacher (arXiv 2106.05691): all of it where nothing is set.

    The teacher's answers are stored whole, in float32: they are two numbers a token, or one a
    class. The other options say what is kept of hidden states, for training with `hidden`.
    """

    depth: int | None = None
    """Hidden states of the student that learn, from the top down; its embeddings count as one."""
    states: list[int] | None = None
    """The student's hidden states that learn, 0 the embeddings; null leaves it to `depth`."""
    top: int | None = None
    """The highest layer of the teacher that is followed, counted from 1: 8 is the published
    `t_top8`. The student's states are spread evenly below it; null follows `layer_map`."""
    tokens: int | None = None
    """Tokens kept of each input, those that the teacher's [CLS] attends to most, no [SEP] among
    them; null keeps all real tokens."""
    width: float = 1.0
    """Share of a kept token's entries, those of largest absolute value."""
    full_precision: bool = False
    """Hidden states in float32 instead of float16."""

    def __post_init__(self) -> None:
        for name in ("depth", "top", "tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise QualaError(f"`cache.{name}` must be at least 1, got {value}.")
        if not 0 < self.width <= 1:
            raise QualaError(f"`cache.width` must be above 0 and at most 1, got {self.width}.")
        if self.states is not None and not self.states:
            raise QualaError("`cache.states` must name a hidden state, got an empty list.")
        if self.states is not None and self.depth is not None:
            raise QualaError(
                f"`cache` takes `depth` or `states`, got {self.depth} and {self.states}."
            )
