"""TernaryBERT (arXiv 2009.12812): ternary weights under distillation."""

from __future__ import annotations

from quala.stages.recipe import distill
from quala.workflow import Flow, workflow


@workflow("ternarybert", stages=("finetune", "distill", "measure", "report", "export"))
def ternarybert(flow: Flow) -> None:
    """Distill the fine-tuned model into itself with ternary weights and 8-bit activations.

    The student copies all layers. Its weights are ternary by a threshold (`twn`) or by the loss
    (`lat`) from the first step on, trained without labels on the teacher's answers, hidden states
    and attention scores.
    """
    data = flow.data()
    teacher = flow.run("finetune", data=data, model=flow.model("teacher"))
    student = flow.run(
        distill("copy_layers", "fake_quantize", losses=("soft", "hidden", "attention")),
        data=data,
        teacher=teacher,
    )
    measured = flow.run("measure", data=data, baseline=teacher, model=student)
    flow.run("report", measure=measured)
    flow.run("export", data=data, model=student, measure=measured)


if __name__ == "__main__":
    ternarybert.main()
