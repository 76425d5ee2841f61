"""`quala plan WORKFLOW [overrides] [--json]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

HELP = """usage: quala plan WORKFLOW [overrides] [--json]

Show the stages of a workflow in order, each with its status (cached, to run, stale, damaged,
given) and the reason. Takes the overrides of `quala run` and runs nothing.

"""


def main(arguments: Sequence[str]) -> int:
    """Plan the workflow that the first word names."""
    from quala.workflow.script import find_workflow, workflow_names

    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(f"{HELP}workflows: {', '.join(workflow_names())}\n")
        return 0
    from quala.workflow.launch import plan

    return plan(find_workflow(arguments[0]), arguments[1:])
