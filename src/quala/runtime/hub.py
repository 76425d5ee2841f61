"""Exports on the Hugging Face hub: their metadata, upload and download."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quala.errors import QualaError
from quala.manifest import MANIFEST, check_folder, write_manifest
from quala.metrics.interval import metric_name
from quala.redact import markdown, recorded
from quala.runtime.card import FILE, Card, MeasuredData, Point
from quala.stored import read_object

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

README, NOT_STATED = "README.md", "not stated"
LEGAL = ("README*", "LICENSE*", "NOTICE*")
"""Files that may join an export, or be edited in it."""
OF_EXPORTS = ("*.json", "*.onnx", "*.txt", "MLmodel", *LEGAL)
OF_CHECKPOINTS = (*OF_EXPORTS, "*.safetensors", "*.model")
"""What is downloaded: no code, no pickled weights."""
_NAME = re.compile(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}(@[\w./-]+)?", re.ASCII)
PIPELINES = {
    "question-answering": "question-answering", "classification": "text-classification",
    "regression": "text-classification", "token-classification": "token-classification",
    "embedding": "sentence-similarity",
}  # fmt: skip
METRICS = {
    "matthews": "matthews_correlation", "pearson": "pearsonr", "spearman": "spearmanr",
    "f1_macro": "f1", "f1_weighted": "f1",
}  # fmt: skip
LICENSES = frozenset(
    "afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bsd bsd-2-clause bsd-3-clause bsl-1.0 cc cc-by-3.0 "
    "cc-by-4.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-4.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 "
    "cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-2.0 cdla-sharing-1.0 epl-2.0 etalab-2.0 "
    "eupl-1.2 gemma gpl-2.0 gpl-3.0 isc lgpl-2.1 lgpl-3.0 llama2 llama3 mit mpl-2.0 ms-pl ncsa "
    "odc-by openrail osl-3.0 pddl postgresql unlicense wtfpl zlib".split()
)
"""Those that the hub knows by identifier and people use; any other is `other` with its name."""


def metadata(card: Card) -> ModelCardData:
    """Return what the hub reads at the beginning of README.md, as far as it is known.

    The results are those of the full length and of the chosen point.
    """
    from huggingface_hub import ModelCardData

    scored = [point for point in card.front if point.score is not None]
    shown = [point for point in scored if point is card.full or point.chosen]
    results = [_result(card, card.test, point) for point in shown if card.test]
    return ModelCardData(
        **license_of(card),
        language=list(card.languages) or None,
        library_name="quala",
        pipeline_tag=PIPELINES.get(card.task),
        tags=["quala", "onnx", card.precision, card.arch.family, "length-adaptive"],
        datasets=list(card.datasets) or None,
        metrics=[METRICS.get(card.metric, card.metric)] if scored else None,
        base_model=card.base_model or None,
        model_name=card.name if results else None,
        eval_results=results or None,
    )


def license_of(card: Card) -> dict[str, Any]:
    """Return the metadata of the license; nothing where it is not stated."""
    if card.licence in ("", NOT_STATED):
        return {}
    if card.licence.lower() in LICENSES:
        return {"license": card.licence.lower()}
    return {"license": "other", "license_name": card.licence}


def _result(card: Card, test: MeasuredData, point: Point) -> EvalResult:
    from huggingface_hub import EvalResult

    where = "full length" if point is card.full else "chosen point"
    units = {"heads_x_neurons": point.units} if point.units else {}
    return EvalResult(
        task_type=PIPELINES.get(card.task, card.task),
        dataset_type=test.name or re.sub(r"\W+", "-", test.title.lower()).strip("-"),
        dataset_name=test.title,
        dataset_config=test.subset or None,
        dataset_split=test.split or None,
        metric_type=METRICS.get(card.metric, card.metric),
        metric_value=round(point.score or 0.0, 2),
        metric_name=f"{metric_name(card.metric)} in percent, {where}",
        metric_args={"tokens_per_layer": point.lengths.whole.name, **units},
    )


def with_metadata(card: Card, text: str) -> str:
    """Return the text of a README.md with the metadata before it, unless it has some."""
    return text if text.startswith("---") else f"---\n{metadata(card).to_yaml()}\n---\n\n{text}"


def state_license(folder: Path, license: str) -> Card:
    """Write the license of a finished export into its files, and return its card."""
    from huggingface_hub import ModelCard

    facts, readme = read_object(folder / FILE), folder / README
    facts["licence"] = recorded(license).strip() or NOT_STATED
    (folder / FILE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    write_manifest(folder)
    card = Card.read(folder)
    text = readme.read_text(encoding="utf-8") if readme.is_file() else f"# {card.name}\n"
    line = f"License: {markdown(card.licence)}."
    found = ModelCard(with_metadata(card, re.sub(r"(?m)^License: .*$", lambda _: line, text)))
    for key in ("license", "license_name", "license_link"):
        setattr(found.data, key, license_of(card).get(key))
    readme.write_text(str(found), encoding="utf-8")
    write_manifest(folder)
    return card


def files_of(folder: Path) -> dict[str, int]:
    """Return the bytes of each file that is uploaded: those of the export, README and license.

    Raises QualaError for a damaged export, and for one of a version that listed no files.
    """
    check_folder(folder)
    if not (folder / MANIFEST).is_file():
        raise QualaError(f"`{folder}` has no {MANIFEST}: `quala export` makes a copy with one.")
    legal = [file.name for kind in LEGAL for file in folder.glob(kind)]
    names = sorted({MANIFEST, *read_object(folder / MANIFEST), *legal})
    files = {name: folder / name for name in names}
    return {name: file.stat().st_size for name, file in files.items() if file.is_file()}


def upload(folder: Path, repository: str, files: Collection[str], *, private: bool) -> str:
    """Upload files of a folder to a model repository, made where there is none; return its page.

    Raises QualaError without a token or network, for a repository that is public where a private
    one is wanted, and for what the hub refuses.
    """
    from huggingface_hub import HfApi, constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise QualaError("The hub cannot be reached: the variable HF_HUB_OFFLINE forbids it.")
    if get_token() is None:
        raise QualaError("There is no token for the hub: run `hf auth login`, or set HF_TOKEN.")
    hub = HfApi(library_name="quala")
    with _asking(f"`{repository}` does not take the export"):
        made = hub.create_repo(repository, private=private or None, exist_ok=True)
        if private and not hub.model_info(made.repo_id).private:
            raise QualaError(f"`{made.repo_id}` exists and is public, which `--private` forbids.")
        hub.upload_folder(repo_id=made.repo_id, folder_path=folder, allow_patterns=[*files])
    return str(made)


def is_hub_name(name: str) -> bool:
    """Tell whether it is OWNER/NAME, with `@revision` or not, and no place in a folder here."""
    return bool(_NAME.fullmatch(name)) and not Path(name).parent.is_dir()


def download(name: str, wanted: Collection[str] = OF_EXPORTS) -> Path:
    """Return the folder of a model on the hub, downloaded unless it is there already.

    Raises QualaError where there is none.
    """
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    with _asking(f"`{name}` is no folder here, and it does not load from the hub"):
        return Path(
            snapshot_download(repository, revision=revision or None, allow_patterns=[*wanted])
        )


@contextmanager
def _asking(what: str) -> Iterator[None]:
    """Turn what the hub's client raises into a sentence that begins with `what`."""
    from huggingface_hub.errors import HfHubHTTPError

    failures: Any = (*HfHubHTTPError.__bases__, OSError, ValueError)  # of its HTTP client too
    try:
        yield
    except failures as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise QualaError(f"{what}: {reason}.") from error
