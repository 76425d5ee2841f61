"""`quala run` and `quala plan`: a workflow by its name or its script, with overrides."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from quala.errors import QualaError

if TYPE_CHECKING:
    from quala.workflow.script import WorkflowSpec

RUN = """usage: quala run WORKFLOW [overrides] [-m] [--json]

Run a workflow by its name, or your own script by its path (my/path/script.py). An installed
package adds names by the entry point group `quala.workflows`. Finished stages are not computed
again; an interrupted run continues. `quala run WORKFLOW --help` shows stages, experiments and
groups, `quala run WORKFLOW --help stage.NAME` the options of a stage.

  stage.NAME.OPTION=VALUE   change an option; any override of Hydra's grammar works
  experiment=NAME           use an experiment of conf/experiment; the default is WORKFLOW/demo,
                            or demo where the workflow has no experiments of its own
  flow.only=STAGE           run only this stage
  flow.until=STAGE          run up to this stage
  flow.since=STAGE          run this stage and all that depend on it again
  flow.force=[STAGE,...]    run these stages although their output exists
  stage.NAME.given=PLACE    use this output: a folder, a run id or models:/NAME@ALIAS
  stage.NAME.enabled=false  skip a stage
  -m                        sweep: seed=0,1,2 stage.distill.layers=3,6
  --config-dir DIR          use groups and experiments of your own
  --cfg job                 print the configuration, run nothing
  --json                    print one line of JSON at the end

"""
PLAN = """usage: quala plan WORKFLOW [overrides] [--config-dir DIR] [--json]

Show the stages of a workflow in order, each with its status (cached, to run, stale, damaged,
given) and the reason. Takes the overrides of `quala run` and runs nothing.

"""


def run(arguments: Sequence[str]) -> int:
    """Run the workflow that the first word names."""
    workflow = _named(arguments, "run", RUN)
    if workflow is None:
        return 0
    from quala.workflow import launch

    return launch.run(workflow, arguments[1:])


def plan(arguments: Sequence[str]) -> int:
    """Plan the workflow that the first word names."""
    workflow = _named(arguments, "plan", PLAN)
    if workflow is None:
        return 0
    from quala.workflow import launch

    return launch.plan(workflow, arguments[1:])


def _named(arguments: Sequence[str], verb: str, usage: str) -> WorkflowSpec | None:
    """Return the workflow, or None after the help, where that is asked for or none is named."""
    from quala.workflow.script import find_workflow, workflow_names

    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(f"{usage}workflows: {', '.join(workflow_names())}\n")
        return None
    if arguments[0].startswith("-"):
        raise QualaError(
            f"The workflow comes first, `quala {verb} WORKFLOW {arguments[0]}`; workflows: "
            f"{', '.join(workflow_names())}."
        )
    workflow = find_workflow(arguments[0])
    from quala.workflow.options import HELP, explained

    if set(HELP) & set(arguments):  # needs no Hydra
        sys.stdout.write(explained(workflow, arguments[1:]))
        return None
    return workflow
