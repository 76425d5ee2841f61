"""DynaBERT (arXiv 2004.04037): one training for all widths and depths, sorted by importance."""

from __future__ import annotations

from quala.workflow import Flow, workflow

STAGES = (
    "finetune", "length_adapt", "quantize", "search", "measure", "report", "export"
)  # fmt: skip


@workflow("dynabert", stages=STAGES)
def dynabert(flow: Flow) -> None:
    """Train sub-networks of several widths, then of several widths and depths, on the teacher.

    Heads and neurons are sorted by importance once. The widths learn from the fine-tuned model,
    all of them in each step; the widths at all depths learn from the model of that training. The
    search then scores the sub-networks, and with `bound` above 0 lengths as well.
    """
    data = flow.data()
    teacher = flow.run("finetune", data=data, model=flow.model("teacher"))
    widths = flow.run(
        "length_adapt",
        name="length_adapt_widths",
        changes={"depths": [1.0], "hidden": 0.1 * flow.settings.stages["length_adapt"].hidden},
        data=data,
        model=teacher,
        teacher=teacher,
    )
    supernet = flow.run("length_adapt", data=data, model=widths, teacher=widths)
    served = flow.run("quantize", data=data, model=supernet, teacher=supernet, otherwise=supernet)
    found = flow.run("search", data=data, model=served)
    measured = flow.run(
        "measure",
        data=data,
        baseline=teacher,
        supernet=None if served is supernet else supernet,
        model=served,
        search=found,
    )
    flow.run("report", search=found, measure=measured)
    flow.run("export", data=data, model=served, measure=measured)


if __name__ == "__main__":
    dynabert.main()
