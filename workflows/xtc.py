"""XTC (arXiv 2206.01859): layer reduction, then 1 or 2 bits in one long distillation."""

from __future__ import annotations

from quala.stages.recipe import distill
from quala.workflow import Flow, workflow


@workflow("xtc", stages=("finetune", "distill", "measure", "report", "export"))
def xtc(flow: Flow) -> None:
    """Keep some layers of the fine-tuned model and distill it into them at 1 or 2 bits.

    The student copies every second layer (`layers: 6`, `keep_map: xtc`) and is rounded at once to
    binary or ternary weights. There is no distillation in between: one training, longer than
    those of earlier methods, on the teacher's answers, hidden states and attention scores.
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
    xtc.main()
