"""Errors in what the user gave: how they are found, worded, and reported by a command."""

from __future__ import annotations

import difflib
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from quala.redact import shown

SENTENCES = {
    errno.ENOSPC: "The disk is full",
    errno.EDQUOT: "The disk quota is used up",
    errno.EACCES: "No permission",
    errno.EPERM: "No permission",
    errno.EROFS: "The disk is read-only",
}
INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 and the number of SIGINT, as shells have it."""

TERMINATED = 143
"""Exit code after SIGTERM, likewise."""


class Terminated(BaseException):
    """SIGTERM came: what runs is given up as after Ctrl-C."""


class QualaError(Exception):
    """An error in the user's input; its message is one sentence, the command exits with 2."""

    exit_code = 2


def unknown(what: str, got: object, allowed: Iterable[str]) -> QualaError:
    """Return the error for a name that does not exist, with the nearest name that does."""
    names = sorted(allowed)
    near = difflib.get_close_matches(str(got), names, n=1)
    hint = f" Did you mean `{near[0]}`?" if near else ""
    return QualaError(f"Unknown {what} `{got}`.{hint} Allowed: {', '.join(names) or 'none'}.")


def guarded(command: Callable[[], int]) -> int:
    """Return the exit code of `command`; an expected error is one sentence on standard error.

    Expected are errors in the input, a full or protected disk, a failure of the tracking store,
    Ctrl-C and SIGTERM. With the variable `QUALA_DEBUG` all but the last two are raised.
    """
    debug = "QUALA_DEBUG" in os.environ
    try:
        with _terminable():
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
    except Terminated:
        return _complain("Terminated; the same command goes on from here.", TERMINATED)


@contextmanager
def _terminable() -> Iterator[None]:
    """Raise Terminated where SIGTERM comes to this process while the block lasts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def terminate(number: int, _: object) -> None:
        if os.getpid() == owner:
            raise Terminated
        signal.signal(number, signal.SIG_DFL)  # a child process ends as it would have
        os.kill(os.getpid(), number)

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _store_errors() -> tuple[type[Exception], ...]:
    # What was never imported cannot have failed.
    known = (("mlflow.exceptions", "MlflowException"), ("sqlalchemy.exc", "SQLAlchemyError"))
    return tuple(getattr(sys.modules[one], name) for one, name in known if one in sys.modules)


def _complain(sentence: str, code: int) -> int:
    line = shown(sentence).replace("\n", r"\n")
    sys.stderr.write(f"error: {line}\n")
    return code
