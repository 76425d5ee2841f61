"""A workflow's trainings on the way to a small model: one for each step of `shrink`."""

from __future__ import annotations

from quala.stages.distill_options import shrink_steps
from quala.stages.recipe import Distillation
from quala.workflow.flow import Artifact, Flow
from quala.workflow.sources import Source


def shrink_path(
    flow: Flow,
    distillation: Distillation,
    *,
    data: Source,
    teacher: Artifact,
    otherwise: Artifact | None = None,
) -> Artifact:
    """Run `distillation` once for each step of its `shrink`, and return the last student.

    The first student is made of `teacher`, each later one of the student before it. With
    `shrink.teacher=previous` that one teaches too, and sizes still count against `teacher`. Only
    the last step rounds: integers cannot be trained further. Where the stage is switched off, the
    result is `otherwise`.
    """
    config, student = flow.settings.stages[distillation.stage], teacher
    for shrink in shrink_steps(config.shrink):
        first = shrink.step == 1
        follows = shrink.teacher == "previous" and not first
        student = flow.run(
            distillation,
            name=f"{distillation.stage}_{shrink.step}",
            changes={"shrink": shrink, "quantizers": config.quantizers if shrink.last else None},
            otherwise=otherwise,
            data=data,
            model=None if first else student,
            teacher=student if follows else teacher,
            whole=teacher if follows else None,
        )
    return student
