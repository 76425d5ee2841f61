"""`quala export`: one folder with everything that answering needs."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quala.cli.locate import EXPORT_STAGE, RUN_ID, add_model, locate_model
from quala.cli.output import out_folder, show, warn, write_json
from quala.data.task import Span
from quala.errors import QualaError
from quala.manifest import MANIFEST, check_folder, write_manifest

if TYPE_CHECKING:
    from quala.runtime.card import Card


ALIAS = "chosen"
BUILDING = ("name", "runtime", "threads", "repeats")
"""Options that a checkpoint's export is built with; a finished export is copied as it is."""


def main(argv: Sequence[str]) -> int:
    """Write an export.

    Raises QualaError for models that cannot be exported, for options that a finished export
    cannot follow, and for full folders.
    """
    arguments = _parser().parse_args(argv)
    if arguments.register and not RUN_ID.fullmatch(arguments.model):
        raise QualaError(f"`--register` needs a run id as MODEL, got `{arguments.model}`.")
    out = Path(arguments.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise QualaError(f"`{out}` exists already; `--out` wants a folder that is new or empty.")
    source = locate_model(arguments.model, arguments.tracking_uri)
    # onnx and torch take a moment to import, which `--help` does not need.
    from quala.runtime.card import FILE, Card
    from quala.runtime.engine import GRAPH

    typed = {name: getattr(arguments, name) for name in BUILDING}
    typed = {name: value for name, value in typed.items() if value is not None}
    if (source / GRAPH).is_file():
        if typed:
            raise QualaError(
                f"`{arguments.model}` is an export already and is copied as it is: "
                f"`--{'`, `--'.join(typed)}` would change nothing, leave it out."
            )
        card = Card.read(source)
        try:
            shutil.copytree(source, out_folder(out), dirs_exist_ok=True)
        except shutil.Error as error:
            raise QualaError(f"`{source}` cannot be copied: {error.args[0][0][-1]}.") from error
        if not (out / MANIFEST).is_file():  # an export of an older version
            write_manifest(out)
        Card.read(out)  # what was copied is whole
    else:
        check_folder(source)
        card = _built(source, out, typed)
    if arguments.register:
        register(arguments.model, arguments.register, arguments.tracking_uri)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    if arguments.json:
        write_json({"folder": str(out), "bytes": size} | card.to_json())
        return 0
    show(
        f"Exported {card.name} ({card.precision}) to {out}: {size / 1e6:.1f} MB, "
        f"{len(card.front)} points in {FILE}."
    )
    if card.task == Span.kind:
        show(f'Ask it: quala answer {out} --question "..." --context "..." --keep 0.5')
    return 0


def register(run: str, name: str, tracking_uri: str | None) -> None:
    """Make the run's export a version of the registered model `name`, with the alias `chosen`.

    Raises QualaError when the store refuses.
    """
    from quala.workflow.store import Tracking

    store = Tracking.connect(tracking_uri)
    owner = store.stage_run(run.removeprefix("runs:/"), EXPORT_STAGE)
    version = store.register(name, owner, ALIAS)
    show(f"Registered as models:/{name}@{ALIAS}, version {version}.")


def _built(source: Path, out: Path, typed: Mapping[str, Any]) -> Card:
    """Export a checkpoint that no workflow measured: its front has costs, no scores."""
    from quala.checkpoint import load_any_model
    from quala.data.spec import Windows
    from quala.data.task import Span
    from quala.export.folder import ExportSettings, ladder, write_export
    from quala.models.load import check_inputs, load_tokenizer, stored_facts

    model, tokenizer = load_any_model(source), load_tokenizer(source)
    if not isinstance(model.task, Span):
        raise QualaError(
            f"`{source}` is a {model.task.kind} model; a workflow's export stage writes those."
        )
    # 384 tokens and a stride of 128 are what BERT's authors use for SQuAD.
    longest = stored_facts(source).get("sequence_length", min(384, model.arch.longest))
    check_inputs(source, tokenizer, longest)
    warn("No measured front was found: the points have costs and no scores.")
    settings = ExportSettings(
        windows=Windows(max_length=longest, doc_stride=min(128, longest // 3)),
        provenance={"checkpoint": str(source)},
        **{"name": source.name, **typed},
    )
    front = ladder(model, longest)
    return write_export(model, tokenizer, out_folder(out), front=front, settings=settings)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="quala export", description=__doc__)
    add_model(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="a new or empty folder")
    parser.add_argument(
        "--register", metavar="NAME", help="also register the run's export in MLflow as NAME"
    )
    parser.add_argument("--name", help="how the model is called (default: the folder's name)")
    parser.add_argument("--runtime", help="onnxruntime (default) or openvino")
    parser.add_argument("--threads", type=int, help="threads of the timing (default: 1)")
    parser.add_argument("--repeats", type=int, help="runs behind each time, 0 for none")
    parser.add_argument("--json", action="store_true", help="write JSON")
    return parser
