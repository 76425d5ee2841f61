"""All that the golden tests take from inside quala; where a module moves, only this file follows.

Everything else goes through the command line, `quala.load`, `quala.workflow` and MLflow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from quala.checkpoint import load_with_data
from quala.cli.entry import VERBS, main
from quala.compress.quantize.config import QuantizeConfig
from quala.compress.quantize.integer import to_integer
from quala.compress.quantize.split import split_ternary
from quala.compress.quantize.transform import calibrate, quantize
from quala.data.spec import DataSpec
from quala.graph.encoder import build_graph
from quala.lengths import LengthConfig
from quala.workflow import Flow, Workflow
from quala.workflow.compose import composed, one_sentence, typed
from quala.workflow.flow import Artifact, Node, Source
from quala.workflow.identity import config_identity, fingerprint
from quala.workflow.script import conf_folder, find_workflow, workflow_scripts

__all__ = [
    "VERBS", "DataSpec", "LengthConfig", "build_graph", "conf_folder", "find_workflow", "main",
    "load_with_data", "rounded", "settled_at_once",
]  # fmt: skip


def workflow_names() -> list[str]:
    """Return the names of the workflows that come with quala."""
    return sorted(workflow_scripts())


@contextmanager
def settled_at_once() -> Iterator[None]:
    """Leave out the wait for rivals and the syncing of journals; print as wide as to a pipe."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("COLUMNS", "140")
        patched.setenv("NO_COLOR", "1")
        patched.setattr("quala.workflow.lease.SECONDS_TO_SETTLE", 0.0)
        patched.setattr("os.fsync", lambda descriptor: None)
        yield


def rounded(model: Any, batch: Any, options: dict[str, Any], *, split: bool) -> None:
    """Make a length-adaptive model an integer one, in place, calibrated on one batch."""

    def observe() -> None:
        model(batch)

    quantize(model.hf, QuantizeConfig(**options))
    calibrate(model.hf, observe)
    if split:
        split_ternary(model.hf)
    to_integer(model.hf, inplace=True)


class _Sources:
    """Outside inputs by what names them, so that nothing is read."""

    def data(self, spec: Any) -> Source:
        return Source("data", spec, fingerprint(config_identity(spec)))

    def model(self, key: str, value: str) -> Source:
        return Source(f"model.{key}", value, f"name:{value}")

    def given(self, value: str) -> tuple[Path, str]:
        return Path(value), value


@dataclass
class _Noted:
    """A driver that only notes what it is asked for."""

    nodes: list[Node] = field(default_factory=list)

    def step(self, node: Node) -> Artifact:
        self.nodes.append(node)
        return Artifact(node.name, node.fingerprint)


def identities(workflow: Workflow, overrides: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return what goes into the fingerprint of each stage that a workflow asks for, in order.

    Its data and start models stand under `data` and `model` as if they were stages.
    """
    with one_sentence(workflow):
        settings = typed(composed(workflow, overrides), workflow)
    noted = _Noted()
    workflow(Flow(settings, workflow.stages, _Sources(), noted))
    found: dict[str, dict[str, Any]] = {
        "data": config_identity(settings.data),
        "model": dict(settings.model),
    }
    for node in noted.nodes:
        inputs = {key: item.name for key, item in sorted(node.inputs.items())}
        own = {key: node.identity[key] for key in ("stage", "version", "config")}
        found[node.name] = {**own, "inputs": inputs, "fingerprint": node.fingerprint}
    return found
