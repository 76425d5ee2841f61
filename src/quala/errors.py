"""Errors in what the user gave: how they are found, worded, and reported by a command."""

from __future__ import annotations

import difflib
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from quala.redact import json_text, shown

ENDINGS = {
    signal.SIGINT: "Interrupted",
    signal.SIGTERM: "Terminated",
    signal.SIGHUP: "The terminal was closed",
}
"""What is said after a signal; the exit code is 128 and its number, as shells have it."""
TRAIN = frozenset({
    "datasets", "hydra", "jinja2", "lightning_fabric", "markupsafe", "matplotlib", "mlflow",
    "omegaconf", "optuna", "pandas", "plotly", "pytorch_lightning", "requests", "safetensors",
    "scipy", "sqlalchemy", "torch", "torchmetrics", "transformers",
})  # fmt: skip
"""Packages of the extra `train`, as they are imported; serving needs none of them."""
LONGEST = 4000
"""Characters of a sentence: names in it may be of any length."""

RETRY_SECONDS = 0.05


class Terminated(BaseException):
    """SIGTERM or SIGHUP came: what runs is given up as after Ctrl-C."""


class QualaError(Exception):
    """An error in the user's input; its message is one sentence, the command exits with 2."""

    exit_code = 2

    def __init__(self, sentence: object = "") -> None:
        super().__init__(one_line(str(sentence)))


def one_line(text: str) -> str:
    """Return a text without line breaks, and with its control characters as escapes."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else " " if one.isspace() else ascii(one)[1:-1] for one in text
    )


_ESCAPED = re.compile("[\ud800-\udfff]")


def decoded(word: str) -> str:
    """Return a word of the command line as text; in an ASCII locale UTF-8 comes escaped.

    Raises QualaError for a word that is no text, whatever the command would do with it.
    """
    if "\0" in word:
        raise QualaError(f"The argument `{word:.40}` has a NUL character.")
    if not _ESCAPED.search(word):
        return word
    try:
        return os.fsencode(word).decode()
    except UnicodeError as error:
        raise QualaError(f"The argument `{word:.40}` is no UTF-8 text.") from error


def ended(sentence: str) -> str:
    """Return a sentence with a full stop, which those of libraries lack."""
    return sentence if sentence.endswith((".", "?", "!")) else f"{sentence}."


def quoted(value: object, most: int = 80) -> str:
    """Return a value as a sentence quotes it: in one line of `most` characters."""
    text = one_line(str(value).replace("\r", r"\r").replace("\n", r"\n"))
    return text if len(text) <= most else f"{text[:most]}..."


def unknown(what: str, got: object, allowed: Iterable[str]) -> QualaError:
    """Return the error for a name that does not exist, with the nearest name that does."""
    names, got = sorted(allowed), quoted(got)
    near = difflib.get_close_matches(got, names, n=1)
    hint = f" Did you mean `{near[0]}`?" if near else ""
    return QualaError(f"Unknown {what} `{got}`.{hint} Allowed: {', '.join(names) or 'none'}.")


def noted(error: BaseException, **facts: Any) -> None:
    """Keep facts with an error, which `--json` prints beside its sentence."""
    vars(error).setdefault(_FACTS, {}).update(facts)


_FACTS = "quala_facts"


def not_installed(package: str) -> str:
    """Return what is said where a package of the extra `train` is missing."""
    return f"This needs `{package}`, which is not installed: pip install 'quala[train]'."


def guarded(command: Callable[[], int], *, as_json: bool = False) -> int:
    """Return the exit code of `command`; an expected error is one sentence on standard error.

    Expected are errors in the input, a full or protected disk, a failure of the tracking store,
    Ctrl-C, SIGTERM and SIGHUP. With the variable `QUALA_DEBUG` all but the signals are raised.
    `as_json` writes any error as one line to standard output too, with its exit code and facts.
    """
    came: list[int] = []
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = "/"  # a user without a name: as Docker does, MLflow needs one
    try:
        with _interruptible(came):
            return command()
    except BaseException as error:
        sentence, code = _verdict(error, came)
        if as_json and code:
            told = ended(sentence) if sentence else f"{type(error).__name__}: {error}"
            if isinstance(error, SystemExit):
                told = str(error.__context__ or "The command line is not valid.")
            from quala.durable import chain

            facts = {key: value for one in chain(error) for key, value in _facts(one)}
            _say(sys.stdout, json_text({"error": told, "exit_code": code, **facts}))
        if sentence is None or ("QUALA_DEBUG" in os.environ and code < 128):
            raise
        _say(sys.stderr, f"error: {_bounded(sentence)}")
        return code


def _verdict(error: BaseException, came: Sequence[int]) -> tuple[str | None, int]:
    """Return what is to be said of an error, None for a traceback, and the exit code."""
    number = came[0] if came else None
    if isinstance(error, KeyboardInterrupt | Terminated):
        number = number or (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)
    if number:  # whatever a library made of the interruption
        ending = ENDINGS[signal.Signals(number)]
        return f"{ending}; the same command goes on from here.", 128 + number
    if isinstance(error, SystemExit):  # of argparse, which has said what is wrong
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        return None, code
    if isinstance(error, QualaError):
        return str(error), error.exit_code
    from quala.durable import chain, disk_trouble

    for one in chain(error):
        if isinstance(one, ModuleNotFoundError) and one.name in TRAIN:
            return not_installed(one.name), QualaError.exit_code
    if trouble := disk_trouble(error):
        return trouble, QualaError.exit_code
    if isinstance(error, _store_errors()):
        reason = str(error).partition("\n")[0]
        return f"The tracking store failed: {reason}", QualaError.exit_code
    return None, 1


def _facts(error: BaseException) -> Iterable[tuple[str, Any]]:
    facts: dict[str, Any] = vars(error).get(_FACTS, {})
    return facts.items()


@contextmanager
def _interruptible(came: list[int]) -> Iterator[None]:
    """Raise KeyboardInterrupt or Terminated at the first signal; `came` gets all of them.

    The second one is answered by a sentence, for the runs are being marked; the third ends the
    process. Signals that were ignored before, as after `nohup`, still are.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner, unraisable = os.getpid(), sys.unraisablehook

    def handle(number: int, _: object) -> None:
        if os.getpid() != owner:
            signal.signal(number, signal.SIG_DFL)  # a child process ends as it would have
            os.kill(os.getpid(), number)
            return
        came.append(number)
        if len(came) > 2:
            os._exit(128 + came[0])
        if len(came) == 2:
            _say(sys.stderr, "Cleaning up; a third signal ends this at once.")
            return
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated

    def again(lost: sys.UnraisableHookArgs) -> None:
        # Raised where Python drops errors, such as in a destructor: the signal comes once more.
        if came and isinstance(lost.exc_value, KeyboardInterrupt | Terminated):
            number = came.pop()
            threading.Timer(RETRY_SECONDS, os.kill, (owner, number)).start()
            return
        unraisable(lost)

    before = {number: signal.getsignal(number) for number in ENDINGS}
    mine = [number for number, old in before.items() if old is not signal.SIG_IGN]
    for number in mine:
        signal.signal(number, handle)
    sys.unraisablehook = again
    try:
        yield
    finally:
        for number in mine:
            # After a signal nothing is left to clean up: another one ends the process silently.
            signal.signal(number, signal.SIG_DFL if came else before[number])
        sys.unraisablehook = unraisable


def _store_errors() -> tuple[type[Exception], ...]:
    # What was never imported cannot have failed.
    known = (("mlflow.exceptions", "MlflowException"), ("sqlalchemy.exc", "SQLAlchemyError"))
    return tuple(getattr(sys.modules[one], name) for one, name in known if one in sys.modules)


def _say(stream: TextIO, text: str) -> None:
    with suppress(OSError):  # the terminal may be gone
        stream.write(f"{text}\n")
        stream.flush()


def _bounded(sentence: str) -> str:
    """Return one line, without the middle of a long one."""
    line = ended(one_line(shown(sentence)))
    if len(line) <= LONGEST:
        return line
    return f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"
