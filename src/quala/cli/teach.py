"""`quala teach`: write a model's answers to a data set to a file that students learn from."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quala.cli.arguments import PLACE, Parser, add_store, number, text
from quala.cli.locate import RUN_ID, check_known
from quala.cli.output import show, warn, write_json
from quala.durable import replacing, write_whole
from quala.errors import QualaError, unknown
from quala.stored import read_object

if TYPE_CHECKING:
    from quala.data.characters import CharacterAnswers
    from quala.data.features import Example
    from quala.data.spec import DataSpec
    from quala.data.teacher_file import ClassAnswers
    from quala.stages.outside_teacher import ModelTeacher

TEACHER_STAGE = "finetune"
AT_ONCE = 8
"""Batches of examples between two parts: enough to sort windows by length."""
FORMATS = {"question-answering": "squad", "classification": "glue", "regression": "glue"}
ABOUT = "about.json"
LARGEST_BATCH, LONGEST_INPUT = 8192, 8192
"""As in the options of a workflow."""


def main(argv: Sequence[str]) -> int:
    """Write a teacher's file; the same command goes on where it was killed.

    Raises QualaError for a file that exists, and for models and data that do not fit.
    """
    arguments = _parser().parse_args(argv)
    out = Path(arguments.out)
    if out.exists():
        raise QualaError(f"`{out}` exists already; `--out` wants a new file.")
    if not out.absolute().parent.is_dir():
        raise QualaError(f"`--out`: there is no folder `{out.absolute().parent}`.")
    # torch and transformers take a moment to import, which `--help` does not need.
    from quala.data.formats import format_of
    from quala.data.task import task_of
    from quala.data.teacher_file import WRITTEN, write_teacher_file
    from quala.stages.outside_teacher import ModelTeacher

    source = _located(arguments.model, arguments.tracking_uri)
    kind, outputs = _kind(source)
    answers = kind == "question-answering"
    allowed = WRITTEN["answers" if answers else "classes"]
    if out.suffix.lower() not in allowed:
        raise unknown("ending of `--out`", out.suffix or out.name, allowed)
    spec = _spec(arguments, FORMATS[kind])
    examples = _examples(spec, arguments.split)
    for reason, count in format_of(spec).left_out.items():
        warn(f"{count} left out of {reason}.")
    task, size = task_of(kind, outputs), arguments.batch_size
    teacher = ModelTeacher.load(source, spec, task, size, examples)
    part = out.with_name(f"{out.name}.part")
    _check_about(part, _about(arguments, source, examples))
    size *= AT_ONCE
    _ask(teacher, examples, part, size=size, top=arguments.top if answers else None)
    found = _joined(part, -(-len(examples) // size), teacher.labels if not answers else None)
    write_teacher_file(out, [one.id for one in examples], found)
    shutil.rmtree(part)
    if arguments.json:
        write_json({"file": str(out), "examples": len(examples), "bytes": out.stat().st_size})
        return 0
    what = "questions" if answers else "texts"
    show(f"Wrote the answers to {len(examples):,} {what} to {out}.")
    show(f"Learn from it: quala run WORKFLOW 'stage.distill.teachers=[{out}]'")
    return 0


def _located(model: str, tracking_uri: str | None) -> str | Path:
    """Return a checkpoint: a folder, the output of a run, or the name on the hub that is left."""
    from quala.runtime.engine import GRAPH

    place: str | Path = model
    run = RUN_ID.fullmatch(model)
    if Path(model).is_dir():
        place = Path(model)
    elif run or model.startswith("models:/"):
        check_known(tracking_uri, run[2] if run else model)
        from quala.workflow.tracking import OUTPUT, Tracking

        store = Tracking.connect(tracking_uri)
        output = f"runs:/{store.stage_run(run[2], TEACHER_STAGE)}/{OUTPUT}" if run else model
        place = store.output(output)
    if isinstance(place, Path) and (place / GRAPH).is_file():
        raise QualaError(
            f"`{model}` is an export, which gives answers without their distributions: give the "
            "checkpoint that it was made of."
        )
    return place


def _kind(source: str | Path) -> tuple[str, int]:
    """Return the task of a checkpoint and how many outputs it has."""
    from quala.models.foreign import foreign_config, foreign_kind
    from quala.models.load import resolve_source, stored_facts

    place = resolve_source(source)
    facts = stored_facts(place)
    if "task" in facts:
        kind, outputs = str(facts["task"]), int(facts.get("num_labels", 2))
    else:
        kind, outputs = str(foreign_kind(place)), int(foreign_config(place).num_labels or 2)
    if kind not in FORMATS:
        raise QualaError(
            f"`{source}` must be a model for one of {', '.join(FORMATS)}, by the architecture in "
            f"its config.json; got {'none of them' if kind == 'None' else kind}."
        )
    return kind, 2 if kind == "question-answering" else outputs


def _spec(arguments: argparse.Namespace, kind: str) -> DataSpec:
    from quala.data.spec import DEMO, DataSpec
    from quala.reading import expanded

    split, place = arguments.split, arguments.data
    options: dict[str, Any] = {"train_split": split}
    options["test_split"] = "train" if split == "validation" else "validation"
    if place == DEMO:
        options = {"name": DEMO}
        if split not in ("train", "validation"):
            raise unknown("split of the demo set", split, ("train", "validation"))
    elif expanded(place).exists():
        options["path"] = place
    else:
        options["name"] = place
    if kind == "squad" and place != DEMO:
        options |= {"unanswerable": "keep", "misaligned": "drop"}
    if kind == "glue":
        options |= {"unlabeled": "drop"}
    columns = dict(one.partition("=")[::2] for one in arguments.columns)
    return DataSpec(
        task=kind,
        subset=arguments.subset,
        columns=columns,
        max_length=arguments.max_length,
        doc_stride=arguments.doc_stride,
        max_question_length=arguments.max_question_length,
        **options,
    )


def _examples(spec: DataSpec, split: str) -> list[Example]:
    from quala.data.formats import format_of

    try:
        return format_of(spec).read(spec, split, None)[0]
    except QualaError as error:  # which names the options of a workflow
        told = str(error).replace("`data.test_split`", "`--split`")
        raise QualaError(told.replace("`data.columns.", "`--columns ")) from error


def _about(
    arguments: argparse.Namespace, source: str | Path, examples: Sequence[Example]
) -> dict[str, Any]:
    """Return what parts must have in common."""
    from quala.models.load import source_fingerprint

    data = hashlib.sha256()
    for one in examples:
        data.update(repr(one).encode())
    names = ("top", "batch_size", "max_length", "doc_stride", "max_question_length")
    options = {f"--{name.replace('_', '-')}": getattr(arguments, name) for name in names}
    return {"MODEL": source_fingerprint(source), "--data": data.hexdigest(), **options}


def _check_about(part: Path, about: dict[str, Any]) -> None:
    """Note what parts are of. Raises QualaError where others lie there."""
    file = part / ABOUT
    if not file.is_file():
        part.mkdir(exist_ok=True)
        write_whole(file, json.dumps(about))
        return
    known = read_object(file)
    other = [name for name in about if known.get(name) != about[name]]
    if other:
        raise QualaError(
            f"`{part}` has parts that were made with another {', '.join(other)}: remove that "
            "folder, or give another `--out`."
        )


def _ask(
    teacher: ModelTeacher, examples: list[Any], part: Path, *, size: int, top: int | None
) -> None:
    """Write the answers to each `size` examples to a file, but for those that are there."""
    import numpy as np

    from quala.stage import StageContext

    context = StageContext("teach", part, part, bars=sys.stderr.isatty())
    context.logger.handlers = [] if context.bars else [logging.StreamHandler()]
    context.logger.setLevel(logging.INFO)
    with context.progress("The teacher's answers", len(examples)) as progress:
        for place, first in enumerate(range(0, len(examples), size)):
            asked, file = examples[first : first + size], part / f"{place:06}.npz"
            if not file.is_file():
                if top is None:
                    arrays: dict[str, Any] = {"probability": teacher.classes(asked)}
                else:
                    arrays = vars(teacher.answers(asked).top(top))
                with replacing(file) as partial, partial.open("wb") as stream:
                    np.savez(stream, **arrays)
            progress.advance(len(asked))


def _joined(
    part: Path, count: int, labels: tuple[str, ...] | None
) -> CharacterAnswers | ClassAnswers:
    import numpy as np

    from quala.data.characters import CharacterAnswers
    from quala.data.teacher_file import ClassAnswers

    pieces = [
        dict(np.load(part / f"{place:06}.npz", allow_pickle=False)) for place in range(count)
    ]
    whole: dict[str, Any] = {
        name: np.concatenate([one[name] for one in pieces]) for name in pieces[0]
    }
    return CharacterAnswers(**whole) if labels is None else ClassAnswers(**whole, labels=labels)


def _column(value: str) -> str:
    if not all(value.partition("=")):
        raise argparse.ArgumentTypeError(f"must be NAME=COLUMN, got `{value:.40}`")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="quala teach", description=__doc__)
    parser.add_argument(
        "model",
        type=PLACE,
        metavar="MODEL",
        help="a folder or hub name of any family that transformers loads, a run id (of a workflow "
        "its `finetune` stage), or models:/NAME@ALIAS",
    )
    add_store(parser, "the store of runs and models")
    parser.add_argument(
        "--data",
        type=PLACE,
        required=True,
        metavar="PATH",
        help="a file, folder, hub name or demo",
    )
    parser.add_argument(
        "--out",
        type=PLACE,
        required=True,
        metavar="FILE",
        help="a new .npz or .parquet file; for classes also .jsonl",
    )
    parser.add_argument("--split", type=PLACE, default="train", help="(default: train)")
    parser.add_argument("--subset", type=text("line"), help="the GLUE task or a sub-folder")
    parser.add_argument(
        "--columns",
        type=_column,
        nargs="+",
        default=[],
        metavar="NAME=COLUMN",
        help="columns under other names, such as text=review",
    )
    parser.add_argument(
        "--top",
        type=number(int, at_least=1, at_most=1000),
        default=16,
        help="starts and ends of each answer that are kept (default: 16)",
    )
    parser.add_argument(
        "--batch-size",
        type=number(int, at_least=1, at_most=LARGEST_BATCH),
        default=32,
        help="windows at a time (default: 32)",
    )
    for option, default, about in (
        ("--max-length", 384, "tokens of a window, the teacher's"),
        ("--doc-stride", 128, "tokens that two windows share"),
        ("--max-question-length", 64, "longer questions are cut"),
    ):
        parser.add_argument(
            option,
            type=number(int, at_least=0, at_most=LONGEST_INPUT),
            default=default,
            help=f"{about} (default: {default})",
        )
    parser.add_argument("--json", action="store_true", help="write JSON")
    return parser
