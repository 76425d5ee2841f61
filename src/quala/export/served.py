"""An export as an MLflow model: `mlflow models serve` and `mlflow.pyfunc.load_model` read it."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quala.errors import QualaError
from quala.runtime.answerer import PREDICTORS, QuestionAnswerer, load
from quala.runtime.rows import added_columns, added_values, may_be_null

if TYPE_CHECKING:
    from pandas import DataFrame

    from quala.runtime.texts import TextPredictor

LOG = logging.getLogger("quala.export")
FILE = "MLmodel"
EXAMPLES = {
    QuestionAnswerer.task: {
        "question": "Who designed the engine?",
        "context": "Charles Babbage designed the difference engine in the 1820s.",
    }
}
EXAMPLE = {"text": "Charles Babbage designed the difference engine in London in the 1820s."}
"""An input of all other tasks."""
SERVING = ("quala", "mlflow", "onnxruntime", "tokenizers", "numpy")


class Served:
    """Predicts for the rows of a table; the interface is MLflow's."""

    def __init__(self, model: QuestionAnswerer | TextPredictor) -> None:
        self._model: Any = model

    def predict(
        self, model_input: DataFrame, params: Mapping[str, Any] | None = None
    ) -> DataFrame:
        """Return what a model says of each row, by its index, in the columns of `quala predict`.

        Rows have a `question` and a `context`, or a `text` and perhaps a `pair`. `params` may hold
        `budget_ms` or `keep`; 0, the default, sets no limit. The notes of the replies are logged.
        Raises QualaError for rows and limits that are refused.
        """
        from pandas import DataFrame, isna

        from quala.runtime.card import Budget, Query
        from quala.runtime.prediction import TextQuery

        given = params or {}
        budget = Budget(ms=given.get("budget_ms") or None, keep=given.get("keep") or None)
        kind: Any = Query if isinstance(self._model, QuestionAnswerer) else TextQuery
        names = [name for name in ("question", "context", "text", "pair") if name in model_input]
        rows: list[Any] = model_input[names].to_dict("records")
        queries = []
        for place, row in zip(model_input.index, rows, strict=True):
            if "pair" in row and isna(row["pair"]):
                del row["pair"]
            try:
                queries.append(kind(**row, budget=budget))
            except QualaError as error:
                raise QualaError(f"Row {place}: {error}") from error
        replies = self._model.predict_batch(queries)
        for note in sorted({reply.note for reply in replies if reply.note}):
            LOG.warning(note)
        null = may_be_null(self._model)
        columns = [*_columns(type(self._model), null)]
        values = [added_values(reply) for reply in replies]
        found = DataFrame(
            [[value[name] for name in columns] for value in values],
            columns=columns,
            index=model_input.index,
        )  # whole numbers may be absent
        if not null:
            return found
        kinds = {"probability": "Float64", "start": "Int64", "end": "Int64"}
        text = found["answer"].astype(object)
        return found.astype(kinds).assign(answer=text.where(text.notna(), None))


def _columns(model: type[QuestionAnswerer | TextPredictor], null: bool) -> dict[str, str]:
    found = added_columns(model, null=null)
    return {name: kind for name, kind in found.items() if name not in ("note", "error")}


def _load_pyfunc(folder: str) -> Served:
    """Load the export in `folder`; MLflow looks for this name."""
    return Served(load(Path(folder)))


def make_servable(folder: Path, task: str, *, null: bool = False) -> None:
    """Write the MLmodel file that turns the export in `folder` into an MLflow model.

    An export of a task that has no predictor gets none. `null`: the model may give no answer.
    """
    if task not in PREDICTORS:
        return
    with warnings.catch_warnings():
        # MLflow warns of a type hint of its own when it is imported
        warnings.filterwarnings("ignore", message=".*AnyType", category=UserWarning)
        import mlflow.pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array, Object, Property

    tag = {"label": "string", "start": "long", "end": "long", "text": "string"}
    types: dict[str, Any] = {
        "text": DataType.string,
        "number": DataType.double,
        "whole": DataType.long,
        "embedding": Array(DataType.double),
        "entities": Array(
            Object(
                [Property(name, DataType[kind]) for name, kind in tag.items()]
                + [Property("probability", DataType.double)]
            )
        ),
    }
    example = EXAMPLES.get(task, EXAMPLE)
    inputs: list[Any] = [ColSpec("string", name) for name in example]
    if PREDICTORS[task].pairs:
        inputs.append(ColSpec("string", "pair", required=False))
    outputs = [
        ColSpec(
            types[name if kind == "json" else kind], name, required=not null or name == "no_answer"
        )
        for name, kind in _columns(PREDICTORS[task], null).items()
    ]
    limits = [ParamSpec(name, "double", 0.0) for name in ("budget_ms", "keep")]
    signature = ModelSignature(
        inputs=Schema(inputs),
        outputs=Schema([*outputs]),
        params=ParamSchema(limits),
    )
    model = Model(signature=signature, saved_input_example_info=_example(folder, example))
    mlflow.pyfunc.add_to_model(model, loader_module=__name__, data=".")
    model.save(str(folder / FILE))
    (folder / "requirements.txt").write_text(_requirements(), encoding="utf-8")


def _example(folder: Path, row: Mapping[str, str]) -> dict[str, Any]:
    """Write an input that the model answers, and return what MLflow's file says of it."""
    table = {"columns": list(row), "data": [list(row.values())]}
    name = "input_example.json"
    (folder / name).write_text(json.dumps(table), encoding="utf-8")
    return {"artifact_path": name, "type": "dataframe", "pandas_orient": "split"}


def _requirements() -> str:
    """Return what serving takes, in the versions that are installed here."""
    found = (f"{name}=={version(name)}" for name in SERVING)
    return "\n".join(found) + "\n"
