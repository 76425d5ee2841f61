"""How far a model is made smaller, by which means, and in which steps. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Self

from quala.architecture import DEEPEST, LONGEST, WIDEST, Architecture
from quala.errors import QualaError
from quala.ranges import check_ranges, ranged

Schedule = Literal["geometric", "linear", "cubic"]
Score = Literal["magnitude", "fisher"]
StepTeacher = Literal["original", "previous"]

MEANS = ("ratio", "heads", "neurons", "layers", "embedding_rank", "sparsity")


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


def share_left(end: float, step: int, steps: int, schedule: Schedule) -> float:
    """Return the share that is left after `step` of `steps`, of which `end` is left at last.

    `geometric` takes the same factor in each step, `linear` the same amount (ROSITA); `cubic`
    takes the most at first: end + (1 - end) (1 - step / steps)^3 (arXiv 1710.01878, equation 1).
    """
    if step == steps:
        return end
    if schedule == "geometric":
        return float(end ** (step / steps))
    return end + (1 - end) * (1 - step / steps) ** (3 if schedule == "cubic" else 1)


def sizes_of(arch: Architecture) -> dict[str, int]:
    """Return the sizes of a model that `ShrinkConfig` can set; of several layers the largest."""
    return {
        "heads": max(layer.heads for layer in arch.sizes),
        "neurons": max(layer.intermediate for layer in arch.sizes),
        "layers": arch.layers,
        "embedding_rank": arch.embedding_rank or arch.embedding,
    }


@dataclass(frozen=True)
class ShrinkConfig:
    """How small a student gets, by which means, in how many steps, and which one is taken.

    A step first removes layers, heads and neurons, then cuts ranks, then sets weights to zero.
    Null leaves a means out.

    Raises:
        QualaError: for options out of range or that exclude one another, for no means at all, no
            step, or a `step` outside 1 to `steps`.
    """

    ratio: float | None = ranged(None, above=1, at_most=10_000)
    """Parameters of the whole model over those that are left, by SVD and zeros (LadaBERT)."""
    svd_share: float = ranged(0.5, at_least=0, at_most=1)
    """Exponent s: SVD shrinks by ratio^s, zeros by ratio^(1 - s). 0 only prunes."""
    embeddings: bool = True
    """Whether `ratio` and `sparsity` take the word embeddings too."""
    steps: int = ranged(1, at_least=1, at_most=100)
    """Trainings on the way to the end, each after a step of `schedule`."""
    step: int | None = ranged(None, at_least=1, at_most=100)
    """The step that a training takes, from 1; a workflow of several trainings sets it."""
    heads: float | None = ranged(None, identity="if set", above=0, at_most=WIDEST)
    """Heads left in each layer, the most important ones: a share below 1, or a count above."""
    neurons: float | None = ranged(None, identity="if set", above=0, at_most=LONGEST)
    """Feed-forward neurons left in each layer, as `heads`."""
    layers: int | None = ranged(None, identity="if set", at_least=1, at_most=DEEPEST)
    """Layers left; `keep_map` says which. ROSITA removes those on top, `bottom`."""
    embedding_rank: int | None = ranged(None, identity="if set", at_least=1, at_most=WIDEST)
    """Width of the factorized table of word embeddings."""
    sparsity: float | None = ranged(None, identity="if set", above=0, below=1)
    """Zeros among the weights of all matrices together, those of lowest score (oBERTa)."""
    score: Score = field(default="magnitude", metadata={"identity": "if set"})
    """What `sparsity` ranks weights by: |w|, or `fisher`, the sum of g^2 w^2 / 2 over batches."""
    schedule: Schedule = field(default="geometric", metadata={"identity": "if set"})
    """What a step takes: the same factor (`geometric`), the same amount (`linear`), or the most
    at first (`cubic`)."""
    teacher: StepTeacher = field(default="original", metadata={"identity": "if set"})
    """Who teaches a step: the workflow's teacher, or the student of the step before."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.step is not None and self.step > self.steps:
            raise QualaError(f"`step` must be 1 to {self.steps}, got {self.step}.")
        if all(getattr(self, name) is None for name in MEANS):
            raise QualaError(f"`shrink` needs one of {', '.join(MEANS)}, all are null.")
        for name in ("heads", "neurons"):
            value = getattr(self, name)
            if value is not None and value >= 1 and (value == 1 or value != int(value)):
                raise QualaError(
                    f"`{name}` must be a share below 1 or a count of 2 or more, got {value:g}; "
                    "null keeps all."
                )
        if self.ratio is not None and self.sparsity is not None:
            raise QualaError(
                f"`ratio` and `sparsity` both set weights to zero: give one, got {self.ratio:g} "
                f"and {self.sparsity:g}."
            )
        if self.ratio is not None and self.embedding_rank is not None and self.embeddings:
            raise QualaError(
                "`ratio` factorizes the word embeddings too: with `embedding_rank`, "
                "`embeddings` must be false, got true."
            )

    @property
    def last(self) -> bool:
        """Whether the training ends at the whole compression."""
        return self.step in (None, self.steps)

    @property
    def zeros(self) -> bool:
        """Whether weights are set to zero."""
        return self.ratio is not None or self.sparsity is not None

    def one_by_one(self) -> list[Self]:
        """Return what each training of a workflow takes, in order."""
        return [replace(self, step=step) for step in range(1, self.steps + 1)]

    def check_step(self) -> None:
        """Raise QualaError for several steps of which none is chosen."""
        if self.step is None and self.steps > 1:
            raise QualaError(
                f"`shrink.steps` is {self.steps}, but a training by itself takes one; the "
                "workflows `ladabert`, `rosita` and `oberta` run a training for each."
            )

    def now(self) -> HybridConfig:
        """Return what `ratio` asks for up to this step. Raises QualaError as `check_step`."""
        self.check_step()
        if self.ratio is None:
            raise QualaError("`ratio` is null.")
        step = (self.step or 1) - 1
        ratio = ratio_steps(self.ratio, self.steps)[step]
        if self.schedule != "geometric":
            ratio = 1 / self._left(1 / self.ratio)
        return HybridConfig(self.ratio if self.last else ratio, self.svd_share, self.embeddings)

    def sparsity_now(self) -> float:
        """Return the share of zeros up to this step; 0 without `sparsity`."""
        if self.sparsity is None or self.last:
            return self.sparsity or 0.0
        return 1 - self._left(1 - self.sparsity)

    def sizes(self, whole: Architecture) -> dict[str, int]:
        """Return the sizes up to this step, of those that are set, on the way from the `whole`.

        Raises:
            QualaError: as `check_step` and `ends`.
        """
        self.check_step()
        start = sizes_of(whole)
        return {
            name: max(end, round(start[name] * self._left(end / start[name])))
            for name, end in self.ends(whole).items()
        }

    def ends(self, whole: Architecture) -> dict[str, int]:
        """Return the sizes after the last step, of those that are set.

        Raises:
            QualaError: for a size above that of the `whole` model, a share of less than one unit,
                and a rank whose two factors are no smaller than the table.
        """
        found: dict[str, int] = {}
        for name, start in sizes_of(whole).items():
            value = getattr(self, name)
            if value is None:
                continue
            count = round(value * start) if value < 1 else int(value)
            if count < 1:
                raise QualaError(
                    f"`shrink.{name}` must leave one at least, got {value:g} of {start}."
                )
            found[name] = count
        self.check_growth(found, sizes_of(whole))
        words, width = whole.vocabulary, whole.embedding
        most = words * width / (words + width)
        if not found.get("embedding_rank", 0) < most:
            raise QualaError(
                f"`shrink.embedding_rank` must be below {most:.5g}, where two factors are as "
                f"large as the table of {words} x {width}, got {found['embedding_rank']}."
            )
        return found

    @staticmethod
    def check_growth(ends: Mapping[str, int], present: Mapping[str, int]) -> None:
        """Raise QualaError for an end above the `present` size."""
        for name, end in ends.items():
            if end > present[name]:
                raise QualaError(
                    f"`shrink.{name}` must be at most the {present[name]} that the model has, "
                    f"got {end}."
                )

    def _left(self, end: float) -> float:
        return share_left(end, self.step or 1, self.steps, self.schedule)
