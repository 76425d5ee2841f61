"""The demo page: one file that loads nothing else, under a policy that lets it load nothing."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Page:
    """The page and the headers that it is served with."""

    html: str
    headers: dict[str, str]


def load_page() -> Page:
    """Read the page; only its own script and style may run."""
    html = (files("quala.serve") / "page.html").read_text(encoding="utf-8")
    policy = (
        "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; "
        f"form-action 'none'; frame-ancestors 'none'; script-src {_hashes(html, 'script')}; "
        f"style-src {_hashes(html, 'style')}"
    )
    headers = {
        "Content-Security-Policy": policy,
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",
    }
    return Page(html, headers)


def _hashes(html: str, tag: str) -> str:
    """Return the policy's names for the contents of the page's `tag` elements."""
    contents = re.findall(rf"<{tag}>(.*?)</{tag}>", html, flags=re.DOTALL)
    digests = (hashlib.sha256(content.encode()).digest() for content in contents)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
