"""KDLSQ-BERT (arXiv 2101.05938): learned steps under distillation and the labels."""

from __future__ import annotations

from quala.workflow import Flow, workflow


@workflow("kdlsq", stages=("finetune", "distill", "measure", "report", "export"))
def kdlsq(flow: Flow) -> None:
    """Distill the fine-tuned model into itself with learned steps for all it rounds."""
    data = flow.data()
    teacher = flow.run("finetune", data=data, model=flow.model("teacher"))
    student = flow.run("distill", data=data, teacher=teacher)
    measured = flow.run(
        "measure", changes={"name": "kdlsq"}, data=data, baseline=teacher, model=student
    )
    flow.run("report", measure=measured)
    flow.run("export", data=data, model=student, measure=measured)


if __name__ == "__main__":
    kdlsq.main()
