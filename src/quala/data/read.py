"""The two splits of a source, read and checked: hub, folder, single file or demo."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quala.data.convert import classification_rows, qa_examples
from quala.data.examples import ClassificationExample, QAExample
from quala.data.labels import LabelScheme, label_scheme, with_labels
from quala.data.locate import data_files, missing_split, names_splits, source_path, split_files
from quala.data.records import Place, Row, Rows, read_rows
from quala.data.spec import DataSpec
from quala.errors import QualaError


def read_squad(spec: DataSpec, split: str) -> list[QAExample]:
    """Read a split of questions. Raises QualaError when it is absent, malformed or empty."""
    examples = qa_examples(split_rows(spec, split), unanswerable=spec.unanswerable)
    if not examples:
        raise QualaError(f"The split `{split}` of `{spec.path or spec.name}` has no questions.")
    return examples


def read_glue(
    spec: DataSpec, split: str, *, scheme: LabelScheme | None = None
) -> tuple[list[ClassificationExample], LabelScheme]:
    """Read a split of labelled sentences; without `scheme` it is read off this split.

    Raises QualaError when the split is absent, malformed, empty or unlabelled.
    """
    examples, labels = classification_rows(split_rows(spec, split))
    if scheme is None:
        scheme = label_scheme(labels, regression=spec.subset == "stsb")
    return with_labels(examples, labels, scheme=scheme), scheme


def split_rows(spec: DataSpec, split: str) -> Rows:
    """Yield the rows of a split from wherever the specification points."""
    if spec.path is None:
        return _loaded(str(spec.name), spec.subset, split=split, revision=spec.revision)
    source = source_path(spec.path, spec.subset)
    if source.is_file():
        return read_rows(source)
    files = split_files(source, split)
    if not files and (names_splits(source) or not data_files(source)):
        raise missing_split(source, split)
    return _chained(files) if files else _loaded(str(source), None, split=split, revision=None)


def is_single_file(spec: DataSpec) -> bool:
    """Say whether the source is one file, which has no splits of its own."""
    return spec.path is not None and source_path(spec.path, spec.subset).is_file()


def source_files(spec: DataSpec) -> list[Path]:
    """Return the local files that hold both splits, in a fixed order; none for the hub."""
    if spec.path is None:
        return []
    source = source_path(spec.path, spec.subset)
    if source.is_file():
        return [source]
    named = [split_files(source, split) for split in (spec.train_split, spec.test_split)]
    return [*named[0], *named[1]] if all(named) else data_files(source)


def _chained(files: list[Path]) -> Rows:
    for file in files:
        yield from read_rows(file)


def _loaded(name: str, subset: str | None, *, split: str, revision: str | None) -> Rows:
    # datasets takes seconds to import, and local files do not need it
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    try:
        rows: Any = load_dataset(name, subset, split=split, revision=revision)
    except (OSError, ValueError, DatasetGenerationError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise QualaError(f"The split `{split}` of `{name}` does not load: {reason}.") from error
    return _placed(rows, f"{name} {split}")


def _placed(rows: Iterator[Row], source: str) -> Rows:
    for number, row in enumerate(rows, start=1):
        yield Place(source, "record", number), row
