"""The data of an experiment: the typed form of the `data` config group."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from quala.errors import QualaError, unknown
from quala.plugins import FORMATS
from quala.ranges import LARGEST_SEED, MANY, check_ranges, ranged, text

Choice = Literal["refuse", "drop"]
Unanswerable = Literal["refuse", "drop", "keep"]
Quoting = Literal["detect", "quoted", "plain"]
_CHOICES = {
    "unanswerable": Unanswerable, "misaligned": Choice, "unlabeled": Choice, "quoting": Quoting
}  # fmt: skip
DEMO = "demo"
LATER = {"identity": "if set"}
"""Of options that joined after data were fingerprinted without them."""
LONGEST_INPUT = 8192
"""Tokens of one input: no encoder that is known here reads more."""


def plain_name(name: str) -> str:
    """Return the name of a subset without case, `-` and `_`: that of SST-2 is sst2."""
    return name.lower().replace("-", "").replace("_", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """The windows that long contexts are cut into; sizes in tokens."""

    max_length: int
    """Tokens of a window, special tokens and question included."""
    doc_stride: int
    """Tokens that two neighboring windows share."""
    max_question_length: int = 64
    """Longer questions are cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """Limits of the answers that are decoded."""

    n_best: int = 20
    """Starts and ends of a window that are paired, the best of each."""
    max_answer_length: int = 30
    """Tokens of the longest answer."""
    keep: int | None = None
    """Answers that are returned; None: `n_best`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSpec:
    """The source of the data, its slices and its windows.

    Raises QualaError, one sentence, for values that are unknown or do not fit together.
    """

    task: str = text("line", names=FORMATS)
    """How the source is written: `squad`, `glue`, `tags`, `embed`, `triples`, or another name of
    `quala.plugins.FORMATS`."""
    path: str | None = text("place", None)
    """A folder, or a .parquet, .jsonl, .json (records or SQuAD format), .tsv or .csv file, each
    of them also packed as .gz."""
    name: str | None = text("place", None)
    """A data set on the hub, such as `rajpurkar/squad`, or `demo` for the embedded set."""
    subset: str | None = text("line", None)
    """The GLUE task, such as `sst2`, or a sub-folder of `path`; it also chooses the metric."""
    title: str | None = text("line", None, identity=False)
    """What reports call the data; null: the name in papers, or that of the file or folder."""
    revision: str | None = text("place", None)
    train_split: str = text("place", "train")
    """A split's name or, in a folder, a file's name."""
    test_split: str = text("place", "validation")
    unanswerable: Unanswerable = "refuse"
    """What becomes of questions without an answer; `keep`: they are trained and scored, as in
    SQuAD 2.0, and no answer is a prediction."""
    misaligned: Choice = field(default="refuse", metadata=LATER)
    """What becomes of questions with an answer that is not at its `answer_start`."""
    columns: dict[str, str | None] = text("line", dict, **LATER)
    """The source's name of `text`, `text_pair`, `label`, `tokens`, `tags`, or of a column of
    SQuAD; null: the same."""
    header: bool = field(default=True, metadata=LATER)
    """Whether the first line of TSV and CSV names the columns; without it they are 1, 2, ..."""
    quoting: Quoting = field(default="detect", metadata=LATER)
    """Whether quotes in TSV and CSV enclose fields or are plain text; `detect`: they enclose
    fields in CSV, and in TSV where every quote does."""
    unlabeled: Choice = field(default="refuse", metadata=LATER)
    """What becomes of rows whose label is -1 or missing."""
    labels: tuple[str, ...] = text("line", (), **LATER)
    """Names of the classes in the order of the outputs; none: as the data or the model have it."""
    f1_class: str | None = text("line", None, **LATER)
    """The class that F1 is of, a label or an index; None: 1 of 0 and 1, or a name like `yes`."""
    metric: str | None = text("line", None, **LATER)
    """The primary metric; None: that of GLUE, F1 of entities, Spearman of embeddings."""
    group: str | None = text("line", None, **LATER)
    """The column that names the query of each row, for the metrics of rankings; None with one of
    these: the first text."""
    pooling: str | None = text("line", None, **LATER)
    """`mean` or `cls`, of embeddings; None: as the model has it."""
    negatives: int | None = ranged(None, at_least=1, at_most=1000, identity="if set")
    """False triples for each true one; None: 1, and 5 to train for rankings (KG-BERT)."""
    candidates: int | None = ranged(None, at_least=1, at_most=MANY, identity="if set")
    """Entities that each triple of the test slice is ranked among, drawn; None: all."""
    test_size: float | None = ranged(None, above=0, at_most=MANY, identity="if set")
    """Examples of a single file that test: a count, or a share below 1; None: a tenth."""
    max_length: int = ranged(384, at_least=8, at_most=LONGEST_INPUT)
    """Tokens of one feature, special tokens included."""
    doc_stride: int = ranged(128, at_least=0, at_most=LONGEST_INPUT)
    """Tokens that two neighboring windows share."""
    max_question_length: int = ranged(64, at_least=1, at_most=LONGEST_INPUT)
    max_train: int | None = ranged(None, at_least=1, at_most=MANY)
    max_test: int | None = ranged(None, at_least=1, at_most=MANY)
    search_size: int = ranged(1000, at_least=0, at_most=MANY)
    """Examples cut from train, by article, to compare candidates of a search; at most a fifth."""
    selection_size: int = ranged(1000, at_least=0, at_most=MANY)
    """Examples cut from train, by article, to choose checkpoints; at most a fifth."""
    seed: int = ranged(0, at_least=0, at_most=LARGEST_SEED)
    n_best: int = ranged(20, at_least=1, at_most=1000)
    max_answer_length: int = ranged(30, at_least=1, at_most=LONGEST_INPUT)
    """Tokens of the longest answer that is decoded."""
    pad_to_max: bool = False

    def __post_init__(self) -> None:
        check_ranges(self)
        data_format = FORMATS.find(self.task)
        for name, choice in _CHOICES.items():
            if getattr(self, name) not in get_args(choice):
                raise unknown(f"`{name}` choice", getattr(self, name), get_args(choice))
        if (self.path is None) == (self.name is None):
            raise QualaError(
                f"Data comes from either `path` or `name`, got path={self.path}, name={self.name}."
            )
        if self.train_split == self.test_split:
            raise QualaError(
                f"`train_split` and `test_split` must differ, both are `{self.train_split}`."
            )
        if self.path is None and (not self.header or self.quoting != "detect"):
            raise QualaError("`header` and `quoting` are for TSV and CSV files, got no `path`.")
        mapped = {name: column for name, column in self.columns.items() if column is not None}
        for name in mapped:
            if data_format.columns and name not in data_format.columns:
                raise unknown("key of `columns`", name, data_format.columns)
        object.__setattr__(self, "columns", mapped)
        object.__setattr__(self, "subset", data_format.subset(self))
        if self.test_size is not None and self.test_size >= 1 and self.test_size % 1:
            raise QualaError(
                "`test_size` must be a whole number of examples or a share below 1, "
                f"got {self.test_size:g}."
            )
        if self.labels and len(set(self.labels)) < max(2, len(self.labels)):
            raise QualaError(
                f"`labels` must be two or more different names, got {', '.join(self.labels)}."
            )
        data_format.check(self)

    @property
    def windows(self) -> Windows:
        """The windows that long contexts are cut into."""
        return Windows(
            max_length=self.max_length,
            doc_stride=self.doc_stride,
            max_question_length=self.max_question_length,
        )

    @property
    def decoding(self) -> Decoding:
        """Limits of the answers that are decoded."""
        return Decoding(n_best=self.n_best, max_answer_length=self.max_answer_length)
