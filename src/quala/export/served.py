"""An export as an MLflow model: `mlflow models serve` and `mlflow.pyfunc.load_model` read it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame

    from quala.runtime.answerer import QuestionAnswerer

LOG = logging.getLogger("quala.export")
FILE = "MLmodel"
COLUMNS = ("answer", "probability", "start", "end")


class Served:
    """Answers the rows of a table of questions and contexts; the interface is MLflow's."""

    def __init__(self, answerer: QuestionAnswerer) -> None:
        self._answerer = answerer

    def predict(
        self, model_input: DataFrame, params: Mapping[str, Any] | None = None
    ) -> DataFrame:
        """Return the best answer to each row's `question` about its `context`, by its index.

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
        best = [reply.answers[0] for reply in replies]
        rows = [(one.text, one.probability, one.start, one.end) for one in best]
        return DataFrame(rows, columns=list(COLUMNS), index=model_input.index)


def _load_pyfunc(folder: str) -> Served:
    """Load the export in `folder`; MLflow looks for this name."""
    from quala.runtime.answerer import load

    return Served(load(Path(folder)))


def make_servable(folder: Path) -> None:
    """Write the MLmodel file that turns the export in `folder` into an MLflow model."""
    with warnings.catch_warnings():
        # MLflow warns of a type hint of its own when it is imported
        warnings.filterwarnings("ignore", message=".*AnyType", category=UserWarning)
        import mlflow.pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec

    text: list[ColSpec | TensorSpec] = [
        ColSpec("string", name) for name in ("question", "context")
    ]
    kinds = zip(("string", "double", "long", "long"), COLUMNS, strict=True)
    limits = [ParamSpec(name, "double", 0.0) for name in ("budget_ms", "keep")]
    signature = ModelSignature(
        inputs=Schema(text),
        outputs=Schema([ColSpec(kind, name) for kind, name in kinds]),
        params=ParamSchema(limits),
    )
    model = Model(signature=signature)
    mlflow.pyfunc.add_to_model(model, loader_module=__name__, data=".")
    model.save(str(folder / FILE))
