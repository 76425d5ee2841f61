"""Queries, budgets and replies of an answering model, and the card of its export."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from numbers import Real
from operator import index
from pathlib import Path
from typing import Any

import numpy as np

from quala.architecture import LONGEST, Architecture
from quala.cost import macs, padded_macs, part_of
from quala.data.decode import Answer
from quala.data.spec import Decoding, Windows
from quala.errors import QualaError
from quala.lengths import LengthConfig, Units, layers_name, read_layers
from quala.manifest import check_folder
from quala.metrics.interval import Bounds
from quala.ranges import ranged
from quala.stored import read_object, typed


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What one input may cost: at most one of milliseconds, MACs, share of the work, lengths.

    Without a limit the full length is used. `keep` is a share of the full length's MACs. Where no
    point of the front is cheap enough, the cheapest one is used, unless `strict` forbids it.
    `layers` goes with `lengths`, or alone at full length: the heads and neurons of each layer, as
    the card writes them, of an export that was made for them. Raises QualaError for two limits at
    once, and for limits that are no numbers above 0.
    """

    ms: float | None = None
    macs: float | None = None
    keep: float | None = None
    lengths: Sequence[int] | None = None
    strict: bool = False
    layers: str | None = None

    def __post_init__(self) -> None:
        named = {"ms": self.ms, "macs": self.macs, "keep": self.keep, "lengths": self.lengths}
        given = [name for name, value in named.items() if value is not None]
        given += ["layers"] * (self.layers is not None and self.lengths is None)
        if len(given) > 1:
            raise QualaError(
                f"A budget is one of ms, macs, keep, lengths; got {', '.join(given)}."
            )
        if self.layers is not None and (not isinstance(self.layers, str) or not self.layers):
            raise QualaError(f"A budget's `layers` must be text as 6x768, got {self.layers!r}.")
        for name in ("ms", "macs", "keep"):
            value = getattr(self, name)
            number = value is not True and isinstance(value, Real)
            if value is not None and not (number and 0 < value < math.inf):
                raise QualaError(f"A budget's `{name}` must be a number above 0, got {value!r}.")
        if self.keep is not None and self.keep > 1:
            raise QualaError(f"A budget's `keep` is a share, at most 1, got {self.keep}.")
        try:
            whole = None if self.lengths is None else tuple(map(index, self.lengths))
        except TypeError as error:
            wrong = f"A budget's `lengths` must be whole numbers, got {self.lengths!r}."
            raise QualaError(wrong) from error
        object.__setattr__(self, "lengths", whole)


MOST_ANSWERS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One question about one context, and the number of answers wanted, at most 100.

    Raises QualaError for text without a visible character, and for text that is not Unicode.
    """

    question: str
    context: str
    budget: Budget = field(default_factory=Budget)
    top_k: int = 1
    survivors: bool = False
    """Whether the reply says which characters of the context each layer kept."""

    def __post_init__(self) -> None:
        check_words("question", self.question)
        check_words("context", self.context)
        check_top(self.top_k, least=1)


def check_words(what: str, value: object) -> None:
    """Raise QualaError for what is no text, and for text without a visible character."""
    if not isinstance(value, str):
        raise QualaError(f"The {what} must be text, got {type(value).__name__}.")
    if half := re.search("[\ud800-\udfff]", value):
        raise QualaError(f"The {what} is not valid Unicode at character {half.start()}.")
    if not value.strip():
        raise QualaError(f"The {what} is empty.")
    if not any(one.isprintable() and one != " " for one in value):
        raise QualaError(f"The {what} has no words, only invisible characters.")


def check_top(top: object, *, least: int) -> None:
    """Raise QualaError for a `top_k` that is no whole number from `least` to 100."""
    whole = top is not True and isinstance(top, int | np.integer)
    if not whole or not least <= top <= MOST_ANSWERS:  # type: ignore[operator]
        raise QualaError(
            f"`top_k` must be a whole number from {least} to {MOST_ANSWERS}, got {top!r}."
        )


@dataclass(frozen=True, slots=True)
class Layer:
    """The tokens that a layer kept, and their character ranges in the context."""

    kept: int
    tokens: int
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """Answers, the best first, with the lengths and the time that they took.

    `milliseconds` is the time from text to answer; for one query of several, that of all. `note`
    says where the budget could not be kept, and where the question was cut. `no_answer` is the
    probability that the text does not answer the question, None for a model that was not trained
    for it; there are no answers where it is above one half. `units` are the heads and neurons of
    each layer, None where all of them ran.
    """

    answers: tuple[Answer, ...]
    lengths: tuple[int, ...] | None
    windows: int
    milliseconds: float
    note: str | None = None
    layers: tuple[Layer, ...] = ()
    no_answer: float | None = None
    units: str | None = None


FILE = "quala.json"
LOADED = (FILE, "model.onnx", "tokenizer.json", "tokenizer_config.json")
"""Files of an export that are read; what else lies there is for people and other tools."""
FORMAT = 1
KIND = "export"
SHIPPED = Path(__file__).parent.parent / "pretrained"


def shipped() -> dict[str, Path]:
    """Return the folders of the exports that come with the package, by name."""
    return {file.parent.name: file.parent for file in sorted(SHIPPED.glob(f"*/{FILE}"))}


def model_folder(model: str | Path, say: Callable[[str], object]) -> Path | None:
    """Return the folder of this path, or of the model that comes with quala by this name.

    A folder wins, and where both exist `say` is called with a sentence. A `Path` is no name.
    """
    own = shipped().get(model) if isinstance(model, str) else None
    if not Path(model).is_dir():
        return own
    if own:
        say(f"`{model}` is the folder here, not the model of that name that comes with quala.")
    return Path(model)


@dataclass(frozen=True, slots=True)
class Point:
    """One point of the front: lengths, the score that they reach, and what they cost.

    `score` is percent on the test set, None where it was not measured; `ms` maps tokens of an
    input to milliseconds on the machine that exported. `interval` is the score's at 95 %, over
    `examples`; `speedups` are over the models named, as they were measured beside it. One point
    may be `chosen`: by the search, for what it loses.
    """

    lengths: LengthConfig
    score: float | None
    macs_padded: int = ranged(at_least=0)
    macs_mean: float = ranged(at_least=0)
    ms: Mapping[int, float] = field(default_factory=dict)
    examples: int | None = None
    interval: Bounds | None = None
    speedups: Mapping[str, float] = field(default_factory=dict)
    chosen: bool = False

    @classmethod
    def unmeasured(cls, arch: Architecture, lengths: LengthConfig) -> Point:
        """Return the point of some lengths: without a score, and with the cost of a full input.

        Raises QualaError for lengths that do not fit the model.
        """
        padded = padded_macs(arch, lengths)
        return cls(lengths, None, padded, float(padded))

    @property
    def units(self) -> str | None:
        """The heads and neurons of each layer as text, None where all of them run."""
        return layers_name(self.lengths.layers) if self.lengths.layers else None

    def macs(self, arch: Architecture, tokens: Sequence[int]) -> int:
        """Return the MACs of inputs of these token counts together."""
        part, small = part_of(arch, self.lengths.layers), self.lengths.extracted
        # Nearly all windows of a long text have the same count.
        return sum(
            times * macs(part, small.kept(count), count)
            for count, times in Counter(tokens).items()
        )

    def milliseconds(self, tokens: Sequence[int]) -> float:
        """Predict the time of inputs of these token counts: linear between measured counts.

        Beyond the longest measured count it is proportional to the tokens.
        """
        known = sorted(self.ms)
        times = [self.ms[count] for count in known]
        inside = np.interp(tokens, known, times)
        beyond = np.maximum(1.0, np.asarray(tokens) / known[-1])
        return float((inside * beyond).sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredData:
    """The data that scores are of: their title, and their name on the hub if they are there."""

    title: str
    name: str = ""
    subset: str = ""
    split: str = ""


_APART = ("arch", "front", "test", "timing", "provenance")
_WHERE_SET = ("labels", "null_threshold", "languages", "datasets", "base_model")


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """The facts of an export."""

    name: str
    task: str
    metric: str
    precision: str
    significance: str
    sequence_length: int = ranged(at_least=2, at_most=LONGEST)
    doc_stride: int = ranged(at_least=0, at_most=LONGEST)
    max_question_length: int = ranged(at_least=1, at_most=LONGEST)
    max_answer_length: int = ranged(at_least=1, at_most=LONGEST)
    n_best: int = ranged(at_least=1, at_most=LONGEST)
    arch: Architecture
    front: tuple[Point, ...]
    """From the full length to the cheapest."""
    timing: Mapping[str, Any] = field(default_factory=dict)
    """Runtime, threads, processor and conditions that `ms` was measured with."""
    provenance: Mapping[str, str] = field(default_factory=dict)
    licence: str = "not stated"
    labels: tuple[str, ...] = ()
    """The labels of a classifier, in the order of the outputs; none where these have no names."""
    null_threshold: float | None = None
    """No answer is given where [CLS] is ahead of the best answer by more; None: one always is."""
    languages: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    """Names on the hub of the data that the model was trained on, as far as they are known."""
    base_model: str = ""
    """The name on the hub of the model that this one was made of."""
    test: MeasuredData | None = None

    @property
    def full(self) -> Point:
        """The point that drops nothing."""
        return self.front[0]

    @property
    def windows(self) -> Windows:
        """How long contexts are cut."""
        return Windows(
            max_length=self.sequence_length,
            doc_stride=self.doc_stride,
            max_question_length=self.max_question_length,
        )

    @property
    def decoding(self) -> Decoding:
        """Limits of the answers that are decoded."""
        return Decoding(n_best=self.n_best, max_answer_length=self.max_answer_length)

    @property
    def timed(self) -> bool:
        """Whether every point has a time."""
        return all(point.ms for point in self.front)

    def choose(
        self, budget: Budget, tokens: Sequence[int], *, pace: float = 1.0
    ) -> tuple[Point, str | None]:
        """Return the best point that the budget allows for inputs of these token counts.

        `pace` is how many times slower this machine is than the one that exported. The second
        value is a sentence where no point is cheap enough and the cheapest one is returned.
        Raises QualaError for that under `strict`, for lengths that do not fit the model, and for
        layers that the export was not made for.
        """
        if budget.lengths is not None or budget.layers is not None:
            return Point.unmeasured(self.arch, self._asked(budget)), None
        if budget.ms is budget.macs is budget.keep is None:
            return self.full, None
        costs, limit, unit = self._costs(budget, tokens, pace)
        able = [point for point, cost in zip(self.front, costs, strict=True) if cost <= limit]
        if able:
            return max(able, key=lambda point: (_rank(point), -point.macs_mean)), None
        least = int(np.argmin(costs))
        sentence = (
            f"No point of the front costs at most {limit:,.4g} {unit}; the cheapest costs "
            f"{costs[least]:,.4g}."
        )
        if budget.strict:
            raise QualaError(sentence)
        return self.front[least], sentence

    def _asked(self, budget: Budget) -> LengthConfig:
        count, full = self.arch.layers, self.full.lengths
        layers = read_layers(budget.layers, layers=count) if budget.layers else ()
        if layers == tuple(Units(size.heads, size.intermediate) for size in self.arch.sizes):
            layers = ()
        known = dict.fromkeys(point.units for point in self.front if point.units)
        if layers and layers_name(layers) not in known:
            made = ", ".join(known) or "no smaller ones"
            raise QualaError(
                f"The layers `{budget.layers}` are none that this export was made for: {made}."
            )
        if budget.lengths is None:
            return full.of(layers)
        return LengthConfig(tuple(budget.lengths), self.sequence_length, layers)

    def _costs(
        self, budget: Budget, tokens: Sequence[int], pace: float
    ) -> tuple[list[float], float, str]:
        if budget.ms is not None:
            if not self.timed:
                raise QualaError(
                    "This export holds no times, so it cannot keep a budget in ms: give MACs, "
                    "`keep` or lengths."
                )
            return [pace * p.milliseconds(tokens) for p in self.front], budget.ms, "ms"
        work = [float(point.macs(self.arch, tokens)) for point in self.front]
        if budget.keep is not None:
            return work, budget.keep * work[0], "MACs"
        assert budget.macs is not None  # the one kind of budget that is left
        return work, budget.macs, "MACs"

    def to_json(self) -> dict[str, Any]:
        """Return the card as plain values."""
        points = [
            {
                "lengths": list(point.lengths.lengths),
                **({"layers": point.units} if point.units else {}),
                self.metric: point.score,
                "macs_padded": point.macs_padded,
                "macs_mean": point.macs_mean,
                "gmacs": point.macs_mean / 1e9,
                "ms": {str(count): value for count, value in point.ms.items()},
                "examples": point.examples,
                "interval": point.interval,
                "speedups": dict(point.speedups),
                **({"chosen": True} if point.chosen else {}),
            }
            for point in self.front
        ]
        facts = {name: getattr(self, name) for name in self.__slots__ if name not in _APART}
        for name in _WHERE_SET:
            if facts[name] in ((), "", None):
                del facts[name]
        return {
            "format": FORMAT,
            "kind": KIND,
            **{name: list(one) if isinstance(one, tuple) else one for name, one in facts.items()},
            **({"test": asdict(self.test)} if self.test else {}),
            "arch": {k: v for k, v in asdict(self.arch).items() if v or k != "relative"},
            "timing": dict(self.timing),
            "provenance": dict(self.provenance),
            "front": points,
        }

    @classmethod
    def read(cls, folder: Path) -> Card:
        """Read quala.json, and compare the files that are loaded with the manifest.

        An export of an older version has no manifest. Raises QualaError when the card is missing,
        damaged or no export's, and for files that are not those that were written.
        """
        file = folder / FILE
        try:
            facts = read_object(file)
        except QualaError as error:
            raise QualaError(f"`{folder}` is no export: {error}") from error
        if facts.get("kind") != KIND:
            raise QualaError(f"`{folder}` is no export: make one with `quala export {folder}`.")
        check_folder(folder, LOADED)
        if facts.get("format") != FORMAT:
            raise QualaError(
                f"`{file}` has format {facts.get('format')}, this version reads {FORMAT}."
            )
        try:
            card = cls._from_json(facts)
            card._check()
        except QualaError as error:
            raise QualaError(f"`{file}` is damaged: {error}") from error
        return card

    @classmethod
    def _from_json(cls, facts: Mapping[str, Any]) -> Card:
        points = typed(list[Mapping[str, Any]], facts.get("front"), "front")
        metric, longest = typed(str, facts.get("metric"), "metric"), facts.get("sequence_length")
        front = []
        for point in points:
            score = {"score": point[metric]} if metric in point else {}
            lengths = {"lengths": point.get("lengths"), "sequence_length": longest}
            if "layers" in point:
                count = len(typed(list[int], point.get("lengths"), "lengths"))
                units = read_layers(typed(str, point["layers"], "layers"), layers=count)
                lengths["layers"] = [one and asdict(one) for one in units]
            front.append({**point, **score, "lengths": lengths})
        card: Card = typed(cls, {**facts, "front": front})
        return card

    def _check(self) -> None:
        """Raise QualaError for facts that contradict each other."""
        layers, longest = self.arch.layers, self.sequence_length
        if not self.front or not self.full.lengths.is_full:
            raise QualaError("the first point of `front` must be the full length.")
        for place, point in enumerate(self.front):
            if len(point.lengths.lengths) != layers:
                raise QualaError(f"`front[{place}].lengths` must have {layers} lengths.")
            try:
                part_of(self.arch, point.lengths.layers)
            except QualaError as error:
                raise QualaError(f"`front[{place}].layers`: {error}") from error
            if any(count < 1 or time <= 0 for count, time in point.ms.items()):
                raise QualaError(f"`front[{place}].ms` must hold times above 0 by tokens.")
        if longest > self.arch.longest:
            raise QualaError(
                f"`sequence_length` is {longest}, the model reads {self.arch.longest} tokens."
            )
        if self.labels and len(self.labels) != self.arch.outputs:
            raise QualaError(f"`labels` must be {self.arch.outputs}, got {len(self.labels)}.")


def _rank(point: Point) -> float:
    """Return the score; without scores a point that costs more ranks higher."""
    return point.macs_mean / 1e12 if point.score is None else point.score
