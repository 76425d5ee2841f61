"""XTC (arXiv 2206.01859): layer reduction in float, then 1 or 2 bits, each by one distillation."""

from __future__ import annotations

from quala.stages.recipe import distill, refine
from quala.workflow import Flow, workflow

LOSSES = ("soft", "hidden", "attention")


@workflow("xtc", stages=("finetune", "distill", "refine", "measure", "report", "export"))
def xtc(flow: Flow) -> None:
    """Distill some layers of the fine-tuned model in float, then round and distill them again.

    The student copies every second layer (`layers: 6`) and learns first, as in the released code;
    `refine` then makes its weights binary or ternary. Both trainings follow the teacher's answers,
    hidden states and attention scores. Without `refine`, one training does all.
    """
    data = flow.data()
    teacher = flow.run("finetune", data=data, model=flow.model("teacher"))
    two = flow.settings.stages["refine"].enabled
    steps = ("copy_layers",) if two else ("copy_layers", "fake_quantize")
    reduced = flow.run(distill(*steps, losses=LOSSES), data=data, teacher=teacher)
    student = flow.run(
        refine("fake_quantize", losses=LOSSES),
        data=data,
        model=reduced,
        teacher=teacher,
        otherwise=reduced,
    )
    measured = flow.run("measure", data=data, baseline=teacher, model=student)
    flow.run("report", measure=measured)
    flow.run("export", data=data, model=student, measure=measured)


if __name__ == "__main__":
    xtc.main()
