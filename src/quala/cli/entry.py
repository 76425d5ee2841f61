"""Command-line entry point: `quala VERB`. Each verb's module is imported on use."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from quala import __version__
from quala.errors import guarded, unknown

VERBS = {
    "run": "run a workflow: quala run WORKFLOW [overrides] [-m] [--json]",
    "plan": "show the stages of a workflow, cached or to run, and why",
    "evaluate": "score a predictions file with the official SQuAD metrics",
    "cost": "print MACs, parameters and bytes of an encoder and its lengths",
    "export": "write a model as one folder: ONNX graph, tokenizer, front",
    "answer": "answer a question about a context within a budget",
    "serve": "answer questions over HTTP, with a page to try the model on",
    "bench": "time an export beside a baseline: medians and ratios",
    "report": "print the table of a run or a sweep, or compare systems on a page",
    "ui": "open the MLflow UI on the right store",
}


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


def _dispatch(verb: str, words: Sequence[str]) -> int:
    if verb not in VERBS:
        raise unknown("verb", verb, VERBS)
    code: int = importlib.import_module(f"quala.cli.{verb}").main(list(words))
    return code


def _help() -> str:
    verbs = "\n".join(f"  {verb:<10}{summary}" for verb, summary in VERBS.items())
    return (
        "usage: quala <verb> ...\n\n"
        "Small, length-adaptive, integer transformer encoders for any latency budget.\n\n"
        f"verbs:\n{verbs}\n\n"
        "quala <verb> --help explains a verb; quala --version names the version.\n"
    )


if __name__ == "__main__":
    sys.exit(main())
