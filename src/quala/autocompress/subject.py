"""What is to be compressed: a model and data, checked against each other before any work."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from quala.architecture import CONFIG
from quala.cost import OFFLINE
from quala.data.spec import DEMO
from quala.errors import QualaError, quoted
from quala.plugins import TASKS
from quala.reading import expanded
from quala.stored import read_object
from quala.workflow.compose import check_options, composed, one_sentence, typed
from quala.workflow.script import WorkflowSpec, find_workflow
from quala.workflow.sources import RUN_ID, TRACKED, Sources
from quala.workflow.store import Store

if TYPE_CHECKING:
    from quala.workflow.settings import Settings, TrackingConfig

WORKFLOW, EXPERIMENT = "quala_minilm", "experiment=compress"
LABELS = ("label", "labels", "score", "gold_label", "is_duplicate", "Quality")


@dataclass(frozen=True)
class DataKind:
    """Data that are known by their columns.

    `group` is the option of conf/data; of each entry of `columns` the data have one name.
    """

    group: str
    tasks: tuple[str, ...]
    columns: tuple[tuple[str, ...], ...]

    def fits(self, columns: Sequence[str]) -> bool:
        """Tell whether data with these columns are of this kind."""
        return all(set(names) & set(columns) for names in self.columns)

    def __str__(self) -> str:
        return f"{', '.join(names[0] for names in self.columns)} ({' or '.join(self.tasks)})"


QUESTIONS = DataKind("squad", ("question-answering",), (("question",), ("context",), ("answers",)))
KINDS = (
    QUESTIONS,
    DataKind("glue", ("classification", "regression"), (LABELS,)),
)
"""In the order in which they are tried. A kind of data of a new task is a line here."""
HUB = {"rajpurkar/squad": "squad", "squad": "squad", "nyu-mll/glue": "glue", "glue": "glue"}
_HUB_NAME = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?(@[\w./-]+)?")
_PLAIN = re.compile(r"[A-Za-z0-9_./@:-]+")
_COLUMN = "data.columns."


@dataclass(frozen=True)
class Subject:
    """A model and the data that it is compressed on.

    `words` name both in a command of the workflow; `bare` says that the model has no head for the
    task, so that it must be trained on the data first.
    """

    model: str
    folder: Path
    task: str
    bare: bool
    words: tuple[str, ...]
    settings: Settings


def override(key: str, value: object) -> str:
    """Return an override of Hydra's grammar, the value quoted where it has to be."""
    text = str(value)
    if _PLAIN.fullmatch(text):
        return f"{key}={text}"
    if "${" in text:
        raise QualaError(f"`{quoted(text)}` has `${{`, which no option can hold: rename it.")
    # A backslash stands for itself, except in front of a quote.
    escaped = re.sub(r"(\\+)(?='|$)", r"\1\1", text).replace("'", r"\'")
    return f"{key}='{escaped}'"


def keys_of(words: Sequence[str]) -> set[str]:
    """Return the keys that overrides set."""
    return {word.partition("=")[0].lstrip("+~") for word in words}


def joined(ours: Sequence[str], typed_words: Sequence[str]) -> list[str]:
    """Return our overrides without those whose key the user sets too, then the user's."""
    known = keys_of(typed_words)
    return [word for word in ours if word.partition("=")[0] not in known] + list(typed_words)


def workflow() -> WorkflowSpec:
    """Return the workflow that is run."""
    return find_workflow(WORKFLOW)


def settings_of(words: Sequence[str]) -> Settings:
    """Return the settings of a command. Raises QualaError, one sentence, for wrong overrides."""
    spec = workflow()
    with one_sentence(spec):
        config = composed(spec, words)
        check_options(config, words)
        return typed(config, spec)


def find_subject(model: str, data: str, task: str | None, words: Sequence[str]) -> Subject:
    """Find a model and data, and what both are for.

    Raises QualaError where one is missing, is compressed already, or contradicts the other.
    """
    place = _place(data)
    kind, group = _kind(data, place, task, words)
    base = joined([EXPERIMENT, f"data={group}", *place], words)
    tracking = settings_of(base).tracking
    folder = _model_folder(model, tracking)
    found = _head(folder, model)
    new_head = "model.new_head=true" in words
    bare = found is None or new_head
    wanted = (task,) if task else kind.tasks
    if not bare and found not in wanted:
        raise QualaError(
            f"`{model}` is a model for {found}, the data `{data}` are for "
            f"{' or '.join(wanted)}: give data or a model of the same task; "
            "`model.new_head=true` trains a new head."
        )
    known = found if found in wanted else None
    name = known or (task or kind.tasks[0])
    auto: str = TASKS.find(name).auto_class
    bare = bare and auto != "AutoModel"  # which has no head
    given = override("model.teacher", _called(model, folder)) if bare else ""
    ours = [given or override("stage.finetune.given", _called(model, folder))]
    if name == "regression":
        ours.append("data.metric=pearson_spearman")  # else whole numbers would be classes
    ours = joined([EXPERIMENT, f"data={group}", *place, *ours], words)
    return Subject(model, folder, name, bare, tuple(ours), settings_of(ours))


def _place(data: str) -> list[str]:
    """Return the overrides that name the data."""
    if expanded(data).exists():
        return [override("data.path", data)]
    if data == DEMO:
        return ["data.name=demo", "data.path=null"]
    if not _HUB_NAME.fullmatch(data) or data.startswith(".") or Path(data).suffix:
        raise QualaError(
            f"There are no data at `{quoted(data)}`: `--data` is a file, a folder, `demo`, or a "
            "name on the hub."
        )
    name, _, revision = data.partition("@")
    named = [override("data.name", name), "data.path=null"]
    return [*named, *([override("data.revision", revision)] if revision else [])]


def _kind(
    data: str, place: Sequence[str], task: str | None, words: Sequence[str]
) -> tuple[DataKind, str]:
    """Return the kind of the data, and the option of conf/data."""
    if "data.name=demo" in place:
        _check_task(task, QUESTIONS, "the demo set")
        return QUESTIONS, DEMO
    given = {word.partition("=")[0]: word.partition("=")[2] for word in words}
    named = given.get("data") or HUB.get(data.partition("@")[0])
    if named is not None:
        found = next((kind for kind in KINDS if kind.group == named), None)
        if found is None:
            raise QualaError(
                f"`data={named}` is not for `quala compress`; known are "
                f"{', '.join(kind.group for kind in KINDS)}."
            )
        _check_task(task, found, f"`data={named}`")
        return found, named
    columns = _columns(place, words, given)
    asked = [kind for kind in KINDS if task in (None, *kind.tasks)]
    for kind in asked:
        if kind.fits(columns):
            return kind, kind.group
    wanted = "; or ".join(map(str, asked))
    raise QualaError(
        f"The data `{data}` have the columns {', '.join(columns)}; {'`--task` ' if task else ''}"
        f"{f'{task} wants' if task else 'known are'} {wanted}. "
        f"`{_COLUMN}{asked[0].columns[-1][0]}=NAME` names a column."
    )


def _check_task(task: str | None, kind: DataKind, what: str) -> None:
    if task not in (None, *kind.tasks):
        raise QualaError(f"`--task {task}` does not fit: {what} is for {' or '.join(kind.tasks)}.")


def _columns(place: Sequence[str], words: Sequence[str], given: Mapping[str, str]) -> list[str]:
    """Return the names in the first row of train, with those that `data.columns` gives."""
    from quala.data.read import split_rows  # pyarrow takes a moment to import

    grouped = any(word.startswith("data.path") for word in place if "=null" not in word)
    group = "glue" if grouped or "data.subset" in given else "squad"
    kept = [word for word in words if not word.startswith(_COLUMN)]
    spec = settings_of(joined([EXPERIMENT, f"data={group}", *place], kept)).data
    _, row = next(iter(split_rows(spec, spec.train_split)))
    mapped = [key.removeprefix(_COLUMN) for key in given if key.startswith(_COLUMN)]
    return [*dict.fromkeys([*row, *mapped])]


def _model_folder(model: str, tracking: TrackingConfig) -> Path:
    """Return the folder of a model, fetched where it is a run's or the hub's.

    Raises QualaError where there is none, and for one that is compressed already.
    """
    from quala.runtime.card import shipped

    folder = Path(model).expanduser()
    if model in shipped() and not folder.is_dir():
        folder = shipped()[model]
    if model.startswith(TRACKED) or RUN_ID.fullmatch(model):
        folder = _tracked_folder(model, tracking)
    elif not folder.is_dir():
        folder = _from_hub(model)
    facts = read_object(folder / "quala.json") if (folder / "quala.json").is_file() else {}
    if facts.get("kind") == "export":
        raise QualaError(
            f"`{model}` is an export, which is compressed already: give the float checkpoint that "
            "it was made of."
        )
    if facts.get("precision", "fp32") != "fp32":
        raise QualaError(
            f"`{model}` is compressed already, it has {facts['precision']} weights: give the "
            "float checkpoint that it was made of."
        )
    if not (folder / CONFIG).is_file():
        raise QualaError(f"`{model}` is no model: `{folder}` has no {CONFIG}.")
    return folder


def _tracked_folder(model: str, tracking: TrackingConfig) -> Path:
    store = Store.open(tracking)
    run = RUN_ID.fullmatch(model.removeprefix("runs:/"))
    # A workflow's run stands for the model that its `finetune` made.
    value = f"runs:/{store.stage_run(run[0], 'finetune')}/output" if run else model
    folder, _ = Sources(store).given(value)
    if folder is None:
        raise QualaError(f"`{model}` holds no model.")
    return folder


def _from_hub(model: str) -> Path:
    """Return the folder of a model on the hub, downloaded unless it is there already."""
    if not _HUB_NAME.fullmatch(model) or model.startswith("."):
        raise QualaError(f"There is no model at `{quoted(model)}`.")
    from huggingface_hub import snapshot_download

    from quala.models.load import resolve_source, split_revision

    if isinstance(place := resolve_source(model), Path):  # `offline`
        return place
    name, revision = split_revision(place)
    wanted = ["*.json", "*.safetensors", "*.txt", "*.model"]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except (OSError, ValueError) as error:  # of the hub's client and of HTTP
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise QualaError(
            f"`{model}` is no folder here, and it does not load from the hub: {reason}."
        ) from error


def _called(model: str, folder: Path) -> str:
    """Return what names a model in a command: the word that was typed, else its folder."""
    word = model.startswith("models:/") or model == OFFLINE or Path(model).expanduser().is_dir()
    return model if word else str(folder)


def _head(folder: Path, model: str) -> str | None:
    """Return the kind of task that a checkpoint has a head for, None for a bare encoder."""
    from quala.models.labels import is_classifier, is_regression
    from quala.models.load import read_config, stored_facts

    if facts := stored_facts(folder):
        return str(facts["task"]) if facts.get("task") else None
    config = read_config(folder)
    names = [str(name) for name in config.architectures or []]
    for kind in TASKS.names:
        ending = TASKS.find(kind).auto_class.removeprefix("AutoModel")
        if kind in ("classification", "regression") or not ending:
            continue
        if any(name.endswith(ending) for name in names):
            return str(kind)
    if any("For" in name and "SequenceClassification" not in name for name in names):
        return None
    if not is_classifier(config):
        return None
    return "regression" if is_regression(config) else "classification"
