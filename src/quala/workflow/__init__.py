"""Stage graph, fingerprints, resume, tracking: what turns a workflow script into tracked runs."""

from quala.workflow.context import Candidate, Progress, StageContext
from quala.workflow.flow import Artifact, Flow, Source
from quala.workflow.script import Workflow, workflow
from quala.workflow.stage import Stage, StageConfig

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
