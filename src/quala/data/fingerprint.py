"""What makes two data specifications the same data."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict

from quala.data.read import source_files
from quala.data.spec import DEMO, DataSpec


def data_fingerprint(spec: DataSpec) -> str:
    """Return the sha256 of everything in the specification that shapes what is learnt or scored.

    `path` does not count, the content of its files does; for the hub name and revision count.
    Raises QualaError when the files do not exist.
    """
    fields = asdict(spec)
    del fields["path"]
    return _sha256(json.dumps([fields, _content(spec)], sort_keys=True))


def _content(spec: DataSpec) -> list[str]:
    if spec.name == DEMO:
        from quala.data.demo import demo_examples

        return [_sha256(json.dumps([asdict(row) for row in part])) for part in demo_examples()]
    digests = []
    for path in source_files(spec):
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return digests


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
