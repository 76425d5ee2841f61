"""KDLSQ-BERT (arXiv 2101.05938): learned quantization steps under distillation and the labels."""

from __future__ import annotations

from quala.stages.recipe import distill
from quala.workflow import Flow, workflow


@workflow("kdlsq", stages=("finetune", "distill", "measure", "report", "export"))
def kdlsq(flow: Flow) -> None:
    """Distill the fine-tuned model into itself with learned steps for all it rounds.

    The student copies all layers. The quantization steps of weights, embeddings and activations
    start from a KL divergence and are learned (`lsq`), on the teacher's answers, hidden states and
    attention scores and on the labels.
    """
    data = flow.data()
    teacher = flow.run("finetune", data=data, model=flow.model("teacher"))
    student = flow.run(
        distill("copy_layers", "fake_quantize", losses=("soft", "hidden", "attention", "hard")),
        data=data,
        teacher=teacher,
    )
    measured = flow.run("measure", data=data, baseline=teacher, model=student)
    flow.run("report", measure=measured)
    flow.run("export", data=data, model=student, measure=measured)


if __name__ == "__main__":
    kdlsq.main()
