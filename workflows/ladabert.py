"""LadaBERT (arXiv 2004.04124): SVD, magnitude pruning and distillation, step by step."""

from __future__ import annotations

from quala.stages.recipe import distill
from quala.workflow import Flow, workflow
from quala.workflow.shrink import shrink_path


@workflow("ladabert", stages=("finetune", "distill", "measure", "report", "export"))
def ladabert(flow: Flow) -> None:
    """Factorize and prune the fine-tuned model in steps, and heal each by distillation.

    Each step takes ratio^(1/steps) of the size and is followed by a training of its own on the
    teacher's answers, hidden states and attention scores and on the labels. The last step may
    round too: integers cannot be trained further.
    """
    data = flow.data()
    teacher = flow.run("finetune", data=data, model=flow.model("teacher"))
    student = shrink_path(
        flow,
        distill(
            "copy_layers", "shrink", "fake_quantize",
            losses=("soft", "hidden", "attention", "hard"),
        ),
        data=data,
        teacher=teacher,
    )  # fmt: skip
    measured = flow.run("measure", data=data, baseline=teacher, model=student)
    flow.run("report", measure=measured)
    flow.run("export", data=data, model=student, measure=measured)


if __name__ == "__main__":
    ladabert.main()
