"""A crossing of the systems: fewer layers, fewer bits and fewer tokens in one model."""

from __future__ import annotations

from quala.workflow import Flow, workflow
from quala.workflow.script import find_workflow

STAGES = (
    "finetune", "distill", "length_adapt", "quantize", "search", "measure", "report", "export"
)  # fmt: skip


@workflow("compound", stages=STAGES)
def compound(flow: Flow) -> None:
    """Reduce layers, adapt the float student to lengths, round it under lengths, search them.

    These are the stages of `quala_minilm`. The options cross the methods: `distill` copies layers
    as XTC does, and `quantize` trains at few bits, as KDLSQ-BERT does, under sampled lengths.
    """
    find_workflow("quala_minilm")(flow)


if __name__ == "__main__":
    compound.main()
