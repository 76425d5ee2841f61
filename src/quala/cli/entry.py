"""Command-line entry point: `quala VERB`. Each verb's module is imported on use."""

from __future__ import annotations

import importlib
import io
import logging
import os
import signal
import sys
from collections.abc import Sequence

from quala import __version__
from quala.errors import QualaError, decoded, guarded, unknown
from quala.redact import guard_logs

VERBS = {
    "compress": ("compress:main", "make a fine-tuned model small, in the minutes that you give"),
    "run": ("run:run", "run a workflow: quala run WORKFLOW [overrides] [-m] [--json]"),
    "plan": ("run:plan", "show the stages of a workflow, cached or to run, and why"),
    "evaluate": ("evaluate:main", "score a predictions file with the official SQuAD metrics"),
    "cost": ("cost:main", "print MACs, parameters and bytes of an encoder and its lengths"),
    "teach": ("teach:main", "write a model's answers to a file that students learn from"),
    "export": ("export:main", "write a model as one folder: ONNX graph, tokenizer, front"),
    "push": ("push:main", "upload an export to a repository on the Hugging Face hub"),
    "answer": ("answer:main", "answer a question about a context within a budget"),
    "predict": ("predict:main", "predict labels, values, entities, embeddings; rank passages"),
    "serve": ("serve:main", "serve a model over HTTP, with a page to try it on"),
    "bench": ("bench:main", "time an export beside a baseline: medians and ratios"),
    "report": ("report:main", "print the table of a run or a sweep, or compare systems on a page"),
    "store": ("store:main", "list what is stored, check it, remove, export and import runs"),
    "ui": ("ui:main", "open the MLflow UI on the right store"),
    "completion": ("completion:main", "print what completes commands in bash, zsh or fish"),
}
"""Module of `quala.cli` and function by verb, with a summary."""

BROKEN_PIPE = 141
"""Exit code where nobody reads the output any more: 128 and the number of SIGPIPE."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says and return the exit code."""
    if arguments is None:
        _prepare_streams()
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return guarded(lambda: _delivered(words), as_json="--json" in words)
    except BrokenPipeError:  # of standard error, where the sentence was to go
        return BROKEN_PIPE
    finally:
        if arguments is None and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's end would print a traceback


def _prepare_streams() -> None:
    """Take a closed stream as an empty one, and print what an encoding lacks with its code."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # else the next file opened has its number
            held = os.open(os.devnull, os.O_RDWR)
            if held != number:
                os.dup2(held, number)
                os.close(held)
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    logging.raiseExceptions = False  # of a handler that cannot write: the result counts


def _delivered(words: Sequence[str]) -> int:
    """Return the exit code of the command, and of its output when that cannot be written."""
    code = 0
    try:
        code = _command([decoded(word) for word in words])
    except OSError:
        if (lost := _undelivered()) is None:
            raise
    except BaseException:
        _undelivered()
        raise
    else:
        lost = _undelivered()
    if lost is None or isinstance(lost, BrokenPipeError):
        return code if lost is None else BROKEN_PIPE
    raise QualaError(f"The output cannot be written: {lost.strerror}.") from lost


def _undelivered() -> OSError | None:
    """Write what is left of the output; return why that is not possible, and drop it."""
    try:
        sys.stdout.flush()
    except OSError as error:
        null = os.open(os.devnull, os.O_WRONLY)  # else Python fails on it once more at its end
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
        return error
    return None


def _command(words: Sequence[str]) -> int:
    try:
        return _dispatch(words)
    except SystemExit as left:
        if isinstance(left.__context__, BrokenPipeError):  # rich leaves in this way
            return BROKEN_PIPE
        if left.code:
            raise
        return 0  # after --help
    except UnicodeEncodeError as error:
        if error.encoding == "utf-8":
            raise
        raise QualaError(
            f"The name `{error.object}` has characters that this locale ({error.encoding}) does "
            "not have; the variable `PYTHONUTF8=1` allows all."
        ) from error


def _dispatch(words: Sequence[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(_help())
        return 0
    verb = words[0]
    if verb == "--version":
        sys.stdout.write(f"quala {__version__}\n")
        return 0
    if verb not in VERBS:
        raise unknown("verb", verb, VERBS)
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise QualaError("The current folder is gone: change to one that exists.") from error
    module, _, function = VERBS[verb][0].partition(":")
    command = getattr(importlib.import_module(f"quala.cli.{module}"), function)
    guard_logs()
    code: int = command(words[1:])
    return code


def _help() -> str:
    verbs = "\n".join(f"  {verb:<12}{summary}" for verb, (_, summary) in VERBS.items())
    return (
        "usage: quala <verb> ...\n\n"
        "Small, length-adaptive, integer transformer encoders for any latency budget.\n\n"
        f"verbs:\n{verbs}\n\n"
        "quala <verb> --help explains a verb; quala --version names the version.\n"
    )


if __name__ == "__main__":
    sys.exit(main())
