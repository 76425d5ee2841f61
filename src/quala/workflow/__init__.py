"""Stage graph, fingerprints, resume, tracking: what turns a workflow script into tracked runs."""

from quala.stage import Candidate, Progress, Stage, StageConfig, StageContext
from quala.workflow.declare import Workflow, workflow
from quala.workflow.flow import Artifact, Flow, Source

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
