"""QuaLA-MiniLM (arXiv 2210.17114): distill, adapt to lengths, quantize, search, measure."""

from __future__ import annotations

from quala.errors import QualaError
from quala.workflow import Flow, Source, workflow

STAGES = (
    "finetune", "distill", "length_adapt", "quantize", "search", "measure", "report", "export"
)  # fmt: skip


@workflow("quala_minilm", stages=STAGES)
def quala_minilm(flow: Flow) -> None:
    """MiniLM student, length-adaptive supernet, int8, searched lengths, measured front.

    The options of `distill` choose the student and its losses: by default half of the teacher's
    layers, on its answers, the labels and MiniLMv2's relations. It starts from `model.student`
    where that is given, whose tokens need not be the teacher's. Without `finetune` the teacher is
    the model as it is. Without `length_adapt` the student itself is rounded, without `quantize`
    the front is that of a float model, without `search` only full lengths are measured.
    """
    data, model = flow.data(), flow.model("teacher")
    teacher = flow.run("finetune", data=data, model=model, otherwise=model)
    student = flow.run(
        "distill", data=data, model=_own_student(flow), teacher=teacher, otherwise=teacher
    )
    supernet = flow.run(
        "length_adapt", data=data, model=student, teacher=teacher, otherwise=student
    )
    served = flow.run("quantize", data=data, model=supernet, teacher=supernet, otherwise=supernet)
    search = flow.run("search", data=data, model=served)
    found = None if search.off else search
    measured = flow.run(
        "measure",
        data=data,
        baseline=teacher,
        supernet=None if supernet in (student, served) else supernet,
        model=served,
        search=found,
    )
    flow.run("report", search=found, measure=measured)
    flow.run("export", data=data, model=served, measure=measured)


def _own_student(flow: Flow) -> Source | None:
    """Return the start model of a student that copies no layers, None if there is none."""
    if not flow.settings.model.get("student"):
        return None
    if not flow.settings.stages["distill"].enabled:
        raise QualaError("`model.student` is trained by `distill`: `stage.distill.enabled=true`.")
    return flow.model("student")


if __name__ == "__main__":
    quala_minilm.main()
