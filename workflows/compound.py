"""A crossing of the systems: fewer layers, fewer bits and fewer tokens in one model."""

from __future__ import annotations

from quala.workflow import Flow, workflow

STAGES = (
    "finetune", "distill", "length_adapt", "quantize", "search", "measure", "report", "export"
)  # fmt: skip


@workflow("compound", stages=STAGES)
def compound(flow: Flow) -> None:
    """Reduce layers, adapt the float student to lengths, round it under lengths, search them."""
    data = flow.data()
    teacher = flow.run("finetune", data=data, model=flow.model("teacher"))
    student = flow.run("distill", data=data, teacher=teacher, otherwise=teacher)
    supernet = flow.run("length_adapt", data=data, model=student, teacher=teacher)
    integer = flow.run("quantize", data=data, model=supernet, teacher=supernet)
    found = flow.run("search", data=data, model=integer)
    measured = flow.run(
        "measure",
        changes={"name": "compound"},
        data=data,
        baseline=teacher,
        supernet=supernet,
        model=integer,
        search=found,
    )
    flow.run("report", search=found, measure=measured)
    flow.run("export", data=data, model=integer, measure=measured)


if __name__ == "__main__":
    compound.main()
