"""The one door: `quala <verb>`; each verb's code is imported only when it is asked for."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Callable, Sequence

from quala import __version__
from quala.errors import QualaError, unknown

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
SENTENCES = {
    errno.ENOSPC: "The disk is full",
    errno.EDQUOT: "The disk quota is used up",
    errno.EACCES: "No permission",
    errno.EPERM: "No permission",
    errno.EROFS: "The disk is read-only",
}
INTERRUPTED = 130


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


def guarded(command: Callable[[], int]) -> int:
    """Call `command`; turn a person's mistake or a full disk into one sentence and a code."""
    debug = "QUALA_DEBUG" in os.environ
    try:
        return command()
    except QualaError as error:
        if debug:
            raise
        return _complain(str(error), error.exit_code)
    except OSError as error:
        if debug or error.errno not in SENTENCES:
            raise
        place = f": {error.filename}" if error.filename else ""
        return _complain(f"{SENTENCES[error.errno]}{place}.", QualaError.exit_code)
    except _store_errors() as error:
        if debug:
            raise
        reason = str(error).partition("\n")[0]
        return _complain(f"The tracking store failed: {reason}", QualaError.exit_code)
    except KeyboardInterrupt:
        return _complain("Interrupted; the same command goes on from here.", INTERRUPTED)


def _dispatch(verb: str, words: Sequence[str]) -> int:
    if verb not in VERBS:
        raise unknown("verb", verb, VERBS)
    code: int = importlib.import_module(f"quala.cli.{verb}").main(list(words))
    return code


def _store_errors() -> tuple[type[Exception], ...]:
    # Where MLflow was never imported it cannot have failed.
    module = sys.modules.get("mlflow.exceptions")
    return (module.MlflowException,) if module else ()


def _complain(sentence: str, code: int) -> int:
    sys.stderr.write(f"error: {sentence}\n")
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
