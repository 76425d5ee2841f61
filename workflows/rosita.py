"""ROSITA (arXiv 2103.11367): narrower, shallower, a table of low rank, in steps that teach."""

from __future__ import annotations

from quala.stages.recipe import distill
from quala.workflow import Flow, workflow
from quala.workflow.shrink import shrink_path


@workflow("rosita", stages=("finetune", "distill", "measure", "report", "export"))
def rosita(flow: Flow) -> None:
    """Remove heads, neurons, layers and embedding rank in steps, and heal each by distillation.

    Each step removes the least important heads and neurons of every layer, layers from the top,
    and columns of the word embeddings' table, and is followed by a training of its own on answers
    and hidden states. With `shrink.teacher: previous` the student of a step teaches the next.
    """
    data = flow.data()
    teacher = flow.run("finetune", data=data, model=flow.model("teacher"))
    student = shrink_path(
        flow,
        distill("copy_layers", "shrink", "fake_quantize", losses=("soft", "hidden", "hard")),
        data=data,
        teacher=teacher,
    )
    measured = flow.run("measure", data=data, baseline=teacher, model=student)
    flow.run("report", measure=measured)
    flow.run("export", data=data, model=student, measure=measured)


if __name__ == "__main__":
    rosita.main()
