"""Texts that leave the program: without secrets, and with control characters made visible.

What runs has the real values. What is printed goes through `shown`, what is stored or exported
through `recorded`. Secrets are

- the password or token in an address, `scheme://user:***@host`, and the value of its parameter, or
  of an option, whose name says so (`token`, `key`, `password`, ...);
- the value of an environment variable whose name says so, from 8 characters on;
- what the configuration takes from the environment: `${oc.env:NAME}` stands for the value. Texts
  of up to 3 characters, numbers, truth values and names that quala itself knows, such as `squad`,
  are no secrets. A file or folder is printed, so that it can be found, and not recorded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import logging

    from rich.console import Console
    from rich.text import Text

HIDDEN = "***"
SHORTEST, SHORTEST_VARIABLE = 4, 8
"""Characters of the shortest values that are looked for: shorter ones are in many texts."""
_WORD = r"(?:api_?key|key|token|pass|passwd|password|passphrase|pwd|secret|credentials?|auth)"
_SECRET_OPTION = re.compile(rf"(?i)(?:^|[\W_]){_WORD}$")
_SECRET_VARIABLE = re.compile(rf"(?i)(?:^|_){_WORD}(?:$|_)")
_OPEN = r"\$\{[^{}]*\}"
"""An interpolation, which stays: it says where the value is."""
_SECRET_ENTRY = re.compile(
    rf"(?i)([{{,]\s*(?:\w*_)?{_WORD}\s*:\s*)(?!{_OPEN})(?:'[^']*'|\"[^\"]*\"|[^,}}]+)"
)
"""In the value of an override, `{token:abc}`."""
_RULES = [
    re.compile(rf"(?i)(?P<before>{before})(?!{_OPEN}|\*\*\*){secret}")
    for before, secret in (  # with `\:` and `\=` as Hydra has them in a sweep
        # What looks like a port and a path is none: `http://host:5000/#/models/name@alias`.
        (r"\b[a-z][\w+.-]*\\?://[^\s/@:\"`]*:(?!\d+[/?#]\S*@)", r"(?:[^\s\"`]|\\\")+(?=@)"),
        (r"\bhttps?\\?://", r"[^\s/?#@:\"`]+(?=@)"),
        (  # that of MLflow's pages names a view
            r"[?&](?!viewStateShareKey=)[^\s=&]*(?:key|token|passw|pwd|secret|sig|credential|auth)[^\s=&]*=",
            r"[^\s&#'\"`]+",
        ),
        (
            rf"(?<![^\W_]){_WORD}\\?=",
            r"(?:\"[^\"]*\"|'[^']*'|[^\s,;&'\"`\]})]+)",
        ),
    )
]
_NUMBER = re.compile(r"(?i)[-+]?[\d_.,]+(?:e[-+]?\d+)?|true|false|null|none|nan|[-+]?inf")
_hidden: dict[str, tuple[str, bool]] = {}
"""What stands for a value, and whether the value is printed, by its spellings."""


def hide(value: str, instead: str = HIDDEN, *, printed: bool = False) -> None:
    """Replace a value in texts from now on; one that is `printed` only where it is recorded."""
    import json
    from urllib.parse import quote, unquote

    for one in {value, *map(str.strip, value.splitlines())}:
        if len(one) >= SHORTEST:
            raw = one.encode("utf-8", "surrogateescape")
            forms = {one, json.dumps(one)[1:-1], quote(raw), quote(raw, safe=""), unquote(one)}
            for form in forms:
                if len(form) >= SHORTEST and (instead != HIDDEN or form not in _hidden):
                    _hidden[form] = instead, printed


def hide_variable(name: str, value: str, public: Collection[str] = ()) -> None:
    """Hide what the configuration takes from the environment; `public` values are no secrets."""
    number = _NUMBER.fullmatch(value) and not _SECRET_VARIABLE.search(name)
    if not number and value not in public:
        hide(value, f"${{oc.env:{name}}}", printed=_is_place(value))


def hide_password(uri: str) -> None:
    """Hide the password of an address also where it stands alone, as in a driver's error.

    A shorter one than 8 characters, such as `mlflow`, is hidden in the address only.
    """
    user, colon, password = uri.partition("://")[2].rpartition("@")[0].partition(":")
    secret = password if colon else user * uri.startswith("http")
    if len(secret) >= SHORTEST_VARIABLE:
        hide(secret)


def _is_place(text: str) -> bool:
    """Return whether a text is a file or folder, or may become one in a folder that exists."""
    path = os.path.expanduser(text)
    above = re.match("/[^/\0]+/", path)
    return "\0" not in path and (os.path.exists(path) or bool(above and os.path.isdir(above[0])))


def redacted(text: str, *, printed: bool = True) -> str:
    """Return a text without secrets."""
    found = _named_secret() | {
        value: instead for value, (instead, place) in _hidden.items() if not (place and printed)
    }
    for value in sorted(found, key=len, reverse=True):
        if value in text:
            # A short plain word is no part of a longer one.
            edge = r"\b" if len(value) < SHORTEST_VARIABLE and value.isalpha() else ""
            instead = found[value].replace("\\", r"\\")
            text = re.sub(f"{edge}{re.escape(value)}{edge}", instead, text)
    for rule in _RULES:
        text = rule.sub(rf"\g<before>{HIDDEN}", text)
    return text


def _named_secret() -> dict[str, str]:
    """Return what stands for the values of environment variables that are named like a secret."""
    return {
        value: HIDDEN
        for name, value in os.environ.items()
        if len(value) >= SHORTEST_VARIABLE
        and _SECRET_VARIABLE.search(name)
        and not _NUMBER.fullmatch(value)
        and not _is_place(value)
    }


def recorded(value: Any, name: str = "", *, printed: bool = False) -> Any:
    """Return a value without secrets in its texts and those inside it, to be stored or exported.

    `name` is that of the option; a text is hidden where it says so. What is not only `printed`,
    as JSON, has no control characters either, which stores and pages may refuse.
    """
    if isinstance(value, str):
        if value and _SECRET_OPTION.search(name) and not re.fullmatch(_OPEN, value):
            return HIDDEN
        text = redacted(value, printed=printed)
        return text if printed else visible(text)
    if isinstance(value, Mapping):
        return {key: recorded(one, str(key), printed=printed) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_word(one, name, printed=printed) for one in value]
    return value


def _word(value: Any, name: str, *, printed: bool) -> Any:
    """Return an item of a list without secrets: an override is an option with its value."""
    option, equals, text = value.partition("=") if isinstance(value, str) else ("", "", "")
    if equals and text.startswith("{"):
        value = f"{option}={_SECRET_ENTRY.sub(lambda one: one[1] + HIDDEN, text)}"
    elif equals and _SECRET_OPTION.search(option):
        return f"{option}={recorded(text, option, printed=printed)}"
    return recorded(value, name, printed=printed)


_UNSEEN = re.compile(
    # control characters but tab and line feed, separators of lines, overrides of the direction of
    # writing, and halves of characters
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def visible(text: str) -> str:
    r"""Return a text with control characters as they are typed, such as `\x1b`."""
    return _UNSEEN.sub(lambda one: one[0].encode("unicode_escape").decode(), text)


def shown(text: object) -> str:
    """Return what may be printed of a text."""
    return visible(redacted(str(text)))


def markdown(text: str) -> str:
    """Return a text for a line or a cell of Markdown, in which it makes no table, link or HTML."""
    line = visible(" ".join(text.splitlines()))
    return re.sub(r"[|`]|\](?=\(|\[)", r"\\\g<0>", line.replace("<", "&lt;"))


def cell(text: object, style: str = "") -> Text:
    """Return a text for a console, or for a cell of its tables, in which nothing is markup."""
    from rich.text import Text

    return Text(shown(text), style)


def console(width: int | None = None, *, stderr: bool = False) -> Console:
    """Return a console that takes no text as markup."""
    from rich.console import Console

    return Console(width=width, stderr=stderr, markup=False, emoji=False)


def json_text(content: Any, indent: int | None = None) -> str:
    """Return JSON in ASCII, without secrets in its values."""
    import json

    return json.dumps(recorded(content, printed=True), indent=indent)


def guard_logs() -> None:
    """Let log lines, warnings and the last traceback of this process pass through `shown`."""
    import logging
    import sys
    import warnings
    from traceback import format_exception

    make = logging.getLogRecordFactory()
    if getattr(make, "guarded", False):
        return

    def guarded(*arguments: Any, **named: Any) -> logging.LogRecord:
        record = make(*arguments, **named)
        try:
            record.msg, record.args = shown(record.getMessage()), ()
        except (TypeError, ValueError, KeyError):
            return record  # a library's mistake, which `logging` reports
        if record.exc_info and record.exc_info[0]:
            record.exc_text = shown("".join(format_exception(*record.exc_info))).rstrip()
        return record

    guarded.guarded = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(guarded)
    line = warnings.formatwarning
    warnings.formatwarning = lambda *given, **named: shown(line(*given, **named))
    sys.excepthook = lambda *error: [sys.stderr.write(shown("".join(format_exception(*error))))]
