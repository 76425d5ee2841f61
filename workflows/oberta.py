"""oBERTa (arXiv 2303.17612): gradual global pruning of single weights, then 8 bits."""

from __future__ import annotations

from quala.stages.recipe import distill
from quala.workflow import Flow, workflow
from quala.workflow.shrink import shrink_path

STAGES = ("finetune", "distill", "quantize", "measure", "report", "export")


@workflow("oberta", stages=STAGES)
def oberta(flow: Flow) -> None:
    """Set more and more weights of the encoder to zero, heal each step, and round what is left.

    A step ranks all weights of the encoder together, by magnitude or by the diagonal of the
    Fisher information, and is followed by a training on the teacher's answers that keeps the
    zeros. The word embeddings are frozen throughout. Rounding keeps the zeros too. Without
    `distill` the zeros are those that `model.teacher` came with, and `finetune.keep_zeros` keeps
    them: sparse transfer.
    """
    data = flow.data()
    teacher = flow.run("finetune", data=data, model=flow.model("teacher"))
    student = shrink_path(
        flow,
        distill("copy_layers", "shrink", losses=("soft", "hidden", "hard")),
        data=data,
        teacher=teacher,
        otherwise=teacher,
    )
    served = flow.run("quantize", data=data, model=student, teacher=student, otherwise=student)
    measured = flow.run("measure", data=data, baseline=teacher, model=served)
    flow.run("report", measure=measured)
    flow.run("export", data=data, model=served, measure=measured)


if __name__ == "__main__":
    oberta.main()
