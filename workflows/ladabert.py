"""LadaBERT (arXiv 2004.04124): SVD, magnitude pruning and distillation, step by step."""

from __future__ import annotations

from quala.stages.distill_options import shrink_steps
from quala.workflow import Flow, workflow


@workflow("ladabert", stages=("finetune", "distill", "measure", "report", "export"))
def ladabert(flow: Flow) -> None:
    """Factorize and prune the fine-tuned model in steps, and heal each by distillation."""
    data = flow.data()
    teacher = flow.run("finetune", data=data, model=flow.model("teacher"))
    config, student = flow.settings.stages["distill"], None
    for shrink in shrink_steps(config.shrink):
        # Integers cannot be trained further, so only the last step may round.
        quantizers = config.quantizers if shrink.last else None
        student = flow.run(
            "distill",
            name=f"distill_{shrink.step}",
            changes={"shrink": shrink, "quantizers": quantizers},
            data=data,
            model=student,
            teacher=teacher,
        )
    measured = flow.run(
        "measure", changes={"name": "ladabert"}, data=data, baseline=teacher, model=student
    )
    flow.run("report", measure=measured)
    flow.run("export", data=data, model=student, measure=measured)


if __name__ == "__main__":
    ladabert.main()
