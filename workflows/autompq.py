"""AutoMPQ (arXiv 2112.14938): bits for each weight by sensitivity, within a budget."""

from __future__ import annotations

from quala.stages.recipe import distill
from quala.workflow import Flow, workflow


@workflow("autompq", stages=("finetune", "bits", "distill", "measure", "report", "export"))
def autompq(flow: Flow) -> None:
    """Find the bits of each weight of the fine-tuned model, then distill it into them.

    Bits are shared out by how far the answers diverge when one weight is rounded; steps are
    learned as in `kdlsq`. Without `bits` all weights have `quantizers.weight_bits`, but for those
    that `quantizers.overrides` names.
    """
    data, stages = flow.data(), flow.settings.stages
    teacher = flow.run("finetune", data=data, model=flow.model("teacher"))
    grids = stages["bits"].quantizers or stages["distill"].quantizers
    bits = flow.run("bits", changes={"quantizers": grids}, data=data, model=teacher)
    student = flow.run(
        distill("copy_layers", "fake_quantize", losses=("soft", "hidden", "attention", "hard")),
        data=data,
        teacher=teacher,
        bits=None if bits.off else bits,
    )
    measured = flow.run("measure", data=data, baseline=teacher, model=student)
    flow.run("report", measure=measured)
    flow.run("export", data=data, model=student, measure=measured)


if __name__ == "__main__":
    autompq.main()
