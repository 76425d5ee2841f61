"""BinaryBERT (arXiv 2012.15701): a half-width ternary model, split into two binary halves."""

from __future__ import annotations

from quala.workflow import Flow, workflow


@workflow("binarybert", stages=("finetune", "distill", "refine", "measure", "report", "export"))
def binarybert(flow: Flow) -> None:
    """Distill half of the fine-tuned model at 2 bits, split it in two, distill it at 1 bit."""
    data = flow.data()
    teacher = flow.run("finetune", data=data, model=flow.model("teacher"))
    ternary = flow.run("distill", data=data, teacher=teacher)
    binary = flow.run("refine", data=data, model=ternary, teacher=teacher)
    measured = flow.run(
        "measure", changes={"name": "binarybert"}, data=data, baseline=teacher, model=binary
    )
    flow.run("report", measure=measured)
    flow.run("export", data=data, model=binary, measure=measured)


if __name__ == "__main__":
    binarybert.main()
