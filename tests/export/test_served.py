"""An export is an MLflow model."""

from __future__ import annotations

from pathlib import Path

import mlflow.pyfunc
import pandas as pd
import pytest
from exported import export_folder
from mlflow.exceptions import MlflowException

__all__ = ["export_folder"]

ROWS = pd.DataFrame(
    {
        "question": ["Who wrote it?", "Where was it printed?"],
        "context": ["It was written by Anna.", "The book was printed in Paris, not in Rome."],
    }
)


def test_mlflow_loads_and_asks_it(export_folder: Path) -> None:
    model = mlflow.pyfunc.load_model(str(export_folder))
    for params in ({}, {"keep": 0.8}, {"budget_ms": 1e6}):
        found = model.predict(ROWS, params=params)
        assert list(found.columns) == ["answer", "probability", "start", "end"]
        for row, context in zip(found.itertuples(), ROWS["context"], strict=True):
            assert context[row.start : row.end] == row.answer


def test_a_missing_column_is_refused(export_folder: Path) -> None:
    model = mlflow.pyfunc.load_model(str(export_folder))
    with pytest.raises(MlflowException, match="context"):
        model.predict(ROWS[["question"]])


@pytest.mark.parametrize("index", [[2, 0], ["b", "a"], [3, 3]])
def test_answers_have_the_index_of_their_rows(export_folder: Path, index: list[object]) -> None:
    model = mlflow.pyfunc.load_model(str(export_folder))
    found = model.predict(ROWS.set_axis(index))
    assert found.index.tolist() == index
    assert found["answer"].tolist() == model.predict(ROWS)["answer"].tolist()


def test_joined_answers_stand_beside_their_questions(export_folder: Path) -> None:
    model = mlflow.pyfunc.load_model(str(export_folder))
    rows = ROWS.set_axis([2, 0])
    for row in rows.join(model.predict(rows)).itertuples():
        assert row.context[row.start : row.end] == row.answer
    assert model.predict(rows.iloc[:0]).empty


def test_what_is_cut_is_logged(export_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = mlflow.pyfunc.load_model(str(export_folder))
    with caplog.at_level("WARNING", logger="quala.export"):
        model.predict(ROWS)
        assert not caplog.records
        model.predict(ROWS.assign(question="who " * 70))
    (record,) = caplog.records
    assert "has 70 tokens, of which the model reads the first 64" in record.getMessage()
