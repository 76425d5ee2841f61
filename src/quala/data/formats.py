"""Formats of data sets: how each is read and tokenized, and which task it is for.

A specification is checked by its format, so nothing heavy is imported before data are read.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from quala.data.spec import DEMO, DataSpec, plain_name
from quala.errors import QualaError, unknown
from quala.plugins import FORMATS
from quala.reading import expanded

if TYPE_CHECKING:
    from quala.data.features import Example, FeatureSet
    from quala.data.files import Rows
    from quala.data.task import Task
    from quala.data.tokenize import FastTokenizer

# Special tokens of a pair, at most: RoBERTa writes <s> a </s></s> b </s>.
SPECIAL_TOKENS = 4
GLUE = "nyu-mll/glue"
GLUE_SUBSETS = ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli")
"""Those with labels for train and validation."""
OF_TRIPLES = ("negatives", "candidates")
"""Options of knowledge graphs alone."""


class DataFormat(ABC):
    """How a data set is written: `data.task` of a configuration names a subclass."""

    kinds: ClassVar[tuple[str, ...]] = ()
    """The kinds of task that the data may be for; none: any."""
    columns: ClassVar[tuple[str, ...]] = ()
    """The columns that `data.columns` may map; none: any."""
    suffixes: ClassVar[tuple[str, ...]] = ()
    """Suffixes of files that `own_rows` reads, where the format may be written so."""
    subsets: ClassVar[tuple[str, ...] | None] = None
    """The subsets that mean something for data without a sub-folder of that name; None: any."""

    @cached_property
    def left_out(self) -> dict[str, int]:
        """The number of rows that `read` left out, by reason."""
        return {}

    def subset(self, spec: DataSpec) -> str | None:
        """Return the subset of a specification by its usual name."""
        return spec.subset

    def check(self, spec: DataSpec) -> None:
        """Raise QualaError, one sentence, for options that do not fit this format."""
        return

    def known_task(self, spec: DataSpec) -> Task | None:
        """Return the task where it is known before the data are read, else None."""
        return None

    def own_rows(self, file: Path) -> Rows:
        """Yield the rows of a file with one of the `suffixes`: those of CoNLL files."""
        from quala.data.conll import conll_rows

        return conll_rows(file)

    def beside(self, spec: DataSpec) -> list[Path]:
        """Return the files beside those of train and test that `read` reads."""
        return []

    def unit(self, example: Example) -> Hashable:
        """Return what `max_train` and `max_test` count, and leave out as a whole."""
        return example.id

    def remarks(self, spec: DataSpec) -> list[str]:
        """Return what a reader of scores has to know of how the test split is read."""
        return []

    def title(self, spec: DataSpec, examples: Sequence[Example] = ()) -> str:
        """Return what reports call the data: the given title, else that of `data_title`.

        `examples` are those of the test slice.
        """
        subset = self.subset(spec)
        if spec.path and (place := expanded(spec.path)).exists():
            from quala.data.splits import source_path

            subset = None if source_path(spec.path, subset, None) == place else subset
        named = {"name": spec.name, "path": spec.path, "subset": subset}
        return spec.title or data_title(named, examples)

    @abstractmethod
    def read(self, spec: DataSpec, split: str, task: Task | None) -> tuple[list[Example], Task]:
        """Read the examples of a split.

        `task` is that of train. It is None when train itself is read, whose labels may define it.
        Raises QualaError when the split is absent, malformed or empty.
        """

    @abstractmethod
    def features(
        self, examples: Sequence[Any], tokenizer: FastTokenizer, spec: DataSpec
    ) -> FeatureSet:
        """Tokenize examples that this format has read."""


PAPER_NAMES = {"sst2": "SST-2", "stsb": "STS-B", "cola": "CoLA"}
CONTENTS = {
    "f2b06719f5d5e0f404db84c34501f34afc8d4f737123a23952dae908af971194": "SQuAD 1.1",
    "1a899d8ae4de8f003805fdd9b206237451fbece4fff91f05dd07f094b38db085": "CoLA",
    "c8df078146818f34db45d930f84fb8d9dcb915c3dd0c98473db97485e24e3f59": "MRPC",
    "ada42877ae29db7b4bfcd10184764069b9a6ee26a3826dc4296986516c16c900": "RTE",
    "f3a08ecfc13206db98059ed04ee3814e0a93ecb1a8c60126276cdddfc6ad6163": "SST-2",
    "624333cc99406bfff21d34ffb6d2404f822e23f24909e6ffcb093e2afe46901a": "STS-B",
}
"""Names of published test sets by their `content_digest`: they may lie in any folder."""


def data_title(spec: Mapping[str, Any], examples: Sequence[Example] = ()) -> str:
    """Return the name of the data of a specification, as a mapping, that gives no title.

    A set known by its name on the hub, or by the texts of its test examples, has the papers'
    name. Any other has the name of its file, folder or set, with the subset that was read.
    """
    name, subset = spec["name"], spec["subset"]
    if name in ("rajpurkar/squad", "squad"):
        return "SQuAD 1.1"
    if name in ("rajpurkar/squad_v2", "squad_v2"):
        return "SQuAD 2.0"
    if name in (GLUE, "glue") and subset:
        return PAPER_NAMES.get(subset, str(subset).upper())
    place = str(name or Path(spec["path"]).absolute().name)
    own = " ".join(filter(None, [place, subset]))
    return CONTENTS.get(content_digest(examples), own) if examples else own


def content_digest(examples: Sequence[Example]) -> str:
    """Return the SHA-256 of the examples' texts and labels, whatever their order and spaces."""
    keys = ("question", "context", "text", "text_pair", "answers", "label")
    lines = (
        "|".join(" ".join(str(getattr(one, key, "")).split()) for key in keys) for one in examples
    )
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def format_of(spec: DataSpec) -> DataFormat:
    """Return the format of a specification."""
    found: DataFormat = FORMATS.find(spec.task)
    return found


def _refuse(spec: DataSpec, *options: str) -> None:
    """Raise QualaError for an option of another kind of task."""
    for option in options:
        if getattr(spec, option) not in ("refuse", (), None):
            raise QualaError(f"`{option}` is not for task `{spec.task}`, got a value.")


class Squad(DataFormat):
    """Questions about a context with their answers, as SQuAD writes them, or the demo set."""

    kinds = ("question-answering",)
    columns = ("id", "title", "context", "question", "answers", "is_impossible")
    subsets = ()

    def check(self, spec: DataSpec) -> None:
        if spec.name == DEMO and (spec.columns or spec.misaligned != "refuse"):
            raise QualaError("`columns` and `misaligned` are not for the demo set.")
        for option in ("unlabeled", "labels", "f1_class", "metric"):
            if getattr(spec, option) not in ("refuse", (), None):
                raise QualaError(
                    f"`{option}` is for classes, which task `{spec.task}` does not have."
                )
        _refuse(spec, "group", "pooling", *OF_TRIPLES)
        window = spec.max_length - spec.max_question_length - SPECIAL_TOKENS
        if spec.doc_stride >= window:
            raise QualaError(
                f"`doc_stride` must be below max_length - max_question_length - {SPECIAL_TOKENS} "
                f"= {window}, got {spec.doc_stride}."
            )

    def known_task(self, spec: DataSpec) -> Task:
        from quala.data.task import Span

        return Span(decoding=spec.decoding, null=spec.unanswerable == "keep")

    def read(self, spec: DataSpec, split: str, task: Task | None) -> tuple[list[Example], Task]:
        from quala.data.demo import demo_examples
        from quala.data.read import read_squad

        if spec.name == DEMO:
            train, test = demo_examples()
            return list(train if split == spec.train_split else test), self.known_task(spec)
        return list(read_squad(spec, split, left_out=self.left_out)), self.known_task(spec)

    def features(
        self, examples: Sequence[Any], tokenizer: FastTokenizer, spec: DataSpec
    ) -> FeatureSet:
        from quala.data.tokenize import qa_features

        return qa_features(
            examples,
            tokenizer,
            spec.windows,
            max_answer_length=spec.max_answer_length,
            null=spec.unanswerable == "keep",
        )


class Glue(DataFormat):
    """Sentences or pairs with a class or a number, as GLUE writes them."""

    kinds = ("classification", "regression")
    columns = ("text", "text_pair", "label")
    subsets = GLUE_SUBSETS

    def subset(self, spec: DataSpec) -> str | None:
        """Return the name of a GLUE task as the hub writes it, `sst2` for SST-2."""
        if spec.subset is None or spec.name not in (None, GLUE):
            return spec.subset
        plain = plain_name(spec.subset)
        return plain if plain in GLUE_SUBSETS else spec.subset

    def check(self, spec: DataSpec) -> None:
        if spec.name == DEMO:
            raise QualaError(f"The demo set is a squad task, got task `{spec.task}`.")
        if spec.name is not None and not spec.subset:
            raise QualaError(f"`{spec.name}` needs a `subset`, for example sst2, got none.")
        if spec.name == GLUE and spec.subset not in GLUE_SUBSETS:
            raise unknown(f"`subset` of {GLUE}", spec.subset, GLUE_SUBSETS)
        _refuse(spec, "pooling", *OF_TRIPLES)
        if spec.metric is not None:
            from quala.metrics.glue import METRICS

            if spec.metric not in METRICS:
                raise unknown("`metric`", spec.metric, METRICS)

    def read(self, spec: DataSpec, split: str, task: Task | None) -> tuple[list[Example], Task]:
        from quala.data.read import read_glue

        examples, found = read_glue(spec, split, task=task, left_out=self.left_out)
        return list(examples), found

    def features(
        self, examples: Sequence[Any], tokenizer: FastTokenizer, spec: DataSpec
    ) -> FeatureSet:
        from quala.data.tokenize import sentence_features

        return sentence_features(examples, tokenizer, max_length=spec.max_length)


class TaggedWords(DataFormat):
    """Sentences as words with a tag each: CoNLL files, or rows of `tokens` and `tags`."""

    kinds = ("token-classification",)
    columns = ("tokens", "tags")
    suffixes = (".conll", ".txt", ".iob", ".iob2", ".bio", ".bioes")

    def check(self, spec: DataSpec) -> None:
        if spec.name == DEMO:
            raise QualaError(f"The demo set is a squad task, got task `{spec.task}`.")
        _refuse(spec, "unlabeled", "f1_class", "group", "pooling", *OF_TRIPLES)
        if spec.doc_stride >= spec.max_length - SPECIAL_TOKENS:
            raise QualaError(
                f"`doc_stride` must be below max_length - {SPECIAL_TOKENS} = "
                f"{spec.max_length - SPECIAL_TOKENS}, got {spec.doc_stride}."
            )
        if spec.metric is not None:
            from quala.data.task_tags import ENTITY_METRICS, TAG_METRICS

            allowed = tuple(dict.fromkeys((*ENTITY_METRICS, *TAG_METRICS)))
            if spec.metric not in allowed:
                raise unknown("`metric` of tags", spec.metric, allowed)

    def read(self, spec: DataSpec, split: str, task: Task | None) -> tuple[list[Example], Task]:
        from quala.data.tags import read_tags

        known: Any = task
        examples, found = read_tags(spec, split, task=known, left_out=self.left_out)
        return list(examples), found

    def features(
        self, examples: Sequence[Any], tokenizer: FastTokenizer, spec: DataSpec
    ) -> FeatureSet:
        from quala.data.tags import tag_features

        return tag_features(examples, tokenizer, spec)


class ScoredPairs(DataFormat):
    """Pairs of texts with a number that says how similar they are, as STS-B writes them."""

    kinds = ("embedding",)
    columns = ("text", "text_pair", "label")
    subsets = ("stsb",)

    def check(self, spec: DataSpec) -> None:
        if spec.name == DEMO:
            raise QualaError(f"The demo set is a squad task, got task `{spec.task}`.")
        _refuse(spec, "labels", "f1_class", "group", *OF_TRIPLES)
        if spec.metric is not None:
            from quala.data.task_embed import EMBEDDING_METRICS

            if spec.metric not in EMBEDDING_METRICS:
                raise unknown("`metric` of embeddings", spec.metric, EMBEDDING_METRICS)
        self.known_task(spec)  # checks the pooling

    def known_task(self, spec: DataSpec) -> Task:
        from quala.data.task_embed import EMBEDDING_METRICS, Embedding

        first = (spec.metric,) if spec.metric else ()
        metrics = tuple(dict.fromkeys((*first, *EMBEDDING_METRICS)))
        return Embedding(metrics=metrics, pooling=spec.pooling)  # type: ignore[arg-type]

    def read(self, spec: DataSpec, split: str, task: Task | None) -> tuple[list[Example], Task]:
        from quala.data.read import read_glue
        from quala.data.task import Value

        examples, _ = read_glue(spec, split, task=Value(), left_out=self.left_out)
        if any(one.text_pair is None for one in examples):
            raise QualaError(
                "Embeddings are scored on pairs of texts with a number, got single texts; "
                "`data.columns.text` and `data.columns.text_pair` name the columns."
            )
        return list(examples), self.known_task(spec)

    def features(
        self, examples: Sequence[Any], tokenizer: FastTokenizer, spec: DataSpec
    ) -> FeatureSet:
        from quala.data.tokenize import paired_features

        return paired_features(examples, tokenizer, max_length=spec.max_length)
