"""BinaryBERT (arXiv 2012.15701): a half-width ternary model, split into two binary halves."""

from __future__ import annotations

from quala.stages.recipe import distill, refine
from quala.workflow import Flow, workflow

LOSSES = ("hidden", "attention", "soft")


@workflow("binarybert", stages=("finetune", "distill", "refine", "measure", "report", "export"))
def binarybert(flow: Flow) -> None:
    """Distill half of the fine-tuned model at 2 bits, split it in two, distill it at 1 bit.

    The ternary student keeps the most important half of the heads and neurons. Splitting each of
    its layers into two binary ones leaves the function as it is. Both trainings follow hidden
    states and attention scores first (`inner_first`), the teacher's answers afterwards.
    """
    data = flow.data()
    teacher = flow.run("finetune", data=data, model=flow.model("teacher"))
    ternary = flow.run(
        distill("copy_layers", "narrow", "fake_quantize", losses=LOSSES),
        data=data,
        teacher=teacher,
    )
    binary = flow.run(refine("split", losses=LOSSES), data=data, model=ternary, teacher=teacher)
    measured = flow.run("measure", data=data, baseline=teacher, model=binary)
    flow.run("report", measure=measured)
    flow.run("export", data=data, model=binary, measure=measured)


if __name__ == "__main__":
    binarybert.main()
