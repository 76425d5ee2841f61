"""What a workflow script says of its distillations: the student's steps, and the losses.

The numbers are in conf/. Planning compares both, so that a script says what is really done.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quala.errors import QualaError, unknown
from quala.plugins import LOSSES
from quala.stages.distill_options import OPTIONAL_STEPS

if TYPE_CHECKING:
    from quala.stages.distill_options import DistillConfig

STEPS = ("copy_layers", *OPTIONAL_STEPS)


@dataclass(frozen=True)
class Distillation:
    """A distill or refine stage of a recipe: its steps in order, and quala's losses it may use.

    Options may leave a step or a loss out, as an ablation does, and may add losses of the user's
    own. Any other step or loss is another recipe.

    Raises:
        QualaError: for an unknown step or loss, and for steps in another order than they run.
    """

    stage: str
    steps: tuple[str, ...]
    losses: tuple[str, ...]

    def __post_init__(self) -> None:
        for names, known, kind in ((self.steps, STEPS, "step"), (self.losses, LOSSES.own, "loss")):
            for name in names:
                if name not in known:
                    raise unknown(f"distillation {kind}", name, known)
        ordered = [step for step in STEPS if step in self.steps]
        if list(self.steps) != ordered:
            raise QualaError(f"Steps run in the order {ordered}, got {list(self.steps)}.")

    def check(self, workflow: str, config: DistillConfig) -> None:
        """Raise QualaError where the options ask for what the recipe does not have."""
        for name in config.steps:
            if name in OPTIONAL_STEPS and name not in self.steps:
                option, off = OPTIONAL_STEPS[name]
                got = getattr(config, option)
                raise self._other(workflow, f"step `{name}`", option, off, got)
        for name, weight in config.weights.items():
            if name in LOSSES.own and name not in self.losses:
                option = name if hasattr(config, name) else f"losses.{name}"
                raise self._other(workflow, f"loss `{name}`", option, 0.0, weight)

    def _other(
        self, workflow: str, what: str, option: str, off: object, got: object
    ) -> QualaError:
        return QualaError(
            f"`{workflow}` has no {what}: `stage.{self.stage}.{option}` must be "
            f"{json.dumps(off)}, got {got}."
        )


def distill(*steps: str, losses: tuple[str, ...]) -> Distillation:
    """Return the stage that makes a student of its teacher's layers and trains it."""
    return Distillation("distill", steps, losses)


def refine(*steps: str, losses: tuple[str, ...]) -> Distillation:
    """Return the stage that trains the student of `distill` once more."""
    return Distillation("refine", steps, losses)
