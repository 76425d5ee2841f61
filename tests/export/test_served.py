"""An export is an MLflow model."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import mlflow.pyfunc
import pandas as pd
import pytest
from exported import LABELS, ExportOf, export_folder, export_of
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.scoring_server import predictions_to_json
from unanswerable import with_threshold

from quala.export.served import make_servable

__all__ = ["export_folder", "export_of"]

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
    make_servable(null, "question-answering", null=True)
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


TEXTS = pd.DataFrame({"text": ["a fine report", "Paris"], "pair": ["by Anna", None]})


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_mlflow_predicts_for_texts(export_of: ExportOf, kind: str) -> None:
    from quala.runtime.answerer import load

    folder = export_of(kind)
    model, own = mlflow.pyfunc.load_model(str(folder)), load(folder)
    assert model.input_example is not None
    assert len(model.predict(model.input_example)) == 1
    for rows in (TEXTS, TEXTS[["text"]]):
        found = model.predict(rows.set_axis([3, 1]), params={"keep": 0.6})
        assert found.index.tolist() == [3, 1]
        for said, row in zip(found.to_dict("records"), rows.to_dict("records"), strict=True):
            pair = row.get("pair")
            alone = own.predict(row["text"], pair if isinstance(pair, str) else None, keep=0.6)
            if kind == "classification":
                assert list(said) == ["prediction", "probability"]
                assert said["prediction"] == alone.label
                assert alone.label in LABELS
            else:
                assert said == {"prediction": pytest.approx(alone.value, abs=1e-5)}
    names = model.metadata.signature.outputs.input_names()
    assert list(found.columns) == names


@pytest.mark.parametrize(
    ("task", "name"), [("embedding", "embedding"), ("token-classification", "entities")]
)
def test_a_signature_for_each_task(task: str, name: str, tmp_path: Path) -> None:
    make_servable(tmp_path, task)
    signature = mlflow.models.Model.load(str(tmp_path)).signature
    assert signature.inputs.input_names() == ["text"]
    assert signature.outputs.input_names() == [name]
    make_servable(tmp_path / "none", "parsing")
    assert not (tmp_path / "none").exists()
