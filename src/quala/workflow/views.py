"""Views of MLflow's interface: the fronts of an experiment's runs, and a sweep at a glance.

The interface keeps a view as a tag of the experiment; it lists them in its menu *Views*.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from quala.workflow.tracking import KIND, NOTE, PARENT

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

FRONT = "front/"
"""Begins the metrics that have one value for each point of a front."""
COSTS = ("gmacs", "milliseconds")
TRAINING = "machine_learning"
_SHARED = "mlflow.sharedViewState."
_KIND_TAG = "mlflow.experimentKind"
OPENED = {_KIND_TAG: "custom_model_development"}
"""Tags of an experiment that opens on its runs, not on traces of language models."""
MOST = 10
"""Views of sweeps that an experiment keeps, the newest; the interface lists them all."""
MOST_LISTED = 100
"""Runs that a view lists: a tag of an experiment has at most 20,000 characters."""
SECTION = "quala"
EXPLAINED = """\
Each workflow run is a run here; its stages are below it, and a sweep is above its jobs.
*Views* (top right) has the fronts of all runs, and each sweep. Figures of a run: `f1` (or the
metric of its task), `gmacs`, `milliseconds`, `mib` and `speedup` are of the lengths that it
chose, those ending in `_full` of the full length; `front/...` has a value for each point of its
front, and the step is its cost in million MACs.
"""


@contextmanager
def pages_of(what: str) -> Iterator[None]:
    """Warn where MLflow refuses what its pages show only: an older server, or one that forbids."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        reason = str(error).strip().partition("\n")[0]
        log.warning("MLflow's pages lack what %s made: %s", what, reason)


def fronts_key(metric: str) -> str:
    """Return the key of the view of all fronts of a metric."""
    return f"quala-fronts-{metric}"


def sweep_key(sweep: str) -> str:
    """Return the key of the view of a sweep's jobs."""
    return f"quala-sweep-{sweep[:12]}"


def address(
    server: str, experiment_id: str, *, view: str | None = None, run: str | None = None
) -> str:
    """Return the page of an experiment, of one of its views, or of a run."""
    page = f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs"
    asked = {"workflowType": TRAINING}
    if run is not None:
        return f"{page}/{run}?{urlencode(asked)}"
    if view is not None:
        asked = {"viewStateShareKey": view, "compareRunsMode": "CHART", **asked}
    return f"{page}?{urlencode(asked)}"


def compared(server: str, experiment_id: str, runs: Sequence[str]) -> str:
    """Return the page that compares some runs of one experiment."""
    texts = {"runs": list(runs), "experiments": [experiment_id]}
    asked = {key: json.dumps(one, separators=(",", ":")) for key, one in texts.items()}
    return f"{server.rstrip('/')}/#/compare-runs?{urlencode(asked)}&workflowType={TRAINING}"


def show_fronts(client: MlflowClient, experiment_id: str, metric: str) -> None:
    """Give an experiment the view of its workflow runs and their fronts, and say what is where."""
    state = _state(metric, f"tags.`{KIND}` = 'workflow'", ())
    known = _publish(client, experiment_id, fronts_key(metric), f"Fronts: {metric}", state)
    if NOTE not in known:
        client.set_experiment_tag(experiment_id, NOTE, EXPLAINED)


def show_sweep(
    client: MlflowClient,
    experiment_id: str,
    sweep: str,
    runs: Sequence[str],
    metric: str,
    params: Sequence[str],
) -> None:
    """Give an experiment the view of one sweep: what its jobs vary, and what that gives.

    `runs` are the workflow runs of its jobs, of which some may be older than the sweep.
    """
    listed = ", ".join(f"'{run}'" for run in runs)
    where = f"attributes.run_id IN ({listed})"
    if len(runs) > MOST_LISTED:
        where = f"tags.`{PARENT}` = '{sweep}'"
    name = f"Sweep: {' x '.join(map(short, params)) or 'one job'}, {time.strftime('%d %b %H:%M')}"
    state = _state(metric, where, params)
    _publish(client, experiment_id, sweep_key(sweep), name, state)
    tags = client.get_experiment(experiment_id).tags
    sweeps = [key for key in tags if key.startswith(f"{_SHARED}{sweep_key('')}")]
    for key in sorted(sweeps, key=lambda key: _created(tags[key]), reverse=True)[MOST:]:
        client.delete_experiment_tag(experiment_id, key)


def forget(client: MlflowClient, experiment_id: str, sweep: str) -> None:
    """Take the view of a sweep that is removed from its experiment."""
    key = sweep_key(sweep)
    if key in views(client.get_experiment(experiment_id).tags):
        client.delete_experiment_tag(experiment_id, f"{_SHARED}{key}")


def page_of(client: MlflowClient, server: str, run_id: str) -> str:
    """Return the page of a run; of a sweep, its view."""
    experiment_id = client.get_run(run_id).info.experiment_id
    key = sweep_key(run_id)
    if key in views(client.get_experiment(experiment_id).tags):
        return address(server, experiment_id, view=key)
    return address(server, experiment_id, run=run_id)


def landing(client: MlflowClient, server: str, experiment: str | None = None) -> str:
    """Return the page to open first: the newest view of a store, else its newest experiment.

    It may be asked for one experiment, by its id.
    """
    every = client.search_experiments(order_by=["last_update_time DESC"])
    found = [one for one in every if experiment in (None, one.experiment_id)]
    dated = [
        (_created(one.tags[f"{_SHARED}{key}"]), one.experiment_id, key)
        for one in found
        for key in views(one.tags)[:1]
    ]
    if dated:
        _, experiment_id, key = max(dated)
        return address(server, experiment_id, view=key)
    used = [one for one in found if one.name != "Default"]
    return address(server, used[0].experiment_id) if used else f"{server.rstrip('/')}/"


def views(tags: Mapping[str, str]) -> list[str]:
    """Return the keys of quala's views among the tags of an experiment, newest first."""
    found = [key for key in tags if key.startswith(f"{_SHARED}quala-")]
    newest = sorted(found, key=lambda key: _created(tags[key]), reverse=True)
    return [key.removeprefix(_SHARED) for key in newest]


def short(param: str) -> str:
    """Return the last part of an option's name."""
    return param.rpartition(".")[2]


def _created(text: str) -> float:
    return float(json.loads(text).get("createdAt", 0))


def _publish(
    client: MlflowClient, experiment_id: str, key: str, name: str, state: Mapping[str, Any]
) -> Mapping[str, str]:
    """Write a view unless it is there as it is; return the tags that the experiment had."""
    tag, tags = f"{_SHARED}{key}", client.get_experiment(experiment_id).tags
    known = tags.get(tag)
    if known is not None and json.loads(known).get("state") == json.dumps(state):
        return tags
    created = int(time.time() * 1000)
    # Older interfaces read the state itself, newer ones an envelope with a name.
    view = {"name": name, "createdAt": created, "state": json.dumps(state), **state}
    client.set_experiment_tag(experiment_id, tag, json.dumps(view))
    return tags


def _state(metric: str, where: str, params: Sequence[str]) -> dict[str, Any]:
    """Return the state that the interface stores when a person shares a view of runs."""
    score = f"{FRONT}{metric}"
    charts = [_line(f"{metric} against {one}", score, f"{FRONT}{one}") for one in COSTS]
    if params:
        axes = {"selectedParams": list(params), "selectedMetrics": [*COSTS, metric]}
        charts.append(_chart("PARALLEL", "Settings, costs and score", **axes, showAllRuns=False))
    charts += [_scatter(one, metric) for one in COSTS]
    figures = (metric, *COSTS, "mib", "speedup")
    return {
        "compareRunCharts": [{**chart, "uuid": f"q{i}"} for i, chart in enumerate(charts)],
        "compareRunSections": [
            {"uuid": SECTION, "name": SECTION, "display": True, "isReordered": True}
        ],
        "isAccordionReordered": True,
        "selectedColumns": [
            *(f"params.`{one}`" for one in params),
            *(f"metrics.`{one}`" for one in figures),
        ],
        "runsHiddenMode": "SHOW_ALL",
        "hideEmptyCharts": True,
        "useGroupedValuesInCharts": True,
        "groupBy": None,
        "autoRefreshEnabled": True,
        "searchFilter": where,
        # Sorted by a metric the runs are in one list; by date a sweep's jobs would be folded away.
        "orderByKey": f"metrics.`{metric}`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
    }  # fmt: skip


def _chart(kind: str, title: str, **options: Any) -> dict[str, Any]:
    return {
        "type": kind, "displayName": title, "metricSectionId": SECTION, "deleted": False,
        "isGenerated": False, "runsCountToCompare": 100, **options,
    }  # fmt: skip


def _line(title: str, score: str, cost: str) -> dict[str, Any]:
    return _chart(
        "LINE", title, metricKey=score, selectedMetricKeys=[score], xAxisKey="metric",
        selectedXAxisMetricKey=cost, useGlobalXaxisKey=False, lineSmoothness=0,
        useGlobalLineSmoothing=False, displayPoints=True, scaleType="linear",
        xAxisScaleType="linear", yAxisKey="metric", yAxisExpressions=[],
    )  # fmt: skip


def _scatter(cost: str, metric: str) -> dict[str, Any]:
    axes = {"xaxis": {"key": cost, "type": "METRIC"}, "yaxis": {"key": metric, "type": "METRIC"}}
    return _chart("SCATTER", f"{metric} and {cost} of the chosen lengths", **axes)
