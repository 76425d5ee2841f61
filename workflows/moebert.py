"""MoEBERT (arXiv 2204.07675): feed-forwards cut into experts, chosen by the id of each token."""

from __future__ import annotations

from quala.stages.recipe import distill
from quala.workflow import Flow, workflow


@workflow("moebert", stages=("finetune", "distill", "measure", "report", "export"))
def moebert(flow: Flow) -> None:
    """Distill the fine-tuned model into itself with experts for feed-forwards.

    Neurons are ranked by their importance for the task; the first are in all experts, the others
    are dealt out. Each token takes one expert, by a fixed table of token ids. Training is on the
    labels, the teacher's hidden states and its answers in both directions. Rounding is no part of
    the paper's; `stage/distill=moebert_int8` has it.
    """
    data = flow.data()
    teacher = flow.run("finetune", data=data, model=flow.model("teacher"))
    student = flow.run(
        distill(
            "copy_layers", "cut_experts", "fake_quantize", losses=("hidden", "hard", "symmetric")
        ),
        data=data,
        teacher=teacher,
    )
    measured = flow.run("measure", data=data, baseline=teacher, model=student)
    flow.run("report", measure=measured)
    flow.run("export", data=data, model=student, measure=measured)


if __name__ == "__main__":
    moebert.main()
