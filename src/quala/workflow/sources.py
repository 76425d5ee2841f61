"""Inputs from outside: the data, start models, and outputs given by the user."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quala.architecture import CONFIG
from quala.cost import architecture_of
from quala.data.teacher_file import check_teacher_file, is_teacher_file
from quala.errors import QualaError, quoted
from quala.manifest import check_folder, digest
from quala.plugins import FORMATS, source_hash
from quala.stored import read_object
from quala.workflow.identity import config_identity, content_hash, fingerprint
from quala.workflow.store import Store
from quala.workflow.tracking import OUTPUT

RUN_ID = re.compile(r"[0-9a-f]{32}")
TRACKED = ("runs:/", "models:/")
NO_DATA = "-"


@dataclass(frozen=True)
class Source:
    """An input that no stage makes: the data, or a start model."""

    name: str
    value: Any
    fingerprint: str
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Sources:
    """Finds each outside input once and keeps its fingerprint."""

    store: Store
    _known: dict[str, Any] = field(default_factory=dict)

    @property
    def data_used(self) -> str:
        """Fingerprint of the data, or `-` for a workflow that uses none."""
        return self._known["data"].fingerprint if "data" in self._known else NO_DATA

    def data(self, spec: Any) -> Source:
        """Return the data with the fingerprint of its content."""
        if "data" not in self._known:
            from quala.data.slices import data_fingerprint

            content, detail = data_fingerprint(spec), config_identity(spec)
            if spec.task not in FORMATS.own:
                made = FORMATS.find(spec.task)
                code = [source_hash(made), source_hash(made.known_task(spec))]
                content, detail = fingerprint([content, code]), {**detail, "code": code}
            self._known["data"] = Source("data", spec, content, detail)
        known: Source = self._known["data"]
        return known

    def model(self, key: str, value: str) -> Source:
        """Return a folder or run as a folder, and any other value as the name that it is."""
        name = f"model.{key}"
        if _tracked(value) or Path(value).expanduser().is_dir():
            folder, content = self.given(value)
            return Source(name, str(folder), content, {"value": value})
        return Source(name, value, f"name:{value}", {"value": value})

    def teacher(self, number: int, value: str) -> Source:
        """Return a file of a teacher's answers with the hash of its content, else a model."""
        name, file = f"teachers.{number}", Path(value).expanduser()
        if not is_teacher_file(value):
            return dataclasses.replace(self.model("", value), name=name)
        try:
            check_teacher_file(file)
        except QualaError as error:
            raise QualaError(f"`teachers`: {error}") from error
        return Source(name, str(file.absolute()), self._digest(file), {"value": value})

    def _digest(self, file: Path) -> str:
        known: str = self._known.setdefault(f"file:{file}", None) or digest(file)
        self._known[f"file:{file}"] = known
        return known

    def given(self, value: str) -> tuple[Path | None, str]:
        """Return a folder and the hash of its content.

        Raises QualaError if there is none, or it is damaged.
        """
        if value not in self._known:
            folder = self._locate(value)
            self._known[value] = folder, content_hash(folder)
        found: tuple[Path, str] = self._known[value]
        return found

    def _locate(self, value: str) -> Path:
        if not _tracked(value):
            folder = _folder(value)
            check_folder(folder)
            return folder
        artifact = value
        if RUN_ID.fullmatch(value.removeprefix("runs:/")):
            artifact = f"runs:/{value.removeprefix('runs:/')}/{OUTPUT}"
        name = re.sub(r"\W+", "-", value)
        folder = self.store.output(artifact, self.store.work / "cache" / name)
        if not folder.is_dir():
            raise QualaError(f"`{value}` holds no folder.")
        return folder


UNREAD = "unread"


class UnreadSources(Sources):
    """Outside inputs before a store is open: they are looked for, and not read.

    What only a store knows has no folder.
    """

    def __init__(self) -> None:
        self._known = {}

    def data(self, spec: Any) -> Source:
        """Return the data; raise QualaError unless the files of each split are there."""
        if "data" not in self._known:
            from quala.data.read import source_files  # pyarrow takes long to import

            try:
                source_files(spec)
            except QualaError as error:
                named = "`data." in str(error)
                raise QualaError(str(error) if named else f"`data.path`: {error}") from error
            self._known["data"] = Source("data", spec, UNREAD)
        known: Source = self._known["data"]
        return known

    def _digest(self, file: Path) -> str:
        return UNREAD

    def model(self, key: str, value: str) -> Source:
        """Return a folder or a name as it was given; a run has no value yet."""
        return Source(f"model.{key}", None if _named(value) else value, UNREAD)

    def given(self, value: str) -> tuple[Path | None, str]:
        """Return a folder, None for what is tracked; raise QualaError if there is none."""
        folder = None if _named(value) else _folder(value)
        if folder and (folder / CONFIG).is_file():  # a checkpoint; what torch takes long to say
            architecture_of(read_object(folder / CONFIG))
        return folder, UNREAD


_NAMED = re.compile(r"(runs:/)?[0-9a-f]{32}(/.+)?|models:/(m-[0-9a-f]{32}|[^/@:]+[/@][\w-]+)")


def _named(value: str) -> bool:
    """Return whether a place is in a store. Raises QualaError for what no store can have."""
    if _tracked(value) and not _NAMED.fullmatch(value):
        raise QualaError(
            f"`{quoted(value)}` must be runs:/ID, models:/NAME@ALIAS or models:/NAME/VERSION."
        )
    return _tracked(value)


def _folder(value: str) -> Path:
    folder = Path(value).expanduser()
    if not value or not folder.is_dir():  # the path of an empty text is here
        raise QualaError(
            f"`{quoted(value)}` is no folder, run id, runs:/ID or models:/name@alias that exists."
        )
    return folder.absolute()


def _tracked(value: str) -> bool:
    return value.startswith(TRACKED) or RUN_ID.fullmatch(value) is not None
