"""Labels, values, entities and embeddings of texts, within budgets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported import LABELS, ExportOf, FakeEngine
from numpy.typing import NDArray

from quala.data.decode import NotFinite
from quala.data.features import ClassificationExample, TaggedExample
from quala.data.spec import DataSpec
from quala.data.tags import tag_features
from quala.data.tokenize import sentence_features
from quala.errors import QualaError
from quala.runtime.answerer import load
from quala.runtime.card import Budget
from quala.runtime.prediction import TextQuery
from quala.runtime.predictor import Work
from quala.runtime.texts import WORDS, Classifier, Embedder, Regressor, Tagger, TextPredictor

TEXT, PAIR = "The report was written by Anna.", "It was printed in Paris, in 1999."
LONG = "It was printed in Paris. " * 20


@pytest.fixture(scope="module")
def classifier(export_of: ExportOf) -> Classifier:
    model = load(export_of("classification"))
    assert isinstance(model, Classifier)
    return model


@pytest.fixture(scope="module")
def regressor(export_of: ExportOf) -> Regressor:
    model = load(export_of("regression"))
    assert isinstance(model, Regressor)
    return model


def test_a_classifier_gives_its_labels_best_first(classifier: Classifier) -> None:
    found = classifier.predict(TEXT, PAIR, top_k=0)
    assert sorted(one.label for one in found.scores) == sorted(LABELS)
    shares = [one.probability for one in found.scores]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1)
    assert found.label == found.scores[0].label
    assert (found.note, found.windows, found.lengths) == (None, 1, (64, 64))
    assert classifier.predict(TEXT, PAIR, top_k=2).scores == found.scores[:2]


@pytest.mark.parametrize("pair", [None, PAIR])
def test_predictions_are_those_of_the_model(
    classifier: Classifier, regressor: Regressor, pair: str | None
) -> None:
    for model in (classifier, regressor):
        example = ClassificationExample("0", TEXT, pair)
        features = sentence_features([example], model.tokenizer, max_length=64)
        logits = model.engine.logits(features.arrays([0]), None)[0].astype(np.float64)
        found = model.predict(TEXT, pair, top_k=0)
        if isinstance(model, Regressor):
            assert found.value == pytest.approx(logits[0], abs=1e-6)
        else:
            shares = np.exp(logits) / np.exp(logits).sum()
            said = {one.label: one.probability for one in found.scores}
            assert [said[label] for label in LABELS] == pytest.approx(shares, abs=1e-6)


@pytest.mark.parametrize("model", ["classifier", "regressor"])
def test_a_batch_equals_single_predictions(model: str, request: pytest.FixtureRequest) -> None:
    predictor: TextPredictor = request.getfixturevalue(model)
    pairs = [None, PAIR, LONG, None]
    budgets = [Budget(), Budget(keep=0.6), Budget(lengths=(40, 20)), Budget(ms=1e6)]
    queries = [
        TextQuery(text=TEXT * (1 + 9 * (pair is None)), pair=pair, budget=budget)
        for pair, budget in zip(pairs, budgets)
    ]
    for found, query in zip(predictor.predict_batch(queries), queries, strict=True):
        (alone,) = predictor.predict_batch([query])
        assert (found.lengths, found.label, found.note) == (
            alone.lengths, alone.label, alone.note,
        )  # fmt: skip
        assert found.value == (alone.value and pytest.approx(alone.value, abs=1e-5))


def test_what_is_cut_is_said(classifier: Classifier) -> None:
    found = classifier.predict(LONG)
    assert found.note == "The text has 202 tokens, of which the model reads 64."
    assert found.windows == 1
    note = classifier.predict(TEXT, LONG, keep=1e-9).note or ""
    assert note.startswith("No point of the front costs at most")
    assert note.endswith(" tokens, of which the model reads 64.")
    assert "The two texts have 2" in note


def test_a_budget_in_time_takes_the_point_that_fits(classifier: Classifier) -> None:
    classifier.pace(1.0)
    assert classifier.predict(LONG, budget_ms=5.0).lengths == (40, 20)
    assert classifier.predict(LONG, budget_ms=9.0).lengths == (64, 64)
    classifier.pace(0.5)
    assert classifier.predict(LONG, budget_ms=5.0).lengths == (64, 64)


def test_survivors_of_both_texts(classifier: Classifier) -> None:
    query = TextQuery(text=TEXT, pair=PAIR, budget=Budget(lengths=(40, 20)), survivors=True)
    (found,) = classifier.predict_batch([query])
    assert len(found.layers) == len(found.pair_layers) == 2
    last, pair = found.layers[1], found.pair_layers[1]
    kept = [TEXT[start:end] for start, end in last.spans]
    kept += [PAIR[start:end] for start, end in pair.spans]
    assert all(kept)
    # the special tokens that were kept are no characters
    assert pair.kept - 3 <= len(kept) <= last.kept < last.tokens
    assert not classifier.predict(TEXT).layers


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        (("",), "The text is empty"),
        (("a", " "), "The pair is empty"),
        ((3,), "The text must be text, got int"),
        (("\u200b",), "The text has no words"),
        (("[SEP]",), "The tokenizer finds no words in the text"),
        (("a", "[SEP]"), "The tokenizer finds no words in the pair"),
    ],
)
def test_texts_without_words_are_refused(
    classifier: Classifier, texts: Any, sentence: str
) -> None:
    with pytest.raises(QualaError, match=sentence):
        classifier.predict(*texts)


def test_what_the_vocabulary_lacks_is_a_word(classifier: Classifier) -> None:
    ids = classifier.tokenizer.backend.encode("👍", add_special_tokens=False).ids
    assert ids == [classifier.tokenizer.unknown]
    assert classifier.predict("👍", "👍👍").label in LABELS


@pytest.mark.parametrize("top", [-1, 101, True, 1.5])
def test_labels_wanted_are_0_to_100(classifier: Classifier, top: Any) -> None:
    with pytest.raises(QualaError, match="`top_k` must be a whole number from 0 to 100"):
        classifier.predict(TEXT, top_k=top)


def test_a_ranking_is_sorted(classifier: Classifier, regressor: Regressor) -> None:
    passages = [PAIR, LONG, "Anna wrote it.", PAIR]
    for found in (
        regressor.rank(TEXT, passages),
        classifier.rank(TEXT, passages, label="fair", budget=Budget(keep=0.6)),
    ):
        assert sorted(one.place for one in found) == [0, 1, 2, 3]
        scores = [one.score for one in found]
        assert scores == sorted(scores, reverse=True)
        places = [one.place for one in found]
        assert places.index(3) == places.index(0) + 1  # equal ones in their order
    best = regressor.rank(TEXT, passages)[0]
    alone = regressor.predict(TEXT, passages[best.place]).value
    assert best.score == pytest.approx(alone, abs=1e-6)


def test_a_ranking_needs_a_label(
    classifier: Classifier, regressor: Regressor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(QualaError, match="Which label to rank by"):
        classifier.rank(TEXT, [PAIR])
    with pytest.raises(QualaError, match=r"Unknown label `god`\. Did you mean `good`"):
        classifier.rank(TEXT, [PAIR], label="god")
    with pytest.raises(QualaError, match="no label `good`"):
        regressor.rank(TEXT, [PAIR], label="good")
    named = replace(classifier.facts, labels=("irrelevant", "no idea", "relevant"))
    monkeypatch.setattr(classifier, "facts", named)
    (found,) = classifier.rank(TEXT, [PAIR])
    (wanted,) = classifier.rank(TEXT, [PAIR], label="relevant")
    assert found.score == wanted.score


ENTITIES = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
OF_WORD = {"anna": 1, "lee": 2, "paris": 3, "new": 3, "york": 4}


@pytest.fixture
def tagger(classifier: Classifier) -> Tagger:
    """A tagger that knows names by their first token, and is wrong on all other tokens."""
    vocabulary = classifier.tokenizer.backend.get_vocab()
    first = {
        classifier.tokenizer.backend.encode(word, add_special_tokens=False).ids[0]: place
        for word, place in OF_WORD.items()
    }
    inner = [number for word, number in vocabulary.items() if word.startswith("##")]

    def outputs(ids: NDArray[np.int64]) -> NDArray[np.float64]:
        labels = np.vectorize(lambda one: first.get(one, 0))(ids)
        labels[np.isin(ids, inner)] = 2
        return 3.0 * np.eye(len(ENTITIES))[labels]

    arch = replace(classifier.facts.arch, outputs=len(ENTITIES))
    card = replace(classifier.facts, task=Tagger.task, labels=ENTITIES, arch=arch)
    return Tagger(card, classifier.tokenizer, FakeEngine(outputs))


def test_entities_are_pieces_of_the_text(tagger: Tagger) -> None:
    text = "(Anna Lee) flew from Paris,  to New York."
    tags = tagger.predict(text).tags
    assert [(one.label, one.text) for one in tags] == [
        ("PER", "Anna Lee"), ("LOC", "Paris"), ("LOC", "New York"),
    ]  # fmt: skip
    for one in tags:
        assert text[one.start : one.end] == one.text
        assert one.probability == pytest.approx(np.exp(3) / (np.exp(3) + 4))


def test_entities_of_a_long_text_are_those_of_its_windows(tagger: Tagger) -> None:
    text = "Anna Lee saw many things on a very long way to Paris, and then. " * 30
    found = tagger.predict(text)
    assert found.windows > 5
    assert found.note is None
    assert [one.text for one in found.tags] == ["Anna Lee", "Paris"] * 30
    assert all(text[one.start : one.end] == one.text for one in found.tags)


def test_a_word_is_read_where_most_text_is_around_it(tagger: Tagger) -> None:
    engine: Any = tagger.engine

    def blind_at_the_edges(ids: NDArray[np.int64]) -> NDArray[np.float32]:
        found = engine._outputs(ids)
        found[:, :5] = found[:, -5:] = np.eye(len(ENTITIES))[0]
        return np.asarray(found)

    tagger.engine = FakeEngine(blind_at_the_edges)
    filler = "and so it was on and on. "
    text = filler + "Anna Lee saw many things on a way to Paris, and then. " * 30 + filler
    assert [one.text for one in tagger.predict(text).tags] == ["Anna Lee", "Paris"] * 30


def test_labels_without_prefixes_are_of_words(tagger: Tagger) -> None:
    tagger.facts = replace(tagger.facts, labels=("O", "NOUN", "VERB", "ADJ", "DET"))
    found = [(one.label, one.text) for one in tagger.predict("Anna Anna went").tags]
    assert found == [("NOUN", "Anna"), ("NOUN", "Anna")]


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (
            ("O", "B-PER", "E-PER", "S-LOC", "I-LOC"),
            "PER: Anna Lee, LOC: Paris, LOC: Paris, LOC: New, LOC: York, PER: Anna",
        ),
        (
            ("O", "I-PER", "I-ORG", "I-LOC", "B-LOC"),
            "PER: Anna, ORG: Lee, LOC: Paris Paris, LOC: New, LOC: York, PER: Anna",
        ),
    ],
)
def test_labels_mark_entities_in_every_form(
    tagger: Tagger, labels: tuple[str, ...], found: str
) -> None:
    tagger.facts = replace(tagger.facts, labels=labels)
    tags = tagger.predict("Anna Lee flew from Paris Paris to New York as Anna.").tags
    assert ", ".join(f"{one.label}: {one.text}" for one in tags) == found


def test_words_and_windows_are_those_of_training(tagger: Tagger) -> None:
    text = "the U.S and naïve AT&T's 北 京 1,000 … " * 9 + "end ."
    example = TaggedExample("0", tuple(text.split()))
    assert example.text == text.strip()
    facts = tagger.facts
    spec = DataSpec(
        task="tags", name="x", max_length=facts.sequence_length, doc_stride=facts.doc_stride
    )
    wanted = tag_features([example], tagger.tokenizer, spec)
    _, found = tagger.features([TextQuery(text=example.text)])
    assert len(found) == len(wanted) > 3
    for name in ("input_ids", "offsets", "words"):
        assert getattr(found, name).tolist() == getattr(wanted, name).tolist()


def test_words_of_a_text() -> None:
    text = "U.S. (well-known, e.g. AT&T's) $5.20 北京 is¿ok… naïve"
    assert WORDS.findall(text) == [
        "U.S", ".", "(", "well-known", ",", "e.g", ".", "AT&T's", ")", "$", "5.20", "北", "京",
        "is¿ok", "…", "naïve",
    ]  # fmt: skip


def test_a_tagger_reads_no_pairs(tagger: Tagger) -> None:
    with pytest.raises(QualaError, match="reads one text, got a pair"):
        tagger.predict(TEXT, PAIR)
    with pytest.raises(QualaError, match="token-classification cannot rank passages"):
        tagger.rank(TEXT, [PAIR])


def embedder_of(model: Classifier, outputs: Callable[[NDArray[np.int64]], Any]) -> Embedder:
    card = replace(model.facts, task=Embedder.task, labels=())
    return Embedder(card, model.tokenizer, FakeEngine(outputs))


def test_embeddings_have_length_one(classifier: Classifier) -> None:
    model = embedder_of(classifier, lambda ids: np.stack([ids[:, 1], ids[:, 2], ids[:, 1]], 1))
    found = model.embed([TEXT, PAIR])
    assert found.shape == (2, 3)
    assert found.dtype == np.float32
    assert np.linalg.norm(found, axis=1) == pytest.approx([1, 1])
    assert model.predict(TEXT).embedding == pytest.approx(found[0])
    assert model.embed([]).shape == (0, 32)


def test_a_broken_model_predicts_nothing(classifier: Classifier) -> None:
    model = embedder_of(classifier, lambda ids: np.full((len(ids), 3), np.nan))
    with pytest.raises(NotFinite, match="NaN or infinite"):
        model.predict(TEXT)


def test_work_of_several_queries_may_run_apart(classifier: Classifier) -> None:
    queries = [TextQuery(text=TEXT, pair=PAIR, top_k=0), TextQuery(text=LONG, top_k=0)]
    works: list[Work[TextQuery]] = classifier.prepare(queries)
    classifier.run([(works[1], 0)])
    classifier.run([(works[0], 0)])
    for work, query in zip(works, queries, strict=True):
        alone = classifier.predict(query.text, query.pair, top_k=0)
        assert classifier.finish(work).scores[0].label == alone.scores[0].label


def test_the_folder_is_known(classifier: Classifier, export_of: ExportOf) -> None:
    assert classifier.source == Path(export_of("classification"))


def test_an_embedder_ranks_by_the_cosine(export_of: ExportOf) -> None:
    model: Any = load(export_of("embedding"))
    passages = [PAIR, LONG, TEXT, "Anna wrote it.", PAIR]
    found = model.rank(TEXT, passages)
    assert (found[0].place, found[0].score) == (2, pytest.approx(1))
    query, *own = model.embed([TEXT, *passages])
    assert {one.place: one.score for one in found} == pytest.approx(dict(enumerate(own @ query)))
    for one in found:
        assert one.prediction.embedding == pytest.approx(own[one.place])
    assert model.rank(TEXT, []) == []
    with pytest.raises(QualaError, match="no label `good`"):
        model.rank(TEXT, [PAIR], label="good")
    assert {
        one.prediction.lengths for one in model.rank(TEXT, [PAIR], budget=Budget(keep=0.6))
    } == {(40, 20)}
    assert {one.prediction.note is None for one in found} == {True, False}  # one is cut
    for one in model.rank(LONG, [TEXT, LONG]):
        assert (one.prediction.note or "").startswith("Of the query: The text has 202 tokens")
