"""Dynamic-TinyBERT (arXiv 2111.09645): a distilled student, lengths by Bayesian optimization."""

from __future__ import annotations

from quala.stages.recipe import distill, refine
from quala.workflow import Flow, workflow

STAGES = (
    "finetune", "distill", "refine", "length_adapt", "quantize", "search", "measure",
    "report", "export"
)  # fmt: skip


@workflow("dynamic_tinybert", stages=STAGES)
def dynamic_tinybert(flow: Flow) -> None:
    """Distill as TinyBERT does, then search lengths, with or without LengthDrop in between.

    The student copies layers of the teacher, or starts from `model.student` where that is given.
    It follows the teacher's hidden states and attention scores first, its answers in a second
    training.
    """
    data = flow.data()
    teacher = flow.run("finetune", data=data, model=flow.model("teacher"))
    general = flow.model("student") if flow.settings.model.get("student") else None
    inner = flow.run(
        distill("copy_layers", losses=("hidden", "attention")),
        data=data,
        model=general,
        teacher=teacher,
    )
    student = flow.run(refine(losses=("soft",)), data=data, model=inner, teacher=teacher)
    supernet = flow.run(
        "length_adapt", data=data, model=student, teacher=teacher, otherwise=student
    )
    served = flow.run("quantize", data=data, model=supernet, teacher=supernet, otherwise=supernet)
    found = flow.run("search", data=data, model=served)
    measured = flow.run(
        "measure",
        data=data,
        baseline=teacher,
        supernet=None if served is supernet else supernet,
        model=served,
        search=found,
    )
    flow.run("report", search=found, measure=measured)
    flow.run("export", data=data, model=served, measure=measured)


if __name__ == "__main__":
    dynamic_tinybert.main()
