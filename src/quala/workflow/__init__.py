"""Workflows: scripts that become tracked, resumable runs of stages.

A script is a function of a `Flow`, marked by `workflow`; the flow names inputs and runs stages. A
`Stage` names its options, a `StageConfig`, and a function that gets a `StageContext`: its folder,
log and progress.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quala._lazy import lazy

if TYPE_CHECKING:
    from quala.stage import Candidate, Progress, Stage, StageConfig, StageContext
    from quala.workflow.declare import Workflow, workflow
    from quala.workflow.flow import Artifact, Flow
    from quala.workflow.sources import Source

__all__ = [
    "Artifact",
    "Candidate",
    "Flow",
    "Progress",
    "Source",
    "Stage",
    "StageConfig",
    "StageContext",
    "Workflow",
    "workflow",
]

__getattr__ = lazy(
    __name__,
    {
        "quala.stage": ["Candidate", "Progress", "Stage", "StageConfig", "StageContext"],
        "quala.workflow.declare": ["Workflow", "workflow"],
        "quala.workflow.flow": ["Artifact", "Flow"],
        "quala.workflow.sources": ["Source"],
    },
)
