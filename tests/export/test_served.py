"""An export is an MLflow model."""

from __future__ import annotations

import json
import math
from io import StringIO
from pathlib import Path

import mlflow.pyfunc
import pandas as pd
import pytest
from exported import LABELS, ExportOf
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.scoring_server import predictions_to_json
from unanswerable import with_threshold

from quala.errors import QualaError
from quala.export.served import make_servable
from quala.runtime.card import Query
from quala.runtime.rows import added_values

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


def test_rows_with_and_without_an_answer_are_valid_json(
    export_folder: Path, tmp_path: Path
) -> None:
    from quala.runtime.answerer import load_answerer

    asked = load_answerer(with_threshold(export_folder, tmp_path / "all", 0.0)).answer_batch(
        [Query(question=one.question, context=one.context) for one in ROWS.itertuples()]
    )
    first, second = (one.no_answer for one in asked)
    assert first is not None and second is not None  # noqa: PT018
    logits = [math.log(share / (1 - share)) for share in (first, second)]
    between = with_threshold(export_folder, tmp_path / "some", sum(logits) / 2)
    found = mlflow.pyfunc.load_model(str(between)).predict(ROWS)
    assert sorted(found["answer"].isna()) == [False, True]
    said = StringIO()
    predictions_to_json(found, said)
    rows = json.loads(said.getvalue(), parse_constant=pytest.fail)["predictions"]
    (none,) = (row for row in rows if row["answer"] is None)
    assert [none[name] for name in ("probability", "start", "end")] == [None] * 3
    assert none["no_answer"] > 0.5


def test_a_row_that_is_refused_is_named(export_of: ExportOf) -> None:
    model = mlflow.pyfunc.load_model(str(export_of("classification")))
    with pytest.raises(QualaError, match="Row b: The text must be text, got"):
        model.predict(pd.DataFrame({"text": ["a", None]}, index=["a", "b"]))


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
def test_vectors_and_entities_are_valid_json(
    export_of: ExportOf, task: str, name: str, tmp_path: Path
) -> None:
    from quala.runtime.answerer import load

    folder = export_of(task)
    model, own = mlflow.pyfunc.load_model(str(folder)), load(folder)
    signature = model.metadata.signature
    assert signature.inputs.input_names() == ["text"]
    assert signature.outputs.input_names() == [name]
    texts = ["Anna 🎵 saw Paris", "x"]
    said = StringIO()
    predictions_to_json(model.predict(pd.DataFrame({"text": texts})), said)
    rows = json.loads(said.getvalue(), parse_constant=pytest.fail)["predictions"]
    for row, text in zip(rows, texts, strict=True):
        alone = added_values(own.predict(text))  # type: ignore[union-attr]
        if task == "embedding":
            assert row[name] == pytest.approx(alone[name], abs=1e-6)
        else:
            assert [one["text"] for one in row[name]] == [one["text"] for one in alone[name]]
    make_servable(tmp_path / "none", "parsing")
    assert not (tmp_path / "none").exists()
