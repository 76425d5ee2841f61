"""Exported models in MLflow: logged models of runs, and versions of registered models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quala.workflow.store import Store
from quala.workflow.tracking import EXPORTED, NOTE, OUTPUT, PARENT, WORKFLOW, Tracking, explaining
from quala.workflow.views import FRONT

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Run

MODEL = "MLmodel"
"""The file of an export that makes it a model of MLflow."""
READY: Final = "READY"
LONGEST_DESCRIPTION = 5000
_REFUSED = str.maketrans(dict.fromkeys("/:.%\"'", "-"))
"""What the name of a logged model may not have."""
FIGURES = ("gmacs", "milliseconds", "mib", "speedup")
SERVED = "ONNX model of quala with its front of lengths; `models serve` takes `budget_ms`."


def log_model(store: Store, run_id: str, exported: str, folder: Path) -> None:
    """Make the export of a stage run a logged model of a workflow's run, with its figures.

    Workflow runs that share an export share its logged model.
    """
    from mlflow.entities import LoggedModelOutput, Metric

    run = store.client.get_run(run_id)
    experiment_id = run.info.experiment_id
    model = logged_model(store, experiment_id, exported)
    if model is None or model.status != READY:
        # One that an interruption left is gone on with.
        model = model or store.client.create_logged_model(
            experiment_id,
            name=run.data.tags.get(WORKFLOW, "model").translate(_REFUSED),
            source_run_id=run_id,
            tags={EXPORTED: exported},
            params={key: value[:500] for key, value in run.data.params.items()},
            model_type="quala",
        )
        store.client.log_model_artifacts(model.model_id, str(folder))
        store.client.finalize_logged_model(model.model_id, READY)
    outputs = run.outputs.model_outputs if run.outputs else []
    if any(one.model_id == model.model_id for one in outputs):
        return
    # Each run gives it its own figures: those of a run go with the run. With another time they
    # would be new values of the run's own metrics.
    metrics = [
        Metric(one.key, one.value, one.timestamp, one.step, model.model_id, run_id=run_id)
        for one in run.data._metric_objs
        if not {"/", "."} & set(one.key)
    ]
    store.client.log_batch(run_id, metrics=metrics)
    store.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])


def made_of(model: LoggedModel) -> str | None:
    """Return the run that a logged model goes with: the export's, or the one that logged it."""
    return model.tags.get(EXPORTED) or model.source_run_id


def logged_models(
    store: Tracking, experiments: Sequence[str], where: str | None = None
) -> Iterator[LoggedModel]:
    """Yield the logged models of some experiments."""
    page: str | None = None
    while page != "":
        found = store.client.search_logged_models(
            list(experiments), filter_string=where, page_token=page
        )
        yield from found
        page = found.token or ""


def logged_model(store: Tracking, experiment_id: str, exported: str) -> LoggedModel | None:
    """Return the logged model that was made of a stage run's export, a finished one first."""
    found = [*logged_models(store, [experiment_id], f"tags.`{EXPORTED}` = '{exported}'")]
    return min(found, key=lambda one: one.status != READY, default=None)


def register(store: Tracking, name: str, run: str, exported: str, alias: str) -> str:
    """Make a run's export a version of a registered model and return its number.

    `run` is the workflow's run, or that of the stage that exported. The version has the figures
    of the workflow's run as tags and in its description, and gets the alias.

    Raises:
        QualaError: when the store refuses.
    """
    with explaining(f"`{name}` could not be registered in {store.uri}"):
        client = store.client
        owner = client.get_run(run)
        if run == exported and PARENT in owner.data.tags:
            owner = client.get_run(owner.data.tags[PARENT])
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name, description=SERVED)
        tags, model = _tags(owner), logged_model(store, owner.info.experiment_id, exported)
        if model is not None:
            tags["model"] = model.model_id
        version = client.create_model_version(
            name,
            f"runs:/{exported}/{OUTPUT}",
            exported,
            tags=tags,
            description=owner.data.tags.get(NOTE, SERVED)[:LONGEST_DESCRIPTION],
        )
        client.set_registered_model_alias(name, alias, version.version)
    return str(version.version)


def _tags(run: Run) -> dict[str, Any]:
    """Return what tells the versions of a registered model apart."""
    metrics = run.data.metrics
    scores = [key for key in metrics if f"{FRONT}{key}" in metrics and key not in FIGURES]
    found = {key: f"{metrics[key]:.4g}" for key in (*scores, *FIGURES) if key in metrics}
    return {"workflow": run.data.tags.get(WORKFLOW, ""), "run": run.info.run_id, **found}
