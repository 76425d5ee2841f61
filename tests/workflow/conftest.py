"""A toy workflow of three stages that write files, on a database that is copied, not migrated."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from quala.workflow import Workflow
from quala.workflow.compose import composed, one_sentence, typed
from quala.workflow.database import ensure_database
from quala.workflow.execute import Invocation, Result, run_workflow
from quala.workflow.script import conf_folder, load_workflow

SCRIPT = '''
from dataclasses import dataclass, field
from pathlib import Path

from quala.workflow import Flow, Stage, StageConfig, workflow


def outside(default):
    return field(default=default, metadata={"identity": False})


@dataclass
class ToyConfig(StageConfig):
    text: str = "a"
    repeat: int = 1
    sleep: float = outside(0.0)
    fail: bool = outside(False)


def stage(name):
    return Stage(name, 1, ToyConfig, "toy_stages:grow", f"grow {name}", ("size",))


STAGES = {name: stage(name) for name in ("first", "second", "third")}


@workflow("toy", stages=STAGES, conf=Path(__file__).parent / "conf")
def toy(flow: Flow) -> None:
    """Grow a text."""
    first = flow.run("first")
    second = flow.run("second", base=first, otherwise=first)
    third = flow.run("third", base=second, model=flow.model("start"))


if __name__ == "__main__":
    toy.main()
'''

STAGES = """
import os
import time

from quala.workflow import Candidate


def grow(config, context, inputs):
    with open(os.environ["TOY_LOG"], "a") as log:
        log.write(f"{context.name}\\n")
    resumed = (context.scratch / "begun").exists()
    (context.scratch / "begun").write_text("yes")
    base = (inputs["base"] / "text.txt").read_text() if "base" in inputs else ""
    context.log_metrics({"loss": 1.0}, step=0)
    if config.fail:
        raise RuntimeError("grow was told to fail")
    if not resumed:
        time.sleep(config.sleep)
    if context.name == "third":
        found = [Candidate(f"c{i}", {"f1": float(i)}, {"n": str(i)}) for i in range(2)]
        context.log_candidates(found)
    text = base + config.text * config.repeat
    (context.output / "text.txt").write_text(text)
    (context.output / "resumed.txt").write_text(str(resumed))
    return {"size": float(len(text))}
"""

CONFIG = """
defaults:
  - quala_schema
  - _self_
  - experiment: null
  - override hydra/job_logging: quala
  - override hydra/hydra_logging: quala
data: {task: squad, name: demo}
model: {start: some/hub-name}
tracking: {uri: null, folder: mlruns, work: null, experiment: toy, candidates: true}
seed: 0
progress: false
hydra:
  run: {dir: "${tracking.folder}/hydra/run"}
  sweep: {dir: "${tracking.folder}/hydra/sweep", subdir: "${hydra.job.num}"}
  callbacks: {sweep: {_target_: quala.workflow.sweep.SweepParent}}
"""


class Toy:
    """A folder with the toy workflow, and the ways to run it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.script = folder / "toy.py"
        self.log = folder / "log.txt"

    @property
    def workflow(self) -> Workflow:
        return load_workflow(self.script)

    def run(self, *overrides: str) -> Result:
        workflow = self.workflow
        with one_sentence(workflow):
            config = composed(workflow, overrides)
            settings = typed(config, workflow)
        text = OmegaConf.to_yaml(config, resolve=True)
        return run_workflow(workflow, Invocation(settings, text, overrides))

    def start(self, *overrides: str) -> subprocess.Popen[str]:
        # A test run in the background ignores SIGINT, and its children would inherit that.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            return subprocess.Popen(
                [sys.executable, str(self.script), *overrides],
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(self.folder), *sys.path])},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        finally:
            signal.signal(signal.SIGINT, before)

    @property
    def done(self) -> list[str]:
        """Names of the stages that really ran, in order."""
        return self.log.read_text().split() if self.log.exists() else []


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    ensure_database(folder / "mlflow.db", folder / "artifacts")
    return folder / "mlflow.db"


@pytest.fixture
def toy(tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Toy]:
    shutil.copytree(conf_folder() / "hydra", tmp_path / "conf/hydra")
    (tmp_path / "conf/config.yaml").write_text(CONFIG)
    (tmp_path / "toy.py").write_text(SCRIPT)
    (tmp_path / "toy_stages.py").write_text(STAGES)
    (tmp_path / "mlruns").mkdir()
    shutil.copy(template, tmp_path / "mlruns/mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("TOY_LOG", str(tmp_path / "log.txt"))
    monkeypatch.setattr("quala.workflow.lease.SECONDS_TO_SETTLE", 0.05)
    yield Toy(tmp_path)
    sys.modules.pop("toy_stages", None)
