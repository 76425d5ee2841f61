"""How sparsity grows with the steps (Zhu and Gupta, arXiv 1710.01878)."""

from __future__ import annotations

from quala.errors import QualaError


def cubic_sparsity(
    step: int, *, begin: int, end: int, final: float, initial: float = 0.0
) -> float:
    """Return s_f + (s_i - s_f) (1 - (step - begin) / (end - begin))^3, constant outside.

    Equation 1 of arXiv 1710.01878: fast while weights are redundant, slow near the end.

    Args:
        step: optimizer steps taken.
        begin: step at which the sparsity leaves `initial`.
        end: step at which it reaches `final`.
        final: share of weights that are zero at the end.
        initial: share of weights that are zero at the beginning.

    Raises:
        QualaError: unless begin < end and 0 <= initial <= final < 1.
    """
    if not begin < end:
        raise QualaError(f"`begin` must be below `end` {end}, got {begin}.")
    if not 0 <= initial <= final < 1:
        raise QualaError(
            f"Sparsity must rise within 0 <= initial <= final < 1, got {initial} to {final}."
        )
    left = 1 - min(max(step - begin, 0), end - begin) / (end - begin)
    return final + (initial - final) * left**3
