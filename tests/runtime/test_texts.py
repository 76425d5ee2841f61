"""Labels, values, entities and embeddings of texts, within budgets."""

from __future__ import annotations

import pytest
from exported import LABELS, ExportOf

from quala.runtime.answerer import load
from quala.runtime.texts import Classifier


def test_a_classifier_gives_its_labels_best_first(export_of: ExportOf) -> None:
    model = load(export_of("classification"))
    assert isinstance(model, Classifier)
    found = model.predict("a good report", "about Paris", top_k=0)
    assert sorted(one.label for one in found.scores) == sorted(LABELS)
    shares = [one.probability for one in found.scores]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1)
    assert found.label == found.scores[0].label
    assert found.note is None
