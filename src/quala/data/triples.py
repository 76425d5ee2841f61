"""Triples of a knowledge graph as pairs of texts (KG-BERT, arXiv 1909.03193)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from functools import cached_property
from itertools import product
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from quala.data.features import ClassificationExample, Example
from quala.data.files import Place, Rows, name_of, suffix_of
from quala.data.formats import DataFormat
from quala.data.read import split_rows
from quala.data.slices import subsample
from quala.data.spec import DataSpec
from quala.data.splits import data_files, source_path
from quala.errors import QualaError, unknown
from quala.metrics.glue import CLASSIFICATION_METRICS
from quala.metrics.ranking import HITS
from quala.reading import read_text

if TYPE_CHECKING:
    from quala.data.features import FeatureSet
    from quala.data.task import Task
    from quala.data.tokenize import FastTokenizer

NAMES = ("false", "true")
LINK_METRICS = ("mrr", *HITS)
SIDES = ("head", "tail")
SPLITS = ("train", "training", "validation", "dev", "valid", "val", "test")
TEXTS = ("entity2text", "relation2text")
TRUE, FALSE = ("1", "true"), ("-1", "0", "false")
NEGATIVES, RANKED_NEGATIVES = 1, 5
"""False triples for each true one: the paper's for its classification, and for its rankings."""
DRAWS = 50
"""Drawn at random for one false triple before all are listed. A guess: most graphs need one."""
MOST_INPUTS = 2_000_000
"""Of the rankings of a test slice: more do not fit into memory."""


class Triple(NamedTuple):
    """A fact of a graph, by the names in its files."""

    head: str
    relation: str
    tail: str

    def corrupted(self, side: str, entity: str) -> Triple:
        """Return the triple with another head or tail."""
        return self._replace(**{side: entity})


Labeled = list[tuple[Triple, bool | None]]
"""The triples of a file; None where it has no labels, so that all are true."""


class Triples(DataFormat):
    """Files of `head<TAB>relation<TAB>tail`, with a label or all of them true.

    A pair is the texts of head and relation, `head: relation`, against that of the tail. False
    triples have another head or tail, and are drawn by `data.seed`. Those of train are in no train
    file, those of other splits in no file at all.
    """

    kinds: ClassVar[tuple[str, ...]] = ("classification",)
    columns: ClassVar[tuple[str, ...]] = ("head", "relation", "tail", "label")
    suffixes: ClassVar[tuple[str, ...]] = (".txt", ".tsv")
    subsets: ClassVar[tuple[str, ...] | None] = ()

    def check(self, spec: DataSpec) -> None:
        if spec.path is None:
            raise QualaError(
                f"Triples are read from a folder, `data.path`, got the name `{spec.name}`."
            )
        for option in ("unlabeled", "labels", "f1_class", "group", "pooling", "test_size"):
            if getattr(spec, option) not in ("refuse", (), None):
                raise QualaError(f"`{option}` is not for task `{spec.task}`, got a value.")
        if not spec.header or spec.quoting != "detect":
            raise QualaError("`header` and `quoting` are not for triples, which have neither.")
        known = (*CLASSIFICATION_METRICS, *LINK_METRICS)
        if spec.metric is not None and spec.metric not in known:
            raise unknown("`metric` of triples", spec.metric, known)
        if spec.candidates is not None and spec.metric not in LINK_METRICS:
            raise QualaError(
                "`candidates` are those of rankings, which `data.metric=mrr` scores, got "
                f"{spec.candidates}."
            )

    def known_task(self, spec: DataSpec) -> Task:
        from quala.data.task import Classes

        usual = LINK_METRICS if spec.metric in LINK_METRICS else ("accuracy", "f1")
        return Classes(2, tuple(dict.fromkeys((spec.metric or "accuracy", *usual))), NAMES)

    def beside(self, spec: DataSpec) -> list[Path]:
        """Return the files of texts, and of triples that no false one may be."""
        return [
            file
            for file in data_files(_folder(spec), self.suffixes)
            if suffix_of(file) in self.suffixes and name_of(file)[0].lower() in (*TEXTS, *SPLITS)
        ]

    def own_rows(self, file: Path) -> Rows:
        """Yield the triples of a file of lines, with `label` where it has a fourth column."""
        yield from _lines(file, self.columns, (3, 4))

    def unit(self, example: Example) -> str:
        """Return the triple that an example is of: limits of slices leave none without others."""
        return example.id.partition(" ")[0]

    def read(self, spec: DataSpec, split: str, task: Task | None) -> tuple[list[Example], Task]:
        train, links = split == spec.train_split, spec.metric in LINK_METRICS
        own, graph = _labeled(split_rows(spec, split)), self._graph(spec)
        if links:
            own = [(triple, None) for triple, label in own if label is not False]
        if not train and spec.max_test and len(own) > spec.max_test:
            self.left_out[f"{split}: triples beyond data.max_test"] = len(own) - spec.max_test
            own = subsample(own, spec.max_test, seed=spec.seed)
        random = Random(f"negatives {split} {spec.seed}")
        if links and not train:
            return list(graph.rankings(own, spec.candidates, random)), self.known_task(spec)
        count = RANKED_NEGATIVES if links else NEGATIVES
        count = count if spec.negatives is None else spec.negatives
        known = {triple for triple, label in own if label is not False}
        known = known if train else graph.true
        return list(graph.with_negatives(own, known, count, random)), self.known_task(spec)

    def remarks(self, spec: DataSpec) -> list[str]:
        if spec.metric not in LINK_METRICS:
            return []
        drawn, entities = spec.candidates, len(self._graph(spec).entities)
        among = f"{drawn} drawn ones of {entities}" if drawn else f"all {entities}"
        return [
            f"Heads and tails are ranked among {among} entities, without those that make another "
            "true triple; of equal scores the true one is last."
        ]

    def features(
        self, examples: Sequence[Any], tokenizer: FastTokenizer, spec: DataSpec
    ) -> FeatureSet:
        from quala.data.tokenize import sentence_features

        return sentence_features(examples, tokenizer, max_length=spec.max_length)

    def _graph(self, spec: DataSpec) -> Graph:
        """Return what all files of the folder say; they are read once."""
        key = (spec.path, spec.subset, spec.train_split, spec.test_split)
        if key not in self._graphs:
            files = self.beside(spec)
            rows = [split_rows(spec, split) for split in (spec.train_split, spec.test_split)]
            rows += [self.own_rows(one) for one in files if name_of(one)[0].lower() not in TEXTS]
            texts = {kind: dict[str, str]() for kind in TEXTS}
            for file in files:
                if (kind := name_of(file)[0].lower()) in TEXTS:
                    lines = _lines(file, ("name", "text"), (2,))
                    texts[kind] |= {row["name"]: row["text"] for _, row in lines}
            self._graphs[key] = Graph([one for part in rows for one in _labeled(part)], texts)
        return self._graphs[key]

    @cached_property
    def _graphs(self) -> dict[Any, Graph]:
        return {}


class Graph:
    """The true triples, the entities and the texts of a graph.

    Raises QualaError for texts that are of no entity, or of no relation.
    """

    def __init__(self, labeled: Labeled, texts: Mapping[str, Mapping[str, str]]) -> None:
        self.true = {triple for triple, label in labeled if label is not False}
        named = {
            "entity2text": {name for one, _ in labeled for name in (one.head, one.tail)},
            "relation2text": {one.relation for one, _ in labeled},
        }
        for kind, names in named.items():
            if texts[kind] and not names & texts[kind].keys():
                raise QualaError(
                    f"`{kind}` names none of the graph, such as `{min(names)}`, its first is "
                    f"`{next(iter(texts[kind]))}`."
                )
        self.entities = sorted(named["entity2text"])
        self._entity, self._relation = (texts[kind] for kind in TEXTS)

    def with_negatives(
        self, own: Labeled, known: Set[Triple], count: int, random: Random
    ) -> Iterator[ClassificationExample]:
        """Yield each triple, with `count` false ones where the file has no labels.

        A false triple has another head or tail, is not `known`, and is given once; a triple has
        fewer of them where there are no more.
        """
        given: set[Triple] = set()
        for number, (triple, label) in enumerate(own):
            name = str(number)
            yield self._example(name, name, triple, label is not False)
            for place in range(count if label is None else 0):
                false = self._false(triple, known, given, random)
                if false is None:
                    break
                given.add(false)
                yield self._example(f"{name} {place}", name, false, False)

    def rankings(
        self, own: Labeled, candidates: int | None, random: Random
    ) -> Iterator[ClassificationExample]:
        """Yield each triple among those with other heads, and among those with other tails.

        The others are all entities, or so many drawn ones, that make no true triple ("filtered",
        Bordes et al. 2013). Raises QualaError where these are too many to be held.
        """
        total = 2 * len(own) * min(candidates or MOST_INPUTS, len(self.entities))
        if total > MOST_INPUTS:
            raise QualaError(
                f"{len(own)} triples ranked among {len(self.entities)} entities are {total:,} "
                f"inputs, at most {MOST_INPUTS:,} are held: `data.candidates` draws some, "
                "`data.max_test` leaves triples out."
            )
        for number, (triple, _) in enumerate(own):
            for side in SIDES:
                query = f"{number} {side}"
                others = [
                    false
                    for entity in self.entities
                    if (false := triple.corrupted(side, entity)) not in self.true
                ]
                if candidates is not None:
                    others = random.sample(others, min(candidates, len(others)))
                yield self._example(f"{query} 0", query, triple, True)
                for place, false in enumerate(others, start=1):
                    yield self._example(f"{query} {place}", query, false, False)

    def _false(
        self, triple: Triple, known: Set[Triple], given: Set[Triple], random: Random
    ) -> Triple | None:
        for _ in range(DRAWS):
            false = triple.corrupted(random.choice(SIDES), random.choice(self.entities))
            if false not in known and false not in given:
                return false
        every = (triple.corrupted(*one) for one in product(SIDES, self.entities))
        left = [one for one in every if one not in known and one not in given]
        return random.choice(left) if left else None

    def _example(self, name: str, group: str, triple: Triple, true: bool) -> ClassificationExample:
        head, tail = (self._entity.get(one, readable(one)) for one in (triple.head, triple.tail))
        relation = self._relation.get(triple.relation, readable(triple.relation))
        return ClassificationExample(name, f"{head}: {relation}", tail, int(true), group)


def readable(name: str) -> str:
    """Return the text of a name without one of its own: `location_of` is "location of"."""
    return " ".join(name.replace("_", " ").split())


def _folder(spec: DataSpec) -> Path:
    """Return the folder of a graph. Raises QualaError for a file, which has no splits."""
    folder = source_path(str(spec.path), spec.subset, ())
    if not folder.is_dir():
        raise QualaError(
            f"Triples are a folder with files of train and test, got the file `{folder}`."
        )
    return folder


def _lines(file: Path, columns: Sequence[str], widths: Sequence[int]) -> Rows:
    """Yield the rows of a file of cells between tabs, without a line that names the columns."""
    width = 0
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        cells = [cell.strip() for cell in line.split("\t")]
        named = not width and tuple(cells) == tuple(columns[: len(cells)])
        if named or not line.strip():
            continue
        width = width or len(cells)
        place = Place(str(file), "line", number)
        if len(cells) != width or width not in widths:
            wanted = " or ".join(map(str, (width,) if width in widths else widths))
            raise QualaError(f"{place} has {len(cells)} columns instead of {wanted}.")
        yield place, dict(zip(columns, cells))
    if not width:
        raise QualaError(f"`{file}` holds no rows.")


def _labeled(rows: Rows) -> Labeled:
    """Return the triples of some rows. Raises QualaError for a label that is neither."""
    found: Labeled = []
    for place, row in rows:
        try:
            triple = Triple(*(str(row[name]).strip() for name in Triple._fields))
        except KeyError as error:
            raise unknown(f"column of {place}", error.args[0], row) from error
        label = str(row["label"]).lower() if "label" in row else None
        if label not in (None, *TRUE, *FALSE):
            raise unknown(f"label of {place}", label, (*TRUE, *FALSE))
        found.append((triple, None if label is None else label in TRUE))
    return found
