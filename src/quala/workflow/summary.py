"""What the run of a workflow carries for a reader: settings, data, figures, front and page."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quala.redact import redacted
from quala.report.table import MIB, markdown_table
from quala.results import GIGA, Report, read_report
from quala.workflow.identity import leaves
from quala.workflow.settings import Settings
from quala.workflow.store import Store
from quala.workflow.tracking import NOTE
from quala.workflow.views import FRONT, short, show_fronts

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

PAGES = ("front.png", "report.html")
"""Files of a report that the workflow's run has too."""
TABLE = "front.json"
LONGEST_DIGEST, LONGEST_NOTE, LONGEST_NAME, LONGEST_KEY = 36, 7500, 100, 250
_HANDLED = ("enabled", "force")
"""Options of a stage that say whether it runs, not what it does."""
_UNNAMED = re.compile(r"[^\w\-. :/]", re.ASCII)
_ELSEWHERE = ("tracking", "flow", "progress", "hydra", "local")
"""Keys of overrides that are no settings of what is computed."""


def parameters(
    settings: Settings, stages: Iterable[str], overrides: Sequence[str]
) -> dict[str, Any]:
    """Return the resolved options of a run by the names that a user types.

    Of the stages only those that take part; what was chosen by a group has the group's name. An
    option that is unset is left out, unless it was typed.
    """
    found: dict[str, Any] = {"seed": settings.seed}
    found |= leaves(dataclasses.asdict(settings.data), "data")
    found |= {f"model.{key}": value for key, value in settings.model.items()}
    for name in stages:
        options = dataclasses.asdict(settings.stages[name])
        kept = {key: value for key, value in options.items() if key not in _HANDLED}
        found |= leaves(kept, f"stage.{name}")
    set_ones = {key: one for key, one in found.items() if one not in (None, "", [], (), {})}
    named = {**dict(_typed(overrides)), **set_ones}
    # `cache@stage.distill.cache` is no name for MLflow.
    return {_UNNAMED.sub(":", key)[:LONGEST_KEY]: one for key, one in named.items()}


def titled(workflow: str, overrides: Sequence[str]) -> str:
    """Return a name for a run, its workflow and what was typed, in few words."""
    words = [f"{short(key)}={Path(value).name}" for key, value in _typed(overrides)]
    text = " ".join(" ".join([workflow, *words]).split())
    return text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 3]}..."


def _typed(overrides: Sequence[str]) -> Iterator[tuple[str, str]]:
    for word in overrides:
        key, is_value, value = word.lstrip("+~").partition("=")
        if is_value and key.partition(".")[0].partition("/")[0] not in _ELSEWHERE:
            yield key, value


def dataset(spec: Any, fingerprint: str) -> DatasetInput:
    """Return the data of a run as MLflow's dataset: a name, the content's digest, the source."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    place = spec.path or spec.name
    name = spec.title or "/".join(filter(None, (Path(place).name or place, spec.subset)))
    kind = "local" if spec.path else "hugging_face"
    source = {"uri" if spec.path else "path": place, "revision": spec.revision}
    used = {"train_split": spec.train_split, "test_split": spec.test_split}
    return DatasetInput(
        Dataset(
            name=redacted(name, printed=False)[:500],
            digest=fingerprint[:LONGEST_DIGEST],
            source_type=kind,
            source=redacted(json.dumps({k: one for k, one in source.items() if one}),
                            printed=False),
            profile=json.dumps({"task": spec.task, **used}),
        ),
        [InputTag("mlflow.data.context", "train and test")],
    )  # fmt: skip


def show_report(store: Store, run_id: str, folder: Path) -> None:
    """Put what a report says on a workflow's run: figures, front, table, page, description."""
    report = read_report(folder)
    store.tell(run_id, figures(report), front(report))
    store.table(run_id, TABLE, table(report))
    for name in PAGES:
        if (folder / name).is_file():
            store.share(folder / name, run_id)
    store.tag(run_id, {NOTE: note(report, run_id)})
    show_fronts(store.client, store.experiment_id, report.metric)


def figures(report: Report) -> dict[str, float]:
    """Return the figures of what would be served, by the same names for all recipes.

    They are of the chosen lengths, of the full length where none were chosen: the score by its
    metric's name, `gmacs`, `milliseconds`, `mib`, and `speedup` over the baseline.
    """
    row = report.chosen or report.full
    if row is None:
        return {}
    found = {
        report.metric: row.score,
        "gmacs": row.macs_mean / GIGA,
        "milliseconds": row.median_ms,
        "mib": row.size_bytes / MIB,
        "speedup": row.speedup,
    }
    full = report.full
    if full is not None:
        found[f"{report.metric}_full"] = full.score
        found["gmacs_full"] = full.macs_mean / GIGA
        found["milliseconds_full"] = full.median_ms
    return {key: one for key, one in found.items() if one is not None}


def front(report: Report) -> list[tuple[str, float, int]]:
    """Return the points of the front as values of metrics: name, value, step.

    Cheapest first, with the full length. The step is the cost in million MACs, made unique.
    """
    full = [report.full] if report.full is not None else []
    rows = {row.tokens: row for row in (*report.front, *full) if row.score is not None}
    found, step = list[tuple[str, float, int]](), -1
    for row in sorted(rows.values(), key=lambda row: (row.macs_mean, row.score)):
        step = max(step + 1, round(row.macs_mean / 1e6))
        values = {
            report.metric: row.score,
            "gmacs": row.macs_mean / GIGA,
            "milliseconds": row.median_ms,
        }
        found += [(f"{FRONT}{key}", one, step) for key, one in values.items() if one is not None]
    return found


def table(report: Report) -> list[dict[str, Any]]:
    """Return all measured rows by the columns of a table."""
    return [
        {
            "model": row.model,
            "role": row.role,
            "precision": row.precision,
            "tokens per layer": row.tokens,
            report.metric: row.score,
            "95 % low": row.interval[0] if row.interval else None,
            "95 % high": row.interval[1] if row.interval else None,
            "gmacs": row.macs_mean / GIGA,
            "milliseconds": row.median_ms,
            "mib": row.size_bytes / MIB,
            "speedup": row.speedup,
            "examples": row.examples,
        }
        for row in report.rows
    ]


def note(report: Report, run_id: str) -> str:
    """Return the description of a run, in Markdown: the measured rows, and what to do next."""
    text = (
        f"**{report.title}**\n\n{markdown_table(report.rows)}\n\n"
        f"Page and figure: *Artifacts*. The front: *Model metrics*, section `front`.\n\n"
        f"    quala report {run_id}\n    quala export {run_id} --out DIR\n"
    )
    return text if len(text) <= LONGEST_NOTE else f"**{report.title}**\n\nTable: `{TABLE}`.\n"
