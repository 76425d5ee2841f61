"""The stages of quala's workflows: what each takes, what it makes, where its code is.

`STAGES` has each `Stage` by name. Its options are a dataclass of `quala.stages.options` or
`quala.stages.distill_options`; its code is imported when it runs.
"""

from quala.stage import Stage
from quala.stages.distill_options import BitsConfig, DistillConfig
from quala.stages.options import (
    ExportConfig,
    FinetuneConfig,
    LengthAdaptConfig,
    MeasureConfig,
    QuantizeStageConfig,
    ReportConfig,
    SearchConfig,
)

__all__ = ["STAGES"]

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            name="finetune",
            version=1,
            config=FinetuneConfig,
            run="quala.stages.finetune:run",
            check="quala.checkpoint:check_given",
            fits="quala.stages.planned:model_facts",
            summary="train a checkpoint on the task: the teacher",
        ),
        Stage(
            name="bits",
            version=1,
            config=BitsConfig,
            run="quala.stages.bits:run",
            summary="find how many bits each weight gets within a budget",
            about=("model",),
            fits="quala.search.bits:read_bits",
        ),
        Stage(
            name="distill",
            version=1,
            config=DistillConfig,
            run="quala.stages.distill:run",
            check="quala.checkpoint:check_given",
            fits="quala.stages.planned:model_facts",
            summary="train the student on the teacher's answers and inner states",
        ),
        Stage(
            name="refine",
            version=1,
            config=DistillConfig,
            run="quala.stages.distill:run",
            check="quala.checkpoint:check_given",
            fits="quala.stages.planned:model_facts",
            summary="distill once more, from where `distill` left the student",
        ),
        Stage(
            name="length_adapt",
            version=1,
            config=LengthAdaptConfig,
            run="quala.stages.length_adapt:run",
            check="quala.checkpoint:check_given",
            fits="quala.stages.planned:model_facts",
            summary="train the student to work at any length configuration",
        ),
        Stage(
            name="quantize",
            version=1,
            config=QuantizeStageConfig,
            run="quala.stages.quantize:run",
            check="quala.checkpoint:check_given",
            fits="quala.stages.planned:model_facts",
            summary="make weights, embeddings and activations int8",
        ),
        Stage(
            name="search",
            version=2,
            config=SearchConfig,
            run="quala.stages.search:run",
            summary="find the lengths that give the most accuracy for each cost",
            about=("model",),
            fits="quala.search.result:check_given",
        ),
        Stage(
            name="measure",
            version=1,
            config=MeasureConfig,
            run="quala.stages.measure:run",
            summary="score the test set and time every row side by side",
            about=("model", "search"),
            exact=True,
        ),
        Stage(
            name="export",
            version=1,
            config=ExportConfig,
            run="quala.stages.export:run",
            summary="write the model as one folder that answers within a budget",
        ),
        Stage(
            name="report",
            version=1,
            config=ReportConfig,
            run="quala.stages.report:run",
            summary="write the table, the figure and the page",
            headline=(
                "hypervolume",
                "macs_saved",
                *(
                    f"{figure}_{point}"
                    for figure in ("f1", "accuracy", "gmacs", "bytes", "latency_ms", "speedup")
                    for point in ("full", "chosen")
                ),
            ),
        ),
    )
}
