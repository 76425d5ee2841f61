"""What is asked of a model of texts, and what it says: labels, values, entities, embeddings."""

from __future__ import annotations

from dataclasses import dataclass, field

from quala.runtime.card import Budget, Layer, check_top, check_words


@dataclass(frozen=True, slots=True, kw_only=True)
class TextQuery:
    """One text or a pair, and the number of labels wanted: 0 for all of them, else at most 100.

    Raises QualaError for text without a visible character, and for text that is not Unicode.
    """

    text: str
    pair: str | None = None
    budget: Budget = field(default_factory=Budget)
    top_k: int = 1
    survivors: bool = False
    """Whether the prediction says which characters each layer kept."""

    def __post_init__(self) -> None:
        check_words("text", self.text)
        if self.pair is not None:
            check_words("pair", self.pair)
        check_top(self.top_k, least=0)


@dataclass(frozen=True, slots=True)
class LabelScore:
    """A label and its probability."""

    label: str
    probability: float


@dataclass(frozen=True, slots=True)
class Tag:
    """An entity: `text[start:end]`, its label, and the mean probability of its words' labels."""

    label: str
    start: int
    end: int
    text: str
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a model says of a text, with the lengths and the time that it took.

    A classifier gives `label` and `scores`, the best first; a regressor gives `value`, a tagger
    `tags`, an embedder `embedding`. `milliseconds` is the time from text to prediction; for one
    query of several, that of all. `note` says where the budget could not be kept, and where the
    text was cut. `layers` are the survivors of the text, `pair_layers` those of the pair. `units`
    are the heads and neurons of each layer, None where all of them ran.
    """

    label: str | None = None
    scores: tuple[LabelScore, ...] = ()
    value: float | None = None
    tags: tuple[Tag, ...] = ()
    embedding: tuple[float, ...] | None = None
    lengths: tuple[int, ...] | None
    windows: int
    milliseconds: float
    note: str | None = None
    layers: tuple[Layer, ...] = ()
    pair_layers: tuple[Layer, ...] = ()
    units: str | None = None


@dataclass(frozen=True, slots=True)
class Ranked:
    """A passage by its place in the list that was given, the best of a ranking first."""

    place: int
    score: float
    prediction: Prediction
