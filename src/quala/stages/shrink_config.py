"""The typed configuration of a student that is made smaller before it is distilled."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from quala.compress.prune.config import HybridConfig, ratio_steps
from quala.compress.quantize.config import QuantizeConfig
from quala.errors import QualaError


@dataclass(frozen=True)
class ShrinkConfig(HybridConfig):
    """The compression of a student as a whole, its steps, and which of them a training takes.

    The ratio counts against the parameters of the teacher.

    Raises:
        QualaError: for no step, or a `step` outside 1 to `steps`.
    """

    steps: int = 1
    """Trainings on the way to the ratio, each after ratio^(1/steps) more of compression."""
    step: int | None = None
    """The step that a training takes, from 1; a workflow of several trainings sets it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise QualaError(f"`steps` must be at least 1, got {self.steps}.")
        if self.step is not None and not 1 <= self.step <= self.steps:
            raise QualaError(f"`step` must be 1 to {self.steps}, got {self.step}.")

    @property
    def last(self) -> bool:
        """Whether the training ends at the whole ratio."""
        return self.step in (None, self.steps)

    def one_by_one(self) -> list[Self]:
        """Return what each training of a workflow takes, in order."""
        return [replace(self, step=step) for step in range(1, self.steps + 1)]

    def now(self) -> HybridConfig:
        """Return the compression up to this step.

        Raises:
            QualaError: for several steps of which none is chosen.
        """
        if self.step is None and self.steps > 1:
            raise QualaError(
                f"`shrink.steps` is {self.steps}, but a training by itself takes one; the "
                "workflow `ladabert` runs a training for each."
            )
        ratio = ratio_steps(self.ratio, self.steps)[(self.step or 1) - 1]
        return HybridConfig(ratio, self.svd_share, self.embeddings)


def shrink_steps(config: ShrinkConfig | None) -> list[ShrinkConfig]:
    """Return what each training takes. Raises QualaError where nothing is to be made smaller."""
    if config is None:
        raise QualaError("`stage.distill.shrink` is null; `stage/distill=ladabert` has values.")
    return config.one_by_one()


def check_zeros(shrink: ShrinkConfig, quantizers: QuantizeConfig) -> None:
    """Raise QualaError where pruned weights would be rounded to a grid without zero."""
    methods = {"weight_quantizer": quantizers.weight_quantizer}
    if shrink.embeddings and quantizers.quantize_embeddings:
        methods["embedding_quantizer"] = quantizers.embedding_quantizer
    for name, method in methods.items():
        if method == "bwn":
            raise QualaError(f"`shrink` leaves zeros, which `{name}=bwn` has no code for.")
