"""What is computed anew is what an older version made: weights, files, tags, params, figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from golden.stored import RECIPES, RECORDED, REVISED, near, statuses, unpack

from quala.workflow.tags import once_named

pytestmark = pytest.mark.slow

recorded = json.loads(RECORDED.read_text())
SINCE = {"quala_minilm": "finetune"}
"""From where on a recipe is computed anew: `distill` or what stands in its place, else."""
VALUES = ("quala.kind", "quala.stage", "quala.node", "quala.fingerprint", "quala.data",
          "quala.seed", "quala.final", "quala.workflow")  # fmt: skip
NO_SHAPE = {"manifest.json", "versions.json"}
"""Keyed by names: of files, which a test looks at, and of what is installed."""
LATER = {"output/data.json", "output/origin.json", "output/title.txt", "candidates.json",
         "output/requirements.txt", "output/input_example.json",
         "output/study/scores.jsonl"}  # fmt: skip
"""Files that came after the store was packed."""
PASSING = {"quala.heartbeat", "quala.released", "quala.diff", "mlflow.source.git.commit",
           "mlflow.loggedArtifacts", "mlflow.note.content"}  # fmt: skip
"""Tags that are there or not as a run goes, as the checkout is, and those that came later."""
INITS = ("weight_init", "activation_init")
PACKED = "quala.safetensors"
"""The name that packed weights have had since; older versions had `model.safetensors` for all."""
TIMES = {"latency_ms", "latency_share", "speedup", "own_speedup"}
ADDED = {"examples", "interval", "exact_match_interval", "loss_interval", "own_speedup", "note",
         "conditions", "speedups", "data"}  # fmt: skip
"""Keys of rows, times, cards and reports since then."""
ABSOLUTE, CHANGED, COUNTED = 1e-3, 0.02, 1e-3
"""What another processor may do to floats, to how many of a file's integers, and to counts."""


class Anew:
    """A recipe run from its first training on, beside the runs that the store had of it."""

    def __init__(self, folder: Path, recipe: str) -> None:
        self.stored, self.recipe = unpack(folder), recipe
        self.old = recorded["outputs"][recipe]
        first = SINCE.get(recipe, next(name for name in self.old if name != "finetune"))
        words = (*RECIPES[recipe], f"flow.since={first}", "tracking.candidates=true")
        if stage := REVISED.get(recipe):  # their `kl` has the name `tensorrt` since
            grids = f"stage.{stage}.quantizers"
            words += (f"{grids}.weight_init=tensorrt", f"{grids}.activation_init=tensorrt")
        self.result = self.stored.run(recipe, *words)
        done = [one for one in self.result["stages"] if one["status"] == "done"]
        self.new = {one["stage"]: one["run_id"] for one in done}

    def pairs(self) -> list[tuple[str, Path, Path]]:
        """Return the artifacts of each stage, the old ones and the new ones."""
        return [(name, self._folder(self.old[name]), self._folder(self.new[name]))
                for name in self.new]  # fmt: skip

    def _folder(self, run: str) -> Path:
        return self.stored.folder / f"mlruns/artifacts/quala/{run}/artifacts"


@pytest.fixture(scope="module", params=RECIPES)
def anew(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Anew:
    return Anew(tmp_path_factory.mktemp(request.param), request.param)


def files(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix().replace(PACKED, "model.safetensors")
        for path in folder.rglob("*")
        if path.is_file() and path.name != "dirty.diff"
    }


def shape(value: Any) -> Any:
    """Return the keys and kinds of values of JSON, of a list those of its entries together."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in sorted(value.items()) if key not in ADDED}
    if isinstance(value, list):
        return [json.loads(one) for one in sorted({json.dumps(shape(item)) for item in value})]
    if isinstance(value, bool) or value is None:
        return repr(value) if value is None else "bool"
    return "text" if isinstance(value, str) else "number"


def test_its_stages_are_done(anew: Anew) -> None:
    found = statuses(anew.result)
    assert "done" in found.values()
    assert set(found.values()) <= {"cached", "done", "left out"}
    assert {name for name in found if found[name] != "left out"} == anew.old.keys()


def test_each_stage_leaves_the_same_files(anew: Anew) -> None:
    for name, old, new in anew.pairs():
        assert files(new) - LATER == files(old), name


def test_json_has_the_same_keys_and_kinds_of_values(anew: Anew) -> None:
    for name, old, new in anew.pairs():
        for file in sorted(files(old)):
            # A manifest's names are in the test above, the versions those of the installation.
            if file.endswith(".json") and Path(file).name not in (
                "manifest.json",
                "versions.json",
            ):
                found, expected = (json.loads((one / file).read_text()) for one in (new, old))
                if name == "export" and file.endswith("quala.json"):  # newer versions say more
                    assert found.pop("test")["title"]
                    assert sum(point.pop("chosen", False) for point in found["front"]) == 1
                assert shape(found) == shape(expected), f"{name}, {file}"


def test_facts_and_identities_are_the_same(anew: Anew) -> None:
    for name, old, new in anew.pairs():
        found, expected = (json.loads((one / "identity.json").read_text()) for one in (new, old))
        if anew.recipe not in REVISED:
            assert found | {"origins": ""} == expected | {"origins": ""}, name
        card = "output/quala.json"
        if (old / card).is_file() and name != "export":  # an export's card has times
            found, expected = (json.loads((one / card).read_text()) for one in (new, old))
            found.get("copied", {}).pop("teacher", None)  # a hash of weights
            expected.get("copied", {}).pop("teacher", None)
            if "nonzero" in expected:
                expected["nonzero"] = pytest.approx(expected["nonzero"], rel=COUNTED)
            assert found == expected


def test_weights_are_the_same(anew: Anew) -> None:
    from safetensors.torch import load_file

    for name, old, new in anew.pairs():
        for file in sorted(old.rglob("*.safetensors")):
            place = new / file.relative_to(old)
            place = place if place.is_file() else place.with_name(PACKED)
            expected, found = load_file(file), load_file(place)
            assert found.keys() == expected.keys(), name
            for key, tensor in expected.items():
                assert (found[key].dtype, found[key].shape) == (tensor.dtype, tensor.shape)
                if tensor.is_floating_point():
                    pair = found[key], tensor
                    if anew.recipe == "ladabert":  # a singular vector may have either sign
                        pair = tuple(one.abs() for one in pair)
                    if key.endswith(".values"):  # of the places that the mask says, which may move
                        pair = tuple(one.abs().sort().values for one in pair)
                    change = (pair[0] - pair[1]).abs().max().item() if tensor.numel() else 0
                    assert change <= ABSOLUTE, f"{name}, {key}"
                else:
                    share = (found[key] != tensor).float().mean().item() if tensor.numel() else 0
                    assert share <= CHANGED, f"{name}, {key}"


def test_tags_params_and_figures_are_the_same(anew: Anew) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=anew.stored.uri)
    for name, run in anew.new.items():
        old, new = (client.get_run(one).data for one in (anew.old[name], run))
        before, after = once_named(old.tags), once_named(new.tags)
        assert after.keys() - PASSING == before.keys() - PASSING, name
        for key in VALUES:
            if anew.recipe not in REVISED or key != "quala.fingerprint":
                assert after.get(key) == before.get(key), f"{name}, {key}"
        changed = {key for key in old.params if new.params.get(key) != old.params[key]}
        assert new.params.keys() == old.params.keys(), name
        allowed = {f"quantizers.{one}" for one in INITS} if anew.recipe in REVISED else set()
        assert {key[key.index("quantizers.") :] for key in changed} <= allowed, name
        assert new.metrics.keys() == old.metrics.keys(), name


@pytest.mark.parametrize("anew", ["quala_minilm"], indirect=True)
def test_a_search_finds_the_same(anew: Anew) -> None:
    folder = {name: new for name, _, new in anew.pairs()}["search"]
    result = json.loads((folder / "output/search.json").read_text())
    assert result == near(recorded["search"], 1e-6)


@pytest.mark.parametrize("anew", ["quala_minilm"], indirect=True)
def test_candidates_are_runs_as_they_were(anew: Anew) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=anew.stored.uri)

    def candidates(run: str) -> dict[str, Any]:
        found = client.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{run}'")
        return {
            one.info.run_name: (
                one.data.params,
                one.data.metrics,
                once_named(one.data.tags).keys(),
            )
            for one in found
        }

    assert candidates(anew.new["search"]) == candidates(anew.old["search"])


@pytest.mark.parametrize("anew", ["quala_minilm"], indirect=True)
def test_rows_are_the_same_but_for_their_times(anew: Anew) -> None:
    folder = {name: new for name, _, new in anew.pairs()}["report"]
    rows = json.loads((folder / "output/report.json").read_text())["rows"]
    for row, old in zip(rows, recorded["report"]["rows"], strict=True):
        kept = {key: value for key, value in old.items() if key not in TIMES | ADDED}
        counted = {"nonzero": pytest.approx(old["nonzero"], rel=COUNTED)}
        assert {key: row[key] for key in kept} == near(kept, 1e-6) | counted


def test_the_workflow_has_the_same_tags_and_figures(anew: Anew) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=anew.stored.uri)
    runs = client.search_runs(["1"], filter_string="tags.`quala.kind` = 'workflow'")
    name = anew.result["workflow"]
    same = [run for run in runs if run.data.tags["quala.workflow"] == name]
    old = next(run for run in same if run.info.start_time == min(r.info.start_time for r in same))
    new = client.get_run(anew.result["run_id"])
    assert once_named(new.data.tags).keys() - PASSING == old.data.tags.keys() - PASSING
    kept = {key.replace("/", ".") for key in old.data.metrics}
    computed = {key for key in kept if key.partition(".")[0] in {*anew.new, key}}
    assert computed <= new.data.metrics.keys()
