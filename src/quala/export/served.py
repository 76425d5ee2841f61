"""An export as an MLflow model: `mlflow models serve` and `mlflow.pyfunc.load_model` read it."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame

    from quala.runtime.answerer import QuestionAnswerer

LOG = logging.getLogger("quala.export")
FILE = "MLmodel"
COLUMNS = ("answer", "probability", "start", "end")
NO_ANSWER = "no_answer"
"""The column that a model has which may give no answer; the others then are empty."""
EXAMPLE = {
    "question": "Who designed the engine?",
    "context": "Charles Babbage designed the difference engine in the 1820s.",
}
SERVING = ("quala", "mlflow", "onnxruntime", "tokenizers", "numpy")


class Served:
    """Answers the rows of a table of questions and contexts; the interface is MLflow's."""

    def __init__(self, answerer: QuestionAnswerer) -> None:
        self._answerer = answerer

    def predict(
        self, model_input: DataFrame, params: Mapping[str, Any] | None = None
    ) -> DataFrame:
        """Return the best answer to each row's `question` about its `context`, by its index.

        Of a model that may give no answer, `no_answer` is its probability, and where it is above
        one half the other columns are empty.
        `params` may hold `budget_ms` or `keep`; 0, the default, sets no limit. The notes of the
        replies are logged. Raises QualaError for rows and limits that are refused.
        """
        from pandas import DataFrame

        from quala.runtime.card import Budget, Query

        given = params or {}
        budget = Budget(ms=given.get("budget_ms") or None, keep=given.get("keep") or None)
        queries = [
            Query(question=question, context=context, budget=budget)
            for question, context in zip(
                model_input["question"], model_input["context"], strict=True
            )
        ]
        replies = self._answerer.answer_batch(queries)
        for note in sorted({reply.note for reply in replies if reply.note}):
            LOG.warning(note)
        best = [next(iter(reply.answers), None) for reply in replies]
        rows = [
            (None,) * len(COLUMNS)
            if one is None
            else (one.text, one.probability, one.start, one.end)
            for one in best
        ]
        found = DataFrame(rows, columns=list(COLUMNS), index=model_input.index)
        if self._answerer.facts.null_threshold is None:
            return found
        found[NO_ANSWER] = [reply.no_answer for reply in replies]
        # whole numbers, of which some are absent
        return found.astype({"answer": object, "start": "Int64", "end": "Int64"})


def _load_pyfunc(folder: str) -> Served:
    """Load the export in `folder`; MLflow looks for this name."""
    from quala.runtime.answerer import load

    return Served(load(Path(folder)))


def make_servable(folder: Path, *, null: bool = False) -> None:
    """Write the MLmodel file that turns the export in `folder` into an MLflow model.

    `null`: the model may give no answer.
    """
    with warnings.catch_warnings():
        # MLflow warns of a type hint of its own when it is imported
        warnings.filterwarnings("ignore", message=".*AnyType", category=UserWarning)
        import mlflow.pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec

    text: list[ColSpec | TensorSpec] = [
        ColSpec("string", name) for name in ("question", "context")
    ]
    kinds = [*zip(("string", "double", "long", "long"), COLUMNS, strict=True)]
    outputs = [ColSpec(kind, name, required=not null) for kind, name in kinds]
    outputs += [ColSpec("double", NO_ANSWER)] if null else []
    limits = [ParamSpec(name, "double", 0.0) for name in ("budget_ms", "keep")]
    signature = ModelSignature(
        inputs=Schema(text),
        outputs=Schema([*outputs]),
        params=ParamSchema(limits),
    )
    model = Model(signature=signature, saved_input_example_info=_example(folder))
    mlflow.pyfunc.add_to_model(model, loader_module=__name__, data=".")
    model.save(str(folder / FILE))
    (folder / "requirements.txt").write_text(_requirements(), encoding="utf-8")


def _example(folder: Path) -> dict[str, Any]:
    """Write an input that the model answers, and return what MLflow's file says of it."""
    table = {"columns": list(EXAMPLE), "data": [list(EXAMPLE.values())]}
    name = "input_example.json"
    (folder / name).write_text(json.dumps(table), encoding="utf-8")
    return {"artifact_path": name, "type": "dataframe", "pandas_orient": "split"}


def _requirements() -> str:
    """Return what serving takes, in the versions that are installed here."""
    found = (f"{name}=={version(name)}" for name in SERVING)
    return "\n".join(found) + "\n"
