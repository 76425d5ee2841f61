"""HSK (arXiv 2106.05691): a stored tenth of the teacher's hidden states, then its answers."""

from __future__ import annotations

from quala.stages.recipe import distill, refine
from quala.workflow import Flow, workflow


@workflow("hsk", stages=("finetune", "distill", "refine", "measure", "report", "export"))
def hsk(flow: Flow) -> None:
    """Distill from what little of the teacher's hidden states is worth storing, then from answers.

    The student copies layers and keeps their most important heads and neurons. The teacher runs
    once before each training. The first follows the stored part of its hidden states: by default
    one layer, 10 tokens, a tenth of the width. The second follows its answers.
    """
    data = flow.data()
    teacher = flow.run("finetune", data=data, model=flow.model("teacher"))
    inner = flow.run(
        distill("copy_layers", "narrow", losses=("hidden", "soft")), data=data, teacher=teacher
    )
    student = flow.run(refine(losses=("soft", "hard")), data=data, model=inner, teacher=teacher)
    measured = flow.run("measure", data=data, baseline=teacher, model=student)
    flow.run("report", measure=measured)
    flow.run("export", data=data, model=student, measure=measured)


if __name__ == "__main__":
    hsk.main()
