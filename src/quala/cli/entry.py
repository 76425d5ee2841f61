"""Command-line entry point: `quala VERB`. Each verb's module is imported on use."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from quala import __version__
from quala.errors import guarded, unknown
from quala.redact import guard_logs

VERBS = {
    "run": ("run:run", "run a workflow: quala run WORKFLOW [overrides] [-m] [--json]"),
    "plan": ("run:plan", "show the stages of a workflow, cached or to run, and why"),
    "evaluate": ("evaluate:main", "score a predictions file with the official SQuAD metrics"),
    "cost": ("cost:main", "print MACs, parameters and bytes of an encoder and its lengths"),
    "export": ("export:main", "write a model as one folder: ONNX graph, tokenizer, front"),
    "answer": ("answer:main", "answer a question about a context within a budget"),
    "serve": ("serve:main", "answer questions over HTTP, with a page to try the model on"),
    "bench": ("bench:main", "time an export beside a baseline: medians and ratios"),
    "report": ("report:main", "print the table of a run or a sweep, or compare systems on a page"),
    "ui": ("ui:main", "open the MLflow UI on the right store"),
}
"""Module of `quala.cli` and function by verb, with a summary."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says and return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(_help())
        return 0
    if words[0] == "--version":
        sys.stdout.write(f"quala {__version__}\n")
        return 0
    return guarded(lambda: _dispatch(words[0], words[1:]))


def _dispatch(verb: str, words: list[str]) -> int:
    if verb not in VERBS:
        raise unknown("verb", verb, VERBS)
    module, _, function = VERBS[verb][0].partition(":")
    command = getattr(importlib.import_module(f"quala.cli.{module}"), function)
    guard_logs()
    code: int = command(words)
    return code


def _help() -> str:
    verbs = "\n".join(f"  {verb:<10}{summary}" for verb, (_, summary) in VERBS.items())
    return (
        "usage: quala <verb> ...\n\n"
        "Small, length-adaptive, integer transformer encoders for any latency budget.\n\n"
        f"verbs:\n{verbs}\n\n"
        "quala <verb> --help explains a verb; quala --version names the version.\n"
    )


if __name__ == "__main__":
    sys.exit(main())
