"""An export is an MLflow model."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import mlflow.pyfunc
import pandas as pd
import pytest
from exported import export_folder
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.scoring_server import predictions_to_json
from unanswerable import with_threshold

from quala.export.served import make_servable

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


def test_no_answer_is_an_empty_row_with_its_probability(
    export_folder: Path, tmp_path: Path
) -> None:
    null = with_threshold(export_folder, tmp_path / "null", -1e9)
    make_servable(null, null=True)
    model = mlflow.pyfunc.load_model(str(null))
    found = model.predict(ROWS)
    assert found["no_answer"].tolist() == [1.0, 1.0]
    assert found[["answer", "probability", "start", "end"]].isna().all(axis=None)
    columns = {one.name: one.required for one in model.metadata.signature.outputs}
    assert columns == {
        "answer": False, "probability": False, "start": False, "end": False, "no_answer": True
    }  # fmt: skip
    said = StringIO()
    predictions_to_json(found, said)
    assert json.loads(said.getvalue())["predictions"][0] == {
        "answer": None, "probability": None, "start": None, "end": None, "no_answer": 1.0
    }  # fmt: skip


def test_an_answer_stands_beside_the_probability_of_none(
    export_folder: Path, tmp_path: Path
) -> None:
    null = with_threshold(export_folder, tmp_path / "null", 1e9)
    found = mlflow.pyfunc.load_model(str(null)).predict(ROWS)
    plain = mlflow.pyfunc.load_model(str(export_folder)).predict(ROWS)
    assert found["no_answer"].tolist() == [0.0, 0.0]
    assert found.drop(columns="no_answer").to_dict("list") == plain.to_dict("list")
