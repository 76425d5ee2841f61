"""How far factorizing and pruning shrink a model together, and in which steps. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from quala.errors import QualaError
from quala.ranges import check_ranges, ranged


@dataclass(frozen=True)
class HybridConfig:
    """The compression of a model, and how factorizing and pruning share it.

    Raises:
        QualaError: for a ratio of 1 or less, or a share outside 0 to 1.
    """

    ratio: float = ranged(above=1, at_most=10_000)
    """Parameters of the original model over non-zero parameters of the compressed one."""
    svd_share: float = ranged(0.5, at_least=0, at_most=1)
    """Exponent s: factorizing shrinks by ratio^s, pruning by ratio^(1 - s). 0 only prunes."""
    embeddings: bool = True
    """Whether the word embeddings are compressed as well."""

    def __post_init__(self) -> None:
        check_ranges(self)


def ratio_steps(ratio: float, steps: int) -> list[float]:
    """Return the rising ratios ratio^(1/K), ratio^(2/K), ..., ratio of a compression in K steps.

    Raises:
        QualaError: for a ratio of 1 or less, or no step.
    """
    if not ratio > 1 or steps < 1:
        raise QualaError(f"`ratio` above 1 and a step are needed, got {ratio} and {steps}.")
    return [float(ratio ** (step / steps)) for step in range(1, steps)] + [float(ratio)]
