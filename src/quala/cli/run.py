"""`quala run WORKFLOW [overrides] [-m] [--json]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

HELP = """usage: quala run WORKFLOW [overrides] [-m] [--json]

Run a workflow by its name, or your own script by its path (my/path/script.py). An installed
package adds names by the entry point group `quala.workflows`. Finished stages are not computed
again; an interrupted run continues. `quala run WORKFLOW --help` shows stages and experiments.

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
  --cfg job                 print the configuration, run nothing
  --json                    print one line of JSON at the end

"""


def main(arguments: Sequence[str]) -> int:
    """Run the workflow that the first word names."""
    from quala.workflow.script import find_workflow, workflow_names

    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(f"{HELP}workflows: {', '.join(workflow_names())}\n")
        return 0
    from quala.workflow.launch import run

    return run(find_workflow(arguments[0]), arguments[1:])
