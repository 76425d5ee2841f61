"""Every recipe and option of conf/ composes to typed settings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from golden.use import identities

from quala.errors import QualaError
from quala.lengths import constant_drop
from quala.stages import STAGES
from quala.workflow import Flow
from quala.workflow.compose import composed, one_sentence, typed
from quala.workflow.script import WorkflowSpec, conf_folder, find_workflow, workflow_scripts
from quala.workflow.settings import Settings

CONF = conf_folder()
EXPERIMENTS = sorted(file.stem for file in (CONF / "experiment").glob("[!_]*.yaml"))
GROUPS = ("data", "model", "tracking")
OPTIONS = [
    f"{file.parent.relative_to(CONF)}={file.stem}"
    for folder in (*(CONF / group for group in GROUPS), *sorted((CONF / "stage").iterdir()))
    for file in sorted(folder.glob("[!_]*.yaml"))
]
# What a recipe leaves open, by what a person would give.
NEEDED = {
    "squad_cpu": ["data.path=squad"],
    "glue_cpu": ["data.path=sst2"],
    "compress": ["data.path=sst2"],
    "compress_embeddings": ["data.path=stsb"],
    "triples": ["data.path=umls"],
    "triples_cpu": ["data.path=umls"],
    "data=triples": ["data.path=umls"],
    "tracking=server": ["tracking.uri=http://host:5000"],
}
RECIPES = ("autompq", "binarybert", "hsk", "kdlsq", "ladabert", "ternarybert", "xtc")
FLOAT = ("hsk", "ladabert")
CROSSINGS = ("compound", "dynamic_tinybert")  # recipes that end in a front


@pytest.fixture(scope="module")
def workflow() -> WorkflowSpec:
    return find_workflow("quala_minilm")


def settings(workflow: WorkflowSpec, *overrides: str) -> Settings:
    with one_sentence(workflow):
        return typed(composed(workflow, overrides), workflow)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_composes(workflow: WorkflowSpec, experiment: str) -> None:
    needed = NEEDED.get(experiment, [])
    found = settings(workflow, f"experiment={experiment}", *needed)
    assert found.stages.keys() == workflow.stages.keys()
    for name, stage in workflow.stages.items():
        assert isinstance(found.stages[name], stage.config)


@pytest.mark.parametrize("preset", ["demo", "squad_cpu", "glue_cpu", "paper"])
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_its_presets(name: str, preset: str) -> None:
    found = settings(find_workflow(name), f"experiment={name}/{preset}", *NEEDED.get(preset, []))
    assert found.workflow == name
    assert found.stages["distill"].enabled
    quantizers = found.stages["refine" if name == "xtc" else "distill"].quantizers
    assert quantizers.activation_bits == 8 if quantizers else name in FLOAT
    assert found.model["teacher"] == (
        "google-bert/bert-base-uncased" if preset == "paper" else "offline"
    )


@pytest.mark.parametrize(
    ("preset", "steps"), [("demo", 30), ("squad_cpu", 750), ("glue_cpu", 400), ("paper", None)]
)
def test_xtc_reduces_in_float_then_rounds(preset: str, steps: int | None) -> None:
    recipe, needed = find_workflow("xtc"), NEEDED.get(preset, [])
    stages = settings(recipe, f"experiment=xtc/{preset}", *needed).stages
    reduced, rounded = stages["distill"], stages["refine"]
    assert (reduced.quantizers, rounded.quantizers.weight_quantizer) == (None, "bwn")
    assert (reduced.layers, rounded.layers) == (6 if preset == "paper" else 3, None)
    assert (reduced.max_steps, rounded.max_steps) == (steps, steps)
    assert reduced.keep_map == rounded.keep_map == ("xtc" if preset == "paper" else "uniform")
    if steps is None:
        assert (reduced.epochs, rounded.epochs) == (36, 18)
        assert (reduced.bucketed, rounded.bucketed) == (False, False)


def test_one_option_sets_the_steps_of_both_halves_of_xtc() -> None:
    stages = settings(find_workflow("xtc"), "stage.distill.max_steps=7").stages
    assert [stages[name].max_steps for name in ("distill", "refine")] == [7, 7]


def test_the_paper_numbers_of_ternarybert_are_those_of_its_code() -> None:
    found = settings(find_workflow("ternarybert"), "experiment=ternarybert/paper")
    distill = found.stages["distill"]
    assert (distill.batch_size, distill.warmup_ratio, distill.epochs) == (32, 0.1, 3)


@pytest.mark.parametrize("preset", ["demo", "squad_cpu", "glue_cpu", "paper"])
def test_dynamic_tinybert_is_two_distillations_and_a_bayesian_search(preset: str) -> None:
    recipe, needed = find_workflow("dynamic_tinybert"), NEEDED.get(preset, [])
    stages = settings(recipe, f"experiment=dynamic_tinybert/{preset}", *needed).stages
    inner, answers, search = (stages[name] for name in ("distill", "refine", "search"))
    weights = ("hidden", "attention", "soft", "hard", "relation")
    assert [getattr(inner, name) for name in weights] == [1, 1, 0, 0, 0]
    assert [getattr(answers, name) for name in weights] == [0, 0, 1, 0, 0]
    assert (inner.schedule, answers.schedule) == ("constant", "linear")
    assert (answers.significance, stages["length_adapt"].significance) == ("column_sum",) * 2
    assert answers.semantics == stages["length_adapt"].semantics
    assert (search.strategy, search.mutations + search.crossovers) == ("bayesian", 1)
    assert search.generations == search.max_evaluations
    assert not stages["length_adapt"].enabled


def test_the_paper_numbers_of_dynamic_tinybert_are_the_published_ones() -> None:
    found = settings(find_workflow("dynamic_tinybert"), "experiment=dynamic_tinybert/paper")
    inner, answers, drop, search = (
        found.stages[name] for name in ("distill", "refine", "length_adapt", "search")
    )
    trainings = [(one.learning_rate, one.batch_size, one.epochs) for one in (inner, answers, drop)]
    assert trainings == [(5e-5, 16, 20), (3e-5, 16, 10), (2e-5, 16, 10)]
    assert (inner.layers, search.max_evaluations, found.data.pad_to_max) == (6, 150, True)
    assert (drop.bound, drop.layer_drop, drop.num_sandwich, drop.teacher) == (0.2, 0.2, 2, 1.0)
    lowest = constant_drop(search.floor, layers=6, sequence_length=found.data.max_length)
    assert lowest.lengths[-1] == 91


@pytest.mark.parametrize("preset", ["demo", "squad_cpu", "glue_cpu", "paper"])
@pytest.mark.parametrize(
    ("words", "halved", "grids"),
    [
        ([], False, ("lsq", 4, "lsq", 4)),
        (
            ["stage.distill.enabled=true", "stage/distill=xtc_layers", "stage/quantize=xtc"],
            True,
            ("twn", 2, "twn", 2),
        ),
    ],
)
def test_compound_crosses_bits_with_lengths(
    preset: str, words: list[str], halved: bool, grids: tuple[Any, ...]
) -> None:
    needed = NEEDED.get(preset, [])
    recipe = find_workflow("compound")
    stages = settings(recipe, f"experiment=compound/{preset}", *needed, *words).stages
    student, integer = stages["distill"], stages["quantize"]
    assert (student.enabled, student.quantizers) == (halved, None)
    if halved:
        assert student.layers == (6 if preset == "paper" else 3)
    bits = integer.quantizers
    assert (
        bits.weight_quantizer, bits.weight_bits, bits.embedding_quantizer, bits.embedding_bits
    ) == grids  # fmt: skip
    assert (integer.method, integer.teacher) == ("qat", 1.0)
    adapt = stages["length_adapt"]
    assert (integer.sampler, integer.bound) == (adapt.sampler, adapt.bound)


@pytest.mark.parametrize("preset", ["squad_cpu", "glue_cpu"])
def test_compound_rounds_the_supernet_of_quala_minilm(workflow: WorkflowSpec, preset: str) -> None:
    needed = NEEDED[preset]
    ours = settings(find_workflow("compound"), f"experiment=compound/{preset}", *needed)
    theirs = settings(workflow, f"experiment={preset}", *needed)
    assert ours.stages["length_adapt"] == theirs.stages["length_adapt"]
    assert ours.stages["search"] == theirs.stages["search"]


@pytest.mark.parametrize("name", [*RECIPES, *CROSSINGS])
def test_a_recipe_shares_data_and_teacher_with_quala_minilm(
    workflow: WorkflowSpec, name: str
) -> None:
    recipe = find_workflow(name)
    for own, common, needed in (
        ([], "demo", []),
        ([f"experiment={name}/squad_cpu"], "squad_cpu", NEEDED["squad_cpu"]),
        ([f"experiment={name}/glue_cpu"], "glue_cpu", NEEDED["glue_cpu"]),
    ):
        ours = settings(recipe, *own, *needed)
        theirs = settings(workflow, f"experiment={common}", *needed)
        assert (ours.data, ours.model) == (theirs.data, theirs.model)
        for stage in ("finetune", "measure"):
            assert ours.stages[stage] == theirs.stages[stage]


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_one_option_sets_the_bits_of_weights_and_embeddings(bits: int) -> None:
    found = settings(find_workflow("kdlsq"), f"stage.distill.quantizers.weight_bits={bits}")
    quantizers = found.stages["distill"].quantizers
    assert (quantizers.weight_bits, quantizers.embedding_bits) == (bits, bits)


@pytest.mark.parametrize("ratio", [2.5, 5, 7.5, 10])
def test_one_option_sets_how_much_smaller_a_model_gets(ratio: float) -> None:
    found = settings(find_workflow("ladabert"), f"stage.distill.shrink.ratio={ratio}")
    steps = found.stages["distill"].shrink.one_by_one()
    assert [step.now().ratio for step in steps] == pytest.approx([ratio**0.5, ratio])


@pytest.mark.parametrize("preset", ["demo", "glue_cpu", "paper"])
def test_improving_kd_is_one_distillation_to_vary(workflow: WorkflowSpec, preset: str) -> None:
    words = [f"experiment=improving_kd/{preset}", *NEEDED.get(preset, [])]
    stages = settings(workflow, *words, "stage.distill.hidden_loss=cosine").stages
    on = [name for name, stage in stages.items() if getattr(stage, "enabled", True)]
    assert set(on) == {"finetune", "distill", "measure", "report"}
    student = stages["distill"]
    assert student.weights == {"hidden": 1.0, "attention": 1.0, "soft": 1.0}
    assert (student.hidden_loss, student.keep_map) == ("cosine", "uniform")


@pytest.mark.parametrize("preset", ["demo", "squad_cpu", "glue_cpu", "paper"])
def test_hsk_follows_stored_states_and_then_stored_answers(preset: str) -> None:
    words = [f"experiment=hsk/{preset}", *NEEDED.get(preset, [])]
    stages = settings(find_workflow("hsk"), *words).stages
    inner, answers = stages["distill"], stages["refine"]
    assert (inner.weights, answers.weights) == ({"hidden": 1.0}, {"soft": 1.0})
    assert (inner.cache.depth, inner.cache.tokens, inner.cache.width) == (1, 10, 0.1)
    assert answers.cache is not None
    assert (inner.schedule, inner.width, answers.width) == (
        "constant", 0.25 if preset == "paper" else 0.5, 1.0
    )  # fmt: skip


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_composes(option: str) -> None:
    every = WorkflowSpec("every", lambda flow: None, Path(__file__))
    settings(every, "~experiment", option, *NEEDED.get(option, []))


@pytest.mark.parametrize("name", RECIPES)
def test_any_recipe_may_cache_its_teacher(name: str) -> None:
    words = ["+cache@stage.distill.cache=hsk", "stage.distill.attention=0"]
    found = settings(find_workflow(name), *words).stages["distill"]
    preset = settings(find_workflow("quala_minilm"), "stage/distill=hsk").stages["distill"]
    assert (found.cache.depth, found.cache.tokens, found.cache.width) == (1, 10, 0.1)
    assert found.cache == preset.cache


def test_every_stage_has_defaults() -> None:
    assert {f"stage/{name}=default" for name in STAGES} <= set(OPTIONS)


@pytest.mark.parametrize("name", workflow_scripts())
def test_a_workflow_names_the_stages_that_it_runs(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, run = [], Flow.run

    def noted(flow: Flow, stage: Any, /, **more: Any) -> Any:
        asked.append(stage if isinstance(stage, str) else stage.stage)
        return run(flow, stage, **more)

    monkeypatch.setattr(Flow, "run", noted)
    identities(find_workflow(name), [])
    assert list(find_workflow(name).stages) == list(dict.fromkeys(asked))


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["experiment=squad_cpu"], "either `data.path` or `data.name`"),
        (["tracking=server"], "`tracking.uri` has no value"),
        (["experiment=squat"], "Did you mean `squad`"),
        (["stage/quantize=papers"], "Did you mean `paper`"),
        (["stage.length_adapt.sampler=few_drop"], "Did you mean `few_drops`"),
        (["stage/quantize=paper", "stage.quantize.method=qat"], "would learn nothing"),
        (["experiment=kdlsq/demo"], "one of the workflow `kdlsq`, got `quala_minilm`"),
        (["stage.distill.significance=span"], "ranks tokens by the span head at every layer"),
        (["stage.search.strategy=bayes"], "Did you mean `bayesian`"),
        (["stage.distill.quantizers.weight_bits=4"], "cannot be set inside one that is null"),
        (["stage.distill.cache={tokens: 3}"], "cannot be set inside one that is null"),
    ],
)
def test_what_is_missing_or_wrong_is_one_sentence(
    workflow: WorkflowSpec, overrides: list[str], sentence: str
) -> None:
    with pytest.raises(QualaError, match=sentence):
        settings(workflow, *overrides)


def test_the_paper_recipe_is_the_published_one(workflow: WorkflowSpec) -> None:
    found = settings(workflow, "experiment=squad")
    adapt, integer, search = (
        found.stages[name] for name in ("length_adapt", "quantize", "search")
    )
    assert (adapt.significance, adapt.semantics, adapt.direction) == (
        "column_sum", "reference", "reverse",
    )  # fmt: skip
    assert (adapt.bound, adapt.layer_drop, adapt.num_sandwich) == (0.2, 0.2, 2)
    assert (integer.method, search.strategy) == ("ptq", "published")
    assert found.data.pad_to_max
    assert found.data.max_length == 384


def test_columns_and_subset_are_set_as_options(workflow: WorkflowSpec) -> None:
    words = ["data.columns.text=4", "data.columns.label=stars", "data.header=false"]
    glue = ["experiment=glue_cpu", "data.path=mine", "data.subset=SST-2"]
    data = settings(workflow, *glue, *words).data
    assert data.columns == {"text": "4", "label": "stars"}
    assert (data.header, data.subset) == (False, "sst2")
    assert settings(workflow, *glue).data.columns == {}


@pytest.mark.parametrize("experiment", ["demo", "squad_cpu", "glue"])
def test_a_plan_of_local_sources_needs_no_network(
    experiment: str,
    migrated_database: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from quala.cli.entry import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlruns").mkdir()
    shutil.copy(migrated_database, tmp_path / "mlruns/mlflow.db")
    given = {"demo": [], "squad_cpu": ["data.path=mine"], "glue": ["data.path=mine"]}
    (tmp_path / "mine").mkdir()
    for split in ("train", "validation"):
        (tmp_path / f"mine/{split}.tsv").write_text("sentence\tlabel\nthe first\t0\n")
    words = [*given[experiment], *(["data.name=null"] if experiment == "glue" else [])]
    assert main(["plan", "quala_minilm", f"experiment={experiment}", *words, "--json"]) == 0
    stages = {one["stage"]: one["status"] for one in json.loads(capsys.readouterr().out)["stages"]}
    assert set(stages.values()) <= {"to run", "disabled"}
    assert stages["finetune"] == "to run"
    assert (stages["distill"] == "disabled") == (experiment != "demo")
