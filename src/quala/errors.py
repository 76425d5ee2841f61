"""The one exception that stands for a mistake of the user, and its sentence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class QualaError(Exception):
    """A mistake that its user can mend; its message is one sentence, the command exits with 2."""

    exit_code = 2


def unknown(what: str, got: object, allowed: Iterable[str]) -> QualaError:
    """Return the error for a name that does not exist, with the nearest name that does."""
    names = sorted(allowed)
    near = difflib.get_close_matches(str(got), names, n=1)
    hint = f" Did you mean `{near[0]}`?" if near else ""
    return QualaError(f"Unknown {what} `{got}`.{hint} Allowed: {', '.join(names) or 'none'}.")
