"""I-BERT (arXiv 2101.01321): 8-bit layers whose GELU, softmax and LayerNorm are integer too."""

from __future__ import annotations

from quala.workflow import Flow, workflow


@workflow("ibert", stages=("finetune", "quantize", "measure", "report", "export"))
def ibert(flow: Flow) -> None:
    """Round the fine-tuned model with integer kernels, and train it on at low rates.

    GELU and the exponentials of softmax are parabolas of fixed-point numbers, LayerNorm has an
    integer square root. `stage.quantize.quantizers.kernels` chooses among them,
    `stage.quantize.method=ptq` only calibrates.
    """
    data, model = flow.data(), flow.model("teacher")
    teacher = flow.run("finetune", data=data, model=model, otherwise=model)
    rounded = flow.run("quantize", data=data, model=teacher, teacher=teacher)
    measured = flow.run("measure", data=data, baseline=teacher, model=rounded)
    flow.run("report", measure=measured)
    flow.run("export", data=data, model=rounded, measure=measured)


if __name__ == "__main__":
    ibert.main()
