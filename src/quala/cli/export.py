"""`quala export`: one folder with everything that answering needs."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from quala.architecture import CONFIG
from quala.cli.arguments import (
    PLACE,
    REPEATS,
    RUNTIME,
    THREADS,
    Parser,
    add_budget,
    budget_of,
    number,
    read_structure,
    text,
)
from quala.cli.locate import EXPORT_STAGE, RUN_ID, add_model, locate_model
from quala.cli.output import out_folder, show, warn, write_json
from quala.cost import architecture_of
from quala.data.task import Span
from quala.durable import disk_trouble, located, settle
from quala.errors import QualaError
from quala.lengths import layers_name, read_layers
from quala.manifest import MANIFEST, check_folder, write_manifest
from quala.stored import read_object

if TYPE_CHECKING:
    from quala.models.adaptive import LengthAdaptiveModel
    from quala.runtime.card import Card


ALIAS = "chosen"
BUILDING = ("name", "runtime", "threads", "repeats", "layers", "checkpoint")
"""Options that a checkpoint's export is built with; a finished export is copied as it is."""


def main(argv: Sequence[str]) -> int:
    """Write an export.

    Raises QualaError for models that cannot be exported, for options that a finished export
    cannot follow, and for full folders.
    """
    arguments = _parser().parse_args(argv)
    _check_options(arguments)
    out = Path(arguments.out)
    check_free(out)
    source = locate_model(arguments.model, arguments.tracking_uri, checkpoints=True)
    check_outside(source, out)
    # onnx and torch take a moment to import, which `--help` does not need.
    from quala.runtime.answerer import PREDICTORS
    from quala.runtime.card import FILE
    from quala.runtime.engine import GRAPH
    from quala.runtime.hub import state_license

    typed = {name: getattr(arguments, name) for name in BUILDING}
    typed["checkpoint"] = typed["checkpoint"] or None
    typed = {name: value for name, value in typed.items() if value is not None}
    copied = (source / GRAPH).is_file()
    if copied:
        if typed:
            raise QualaError(
                f"`{arguments.model}` is an export already and is copied as it is: "
                f"`--{'`, `--'.join(typed)}` would change nothing, leave it out."
            )
    else:
        check_folder(source)
        architecture_of(read_object(source / CONFIG))  # says at once what torch takes long to say
    if typed.get("checkpoint"):
        typed |= {"license": arguments.license} if arguments.license is not None else {}
        if unused := sorted(typed.keys() - {"layers", "checkpoint"}):
            raise QualaError(f"`--checkpoint` writes no export: leave out `--{unused[0]}`.")
        with drafted(out) as draft:
            _cut(source, draft, arguments.layers)
        if arguments.json:
            write_json({"folder": str(out), "layers": arguments.layers})
        else:
            show(f"Wrote the layers {arguments.layers} of {source.name} to {out}.")
        return 0
    if arguments.standard:
        _write_standard(source, out, arguments, None if copied else typed)
        return 0
    with drafted(out) as draft:
        if copied:
            card = copied_card(source, draft)
            if arguments.license is not None:
                card = state_license(draft, arguments.license)
        else:
            typed.pop("layers", None)
            typed["license"] = arguments.license
            card = _built(source, draft, typed, layers=arguments.layers)
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
    elif card.task in PREDICTORS:
        show(f'Try it: quala predict {out} --text "..." --keep 0.5')
    return 0


def _check_options(arguments: argparse.Namespace) -> None:
    """Raise QualaError for options that do not go together."""
    from quala.runtime.card import Budget

    if arguments.checkpoint and (arguments.layers is None or arguments.register):
        raise QualaError("`--checkpoint` needs `--layers`, and goes without `--register`.")
    if arguments.standard and (arguments.register or arguments.checkpoint):
        raise QualaError("`--standard` goes without `--register` and `--checkpoint`.")
    if not arguments.standard and budget_of(arguments) != Budget():
        raise QualaError("A budget chooses the one point of `--standard`: add that option.")
    if arguments.register and not RUN_ID.fullmatch(arguments.model):
        raise QualaError(f"`--register` needs a run id as MODEL, got `{arguments.model}`.")


def check_free(out: Path) -> None:
    """Raise QualaError unless an export may be written to `out`: a folder, new or empty."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise QualaError(f"`{out}` exists already; `--out` wants a folder that is new or empty.")


def check_outside(source: Path, out: Path) -> None:
    """Raise QualaError for an `out` inside the folder of the model itself."""
    if Path(os.path.realpath(source)) in Path(os.path.realpath(out)).parents:
        raise QualaError(f"`--out` must be outside of the model's own folder, got `{out}`.")


def copied_card(source: Path, draft: Path) -> Card:
    """Copy a finished export and return its card. Raises QualaError where it cannot be read."""
    from quala.runtime.card import Card

    card = Card.read(source)
    try:
        shutil.copytree(source, draft, dirs_exist_ok=True)
    except shutil.Error as error:
        if disk_trouble(error):
            raise
        raise QualaError(f"`{source}` cannot be copied: {error.args[0][0][-1]}.") from error
    if not (draft / MANIFEST).is_file():  # an export of an older version
        write_manifest(draft)
    Card.read(draft)  # what was copied is whole
    return card


@contextmanager
def drafted(out: Path) -> Iterator[Path]:
    """Give a folder to write into, which takes its place at `out` when the block is done.

    A block that fails, or is interrupted, leaves nothing. Raises QualaError where there can be no
    such folder.
    """
    new = not out.exists()
    parents = [folder for folder in out.absolute().parents if not folder.exists()]
    try:
        with _inside(out_folder(out.parent if new else out)) as holder:
            draft = Path(holder, "export")
            with located(out):
                draft.mkdir()
                yield draft
                settle(draft)
                if new:
                    draft.rename(out)
                else:  # a folder that is mounted, or is the current one, stays
                    for one in draft.iterdir():
                        one.rename(out / one.name)
    except BaseException:
        for folder in parents:
            with suppress(OSError):
                folder.rmdir()
        raise


def _inside(place: Path) -> TemporaryDirectory[str]:
    try:
        return TemporaryDirectory(prefix=".quala-", dir=place)
    except OSError as error:
        raise QualaError(f"`{place}` takes no new folder: {error.strerror}.") from error


def _write_standard(
    source: Path, out: Path, arguments: argparse.Namespace, typed: dict[str, Any] | None
) -> None:
    """Write one point of an export, or of that which a checkpoint makes as `typed`."""
    from quala.export.standard import write_standard

    budget = budget_of(arguments)
    with drafted(out) as draft:
        if typed is not None:
            whole, layers = draft.with_name("whole"), typed.pop("layers", None)
            timed = {} if budget.ms else {"repeats": 0}
            _built(source, whole, {**timed, "name": source.name, **typed}, layers=layers)
            source = whole
        facts = write_standard(source, draft, budget, arguments.license)
    note, size = facts.pop("note"), (out / facts["file"]).stat().st_size
    if note:
        warn(note)
    if arguments.json:
        write_json({"folder": str(out), "bytes": size} | facts)
        return
    show(
        f"Wrote {out / facts['file']}: {size / 1e6:.1f} MB, at {facts['point']}.",
        f"It maps {', '.join(facts['inputs'])} to {', '.join(facts['outputs'])}; README.md says "
        "how optimum and transformers.js load it.",
    )


def register(run: str, name: str, tracking_uri: str | None) -> None:
    """Make the run's export a version of the registered model `name`, with the alias `chosen`.

    Raises QualaError when the store refuses.
    """
    from quala.workflow import registry
    from quala.workflow.tracking import Tracking

    store, run = Tracking.connect(tracking_uri), run.removeprefix("runs:/")
    exported = store.stage_run(run, EXPORT_STAGE)
    version = registry.register(store, name, run, exported, ALIAS)
    show(f"Registered as models:/{name}@{ALIAS}, version {version}.")


def _built(source: Path, out: Path, typed: Mapping[str, Any], *, layers: str | None) -> Card:
    """Export a checkpoint that no workflow measured: its front has costs, no scores."""
    from quala.data.spec import Windows
    from quala.export.folder import ExportSettings, ladder, write_export
    from quala.models.load import check_inputs, load_tokenizer, stored_facts
    from quala.models.sentence_encoder import tokens_read

    model, tokenizer = _part(source, layers), load_tokenizer(source)
    # 384 tokens and a stride of 128 are what BERT's authors use for SQuAD.
    usual = min(tokens_read(source) or 384, model.arch.longest)
    longest = stored_facts(source).get("sequence_length", usual)
    check_inputs(source, tokenizer, longest)
    warn("No measured front was found: the points have costs and no scores.")
    settings = ExportSettings(
        windows=Windows(max_length=longest, doc_stride=min(128, longest // 3)),
        provenance={"checkpoint": source.name},
        **{"name": source.name, **typed},
    )
    front = ladder(model, longest)
    return write_export(model, tokenizer, out, front=front, settings=settings)


def _part(source: Path, layers: str | None) -> LengthAdaptiveModel:
    """Load a checkpoint, or one of the sub-networks that it was trained for."""
    from quala.checkpoint import cut_out, load_any_model

    model = load_any_model(source)
    if layers is None:
        return model
    found = read_layers(layers, layers=model.num_layers)
    if found not in model.structures:
        made = ", ".join(map(layers_name, model.structures[1:])) or "no smaller ones"
        raise QualaError(
            f"`{source}` was not trained for the layers `{layers}`, only for: {made}."
        )
    return cut_out(model, found)


def _cut(source: Path, out: Path, layers: str) -> None:
    """Write a sub-network as a checkpoint of its own, which trains on as any other does."""
    from quala.compress.quantize.files import save_integer
    from quala.models.load import load_tokenizer, save_model, stored_facts

    model, tokenizer, facts = _part(source, layers), load_tokenizer(source), stored_facts(source)
    if facts.get("precision") == "int8":
        save_integer(model.hf, out, facts)
        tokenizer.save_pretrained(out)
    else:
        save_model(model, tokenizer, out, metadata=facts)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="quala export", description=__doc__)
    add_model(parser)
    parser.add_argument(
        "--out", type=PLACE, required=True, metavar="DIR", help="a new or empty folder"
    )
    parser.add_argument(
        "--register",
        type=text("name"),
        metavar="NAME",
        help="also register the run's export in MLflow as NAME",
    )
    parser.add_argument(
        "--name", type=PLACE, help="how the model is called (default: the folder's name)"
    )
    parser.add_argument(
        "--license",
        type=text("line"),
        metavar="NAME",
        help="the model's license, such as mit (default: what its own README.md states)",
    )
    parser.add_argument("--runtime", type=RUNTIME, help="onnxruntime (default) or openvino")
    parser.add_argument("--threads", type=THREADS, help="threads of the timing (default: 1)")
    parser.add_argument(
        "--repeats",
        type=number(int, at_least=0, at_most=REPEATS),
        help="runs behind each time, 0 for none",
    )
    parser.add_argument(
        "--layers",
        type=read_structure,
        metavar="UNITS",
        help="of an elastic checkpoint, this sub-network alone, such as 6x768",
    )
    parser.add_argument(
        "--checkpoint",
        action="store_true",
        help="write these layers as a checkpoint that trains on, instead of an export",
    )
    parser.add_argument(
        "--standard",
        action="store_true",
        help="write one point for optimum, transformers.js and other tools, instead of an export",
    )
    add_budget(parser, "the longest input, with --standard")
    parser.add_argument("--json", action="store_true", help="write JSON")
    return parser
