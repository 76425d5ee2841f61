"""Stage graph, fingerprints, resume, tracking: what turns a workflow script into tracked runs."""

from quala.stage import Candidate, Progress, Stage, StageConfig, StageContext
from quala.workflow.flow import Artifact, Flow, Source
from quala.workflow.script import Workflow, workflow

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
