"""What is to be compressed: a model and data, checked against each other before any work."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quala.architecture import CONFIG
from quala.cost import OFFLINE
from quala.data.spec import DEMO, plain_name
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
PEEKED = 100
"""Rows that tell which kind the data are."""


@dataclass(frozen=True)
class DataKind:
    """Data that are known by their columns.

    `group` is the option of conf/data, as are `other_groups`; of each entry of `columns` the data
    have one name, whose values are lists with `lists`.
    """

    group: str
    tasks: tuple[str, ...]
    columns: tuple[tuple[str, ...], ...]
    other_groups: tuple[str, ...] = ()
    lists: bool = False

    def fits(self, row: Mapping[str, Any]) -> bool:
        """Tell whether data with such a row are of this kind."""
        found = [next((name for name in names if name in row), None) for names in self.columns]
        return all(name and (isinstance(row[name], list) or not self.lists) for name in found)

    def __str__(self) -> str:
        return f"{', '.join(names[0] for names in self.columns)} ({' or '.join(self.tasks)})"


QUESTIONS = DataKind(
    "squad", ("question-answering",), (("question",), ("context",), ("answers",)), ("squad_v2",)
)
LABELED = DataKind("glue", ("classification", "regression"), (LABELS,))
SECOND = ("text_pair", "sentence2", "hypothesis", "question2", "text_b", "#2 String")
SCORED = DataKind("sts", ("embedding",), (SECOND, LABELS))
KINDS = (
    QUESTIONS,
    DataKind(
        "ner",
        ("token-classification",),
        (("tokens", "words", "1"), ("tags", "ner_tags", "labels", "ner", "2")),
        lists=True,
    ),
    LABELED,
    SCORED,
)
"""In the order in which they are tried; a sentence encoder makes `SCORED` of `LABELED` ones. A
kind of data of a new task is an entry here."""
HUB = {
    "rajpurkar/squad": "squad", "squad": "squad", "rajpurkar/squad_v2": "squad_v2",
    "squad_v2": "squad_v2", "nyu-mll/glue": "glue", "glue": "glue", "eriktks/conll2003": "ner",
}  # fmt: skip
_HUB_NAME = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?(@[\w./-]+)?")
_PLAIN = re.compile(r"[A-Za-z0-9_./@:-]+")
_COLUMN = "data.columns."


@dataclass(frozen=True)
class Subject:
    """A model and the data that it is compressed on.

    `words` name both in a command of the workflow; `bare` says that the model has no head for the
    task, so that it must be trained on the data first; `said` tells what was decided, and why.
    """

    model: str
    folder: Path
    task: str
    bare: bool
    words: tuple[str, ...]
    settings: Settings
    said: tuple[str, ...] = ()


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
    kind, group, rows = _kind(data, place, task, words)
    base = joined([EXPERIMENT, f"data={group}", *place], words)
    tracking = settings_of(base).tracking
    folder = _model_folder(model, tracking)
    found, said = _head(folder), list[str]()
    new_head = "model.new_head=true" in words
    encoder = not new_head and (found == "embedding" or (found is None and _encodes(folder)))
    if encoder and task is None and kind is LABELED and _are_scored(rows, words):
        kind, group = SCORED, SCORED.group
        said.append(
            "The model is a sentence encoder, and the data are pairs with a number: this is about "
            "embeddings. `--task regression` trains a head for the number instead."
        )
    wanted = (task,) if task else kind.tasks
    if found is not None and not new_head and found not in wanted:
        raise QualaError(
            f"`{model}` is a model for {found}, the data `{data}` are for "
            f"{' or '.join(wanted)}: give data or a model of the same task; "
            "`model.new_head=true` trains a new head."
        )
    known = found if found in wanted else None
    name = known or (task or kind.tasks[0])
    headless: bool = TASKS.find(name).headless
    bare = (found is None or new_head) and not headless
    option = "model.teacher" if bare or headless else "stage.finetune.given"
    experiment = f"{EXPERIMENT}_embeddings" if name == "embedding" else EXPERIMENT
    ours = [experiment, f"data={group}", *place, override(option, _called(model, folder))]
    if name == "regression":
        ours.append("data.metric=pearson_spearman")  # else whole numbers would be classes
    if kind is QUESTIONS and group != DEMO:
        said += _null_answers(ours, words, folder, bare=bare)
    ours = joined(ours, words)[: -len(words) or None]
    settings = settings_of([*ours, *words])
    return Subject(model, folder, name, bare, tuple(ours), settings, tuple(said))


def _null_answers(ours: list[str], words: Sequence[str], folder: Path, *, bare: bool) -> list[str]:
    """Add `data.unanswerable=keep` to our overrides where a question has no answer, and say so.

    Raises QualaError for a model of quala that was trained without such questions.
    """
    from quala.data.files import IMPOSSIBLE
    from quala.data.read import answers_of, split_rows
    from quala.models.load import stored_facts

    option, facts = "data.unanswerable", {} if bare else stored_facts(folder)
    spec = settings_of(joined(ours, words)).data
    if option not in keys_of(words) and spec.unanswerable != "keep":
        rows = (one for split in (spec.train_split, spec.test_split)
                for one in split_rows(spec, split))  # fmt: skip
        if any(row.get(IMPOSSIBLE) or not answers_of(row, place, offsets=False)[0]
               for place, row in rows):  # fmt: skip
            ours.append(f"{option}=keep")
            spec = replace(spec, unanswerable="keep")
    trained = "null_threshold" in facts or "task" not in facts
    if spec.unanswerable != "keep":
        lost = "The data have an answer to every question: what the model knows of questions "
        return [f"{lost}without one is not kept."] if "null_threshold" in facts else []
    if not trained:
        raise QualaError(
            f"Some questions of `{spec.path or spec.name}` have no answer, and the model was "
            f"trained without such ones: `{option}=drop` leaves them out, `model.new_head=true` "
            "trains the model on them."
        )
    return [
        f"Some questions have no answer (SQuAD 2.0): `{option}=keep` trains and scores them, "
        f"`{option}=drop` leaves them out."
    ]


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
    if revision or name not in HUB:
        named.append(override("data.revision", revision or "null"))
    return named


def _kind(
    data: str, place: Sequence[str], task: str | None, words: Sequence[str]
) -> tuple[DataKind, str, list[Mapping[str, Any]]]:
    """Return the kind of the data, the option of conf/data, and the rows read, if any."""
    if "data.name=demo" in place:
        _check_task(task, QUESTIONS, "the demo set")
        return QUESTIONS, DEMO, []
    given = {word.partition("=")[0]: word.partition("=")[2] for word in words}
    named = given.get("data") or HUB.get(data.partition("@")[0])
    if named is not None:
        found = next((one for one in KINDS if named in (one.group, *one.other_groups)), None)
        if found is None:
            raise QualaError(
                f"`data={named}` is not for `quala compress`; known are "
                f"{', '.join(kind.group for kind in KINDS)}."
            )
        if found is LABELED and task in SCORED.tasks and "data" not in given:
            return SCORED, SCORED.group, []
        _check_task(task, found, f"`data={named}`")
        return found, named, []
    rows = _first_rows(place, words, given)
    if task is None and len(rows) == 1 and isinstance(rows[0].get("3"), list):
        raise QualaError(
            f"The data `{data}` are one sentence of tagged words, without a blank line: "
            "`--task token-classification` takes them so. Triples of a knowledge graph are for "
            "`quala run quala_minilm experiment=triples data.path=FOLDER`."
        )
    asked = [kind for kind in KINDS if task in (None, *kind.tasks)]
    for kind in asked:
        if kind.fits(rows[0]):
            return kind, kind.group, rows
    known = f"`--task {task}` wants" if task else "known are"
    names = asked[0].columns
    lacking = next((one for one in names if not {*one} & rows[0].keys()), names[-1])[0]
    raise QualaError(
        f"The data `{data}` have the columns {', '.join(rows[0])}; {known} "
        f"{'; or '.join(map(str, asked))}. `{_COLUMN}{lacking}=NAME` names a column."
    )


def _check_task(task: str | None, kind: DataKind, what: str) -> None:
    if task not in (None, *kind.tasks):
        raise QualaError(f"`--task {task}` does not fit: {what} is for {' or '.join(kind.tasks)}.")


def _first_rows(
    place: Sequence[str], words: Sequence[str], given: Mapping[str, str]
) -> list[Mapping[str, Any]]:
    """Return the first rows of train, with the names too that `data.columns` gives."""
    from quala.data.read import split_rows  # pyarrow takes a moment to import

    local = any(word.startswith("data.path") for word in place if "=null" not in word)
    kept = [word for word in words if not word.startswith(_COLUMN)]

    def read(group: str) -> list[Mapping[str, Any]]:
        spec = settings_of(joined([EXPERIMENT, f"data={group}", *place], kept)).data
        return [row for _, row in islice(split_rows(spec, spec.train_split), PEEKED)]

    try:
        rows = read("glue" if local or "data.subset" in given else "squad")
    except QualaError:
        if not local:
            raise
        try:
            rows = read("ner")  # CoNLL files, which no other kind may be
        except QualaError:
            rows = []
        if not rows:
            raise
    called = {key.removeprefix(_COLUMN): given[key] for key in given if key.startswith(_COLUMN)}
    return [
        {**row, **{name: row[column] for name, column in called.items() if column in row}}
        for row in rows
    ]


def _are_scored(rows: Sequence[Mapping[str, Any]], words: Sequence[str]) -> bool:
    """Tell whether data are pairs with a number that is no class: one of them is a fraction."""
    if not rows:  # GLUE on the hub
        subsets = [word.partition("=")[2] for word in words if word.startswith("data.subset=")]
        return [plain_name(one) for one in subsets] == ["stsb"]
    column = next(name for name in LABELS if name in rows[0])
    try:
        fractions = any(float(row[column]) % 1 for row in rows if row[column] not in (None, ""))
    except (TypeError, ValueError):  # names
        return False
    return SCORED.fits(rows[0]) and fractions


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
    wanted = ["*.json", "*.safetensors", "*.txt", "*.model", "README.md"]
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


def _head(folder: Path) -> str | None:
    """Return the kind of task that a checkpoint has a head for, None for a bare encoder."""
    from quala.models.labels import is_classifier, is_regression
    from quala.models.load import read_config, stored_facts

    config = read_config(folder)  # refuses what no stage could load
    if facts := stored_facts(folder):
        return str(facts["task"]) if facts.get("task") else None
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


def _encodes(folder: Path) -> bool:
    """Tell whether a model without a head is a sentence encoder, not one that fills masks."""
    from quala.models.load import read_config
    from quala.models.sentence_encoder import is_sentence_encoder

    names = read_config(folder).architectures or []
    return is_sentence_encoder(folder) or any(str(name).endswith("Model") for name in names)
