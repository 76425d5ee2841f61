"""`quala run WORKFLOW [overrides] [-m] [--json]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

HELP = """usage: quala run WORKFLOW [overrides] [-m] [--json]

Run a workflow by name, or a script of yours (./my.py). What is finished is not computed again;
what was interrupted goes on.

  stage.NAME.OPTION=VALUE   change an option; any override of Hydra's grammar works
  experiment=NAME           take a preset of conf/experiment; WORKFLOW/demo where it has its own
  flow.only=STAGE           run just this stage
  flow.until=STAGE          run up to this stage
  flow.since=STAGE          run this stage and all that hangs on it anew
  flow.force=[STAGE,...]    run these stages although their output exists
  stage.NAME.given=PLACE    take an output from outside: a folder, run id or models:/name@alias
  stage.NAME.enabled=false  leave a stage out
  -m                        sweep: seed=0,1,2 stage.distill.layers=3,6
  --cfg job                 print the configuration and stop
  --json                    print one line of JSON at the end

"""


def main(arguments: Sequence[str]) -> int:
    """Run the workflow that the first word names."""
    from quala.workflow.script import find_workflow, workflow_scripts

    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(f"{HELP}workflows: {', '.join(workflow_scripts())}\n")
        return 0
    from quala.workflow.launch import run

    return run(find_workflow(arguments[0]), arguments[1:])
