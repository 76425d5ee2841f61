"""Mistakes in a configuration come out as one sentence with the nearest name."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

from quala.errors import QualaError
from quala.stage import Stage
from quala.workflow.compose import (
    check_options,
    composed,
    one_sentence,
    swept,
    typed,
    with_experiment,
)
from quala.workflow.script import WorkflowSpec, find_workflow

if TYPE_CHECKING:
    from conftest import Toy

    from quala.workflow import Workflow


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("sed=3", "Unknown configuration key `sed`. Did you mean `seed`"),
        ("stage.secnd.text=b", "Did you mean `stage.second`"),
        ("stage.second.txt=b", "Did you mean `stage.second.text`"),
        ("+stage.second.txt=b", "Did you mean `stage.second.text`"),
        ("+stage.second.text=b", "`stage.second.text` has a value already: .* without [+]"),
        ("seed=abc", "`seed` cannot have this value: .*abc"),
        ("stage.first.repeat=many", "`stage.first.repeat` cannot have this value"),
        ("data.task=squid", "Did you mean `squad`"),
        ("seed=???", "`seed` has no value"),
        ("seed=[1", "not an override"),
        ("data.path=../reviews (1).csv", r"is quoted: 'data\.path=\"../reviews \(1\)\.csv\"'$"),
        ("(", r"not an override such as [^;]*$"),
        ("x" * 300, r"`x{80}[.]{3}` has a key that is too long"),
        ("tracking.uri=ftp://x", r"`tracking.uri` must begin with one of .*, got `ftp`"),
        ("tracking.uri=sqlite:////etc/passwd", "SQLite database, which `/etc/passwd` is not"),
        (
            "tracking.folder=/etc/passwd/x",
            "`tracking.folder` must be a folder",
        ),
        ("tracking.folder=/tmp" + "/abcdefghi" * 50, "at most 400 bytes with the folders above"),
        ("tracking.work=/dev/null", r"`tracking.work` must be a folder"),
        ("seed=${sed}", "sed"),
        ("seed=1,2", "`seed=1,2` gives several values: a list is .*, a sweep needs `-m`"),
        ("workflow=other", "`workflow` is `toy` here, got `other`"),
        ("model.teachr=x", r"`\+model.teachr=VALUE` adds it"),
        ("data.max_length=4", "`data.max_length` must be at least 8 and .*, got 4"),
    ],
)
def test_a_mistake_is_one_sentence(toy: Toy, override: str, sentence: str) -> None:
    workflow = toy.workflow
    with pytest.raises(QualaError, match=sentence) as raised, one_sentence(workflow):
        typed(composed(workflow, [override]), workflow)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("stage.finetune.epochs=inf", "`stage.finetune.epochs` must be above 0 and .* finite"),
        ("stage.search.max_cost=nan", "`stage.search.max_cost` must be above 0 and .* finite"),
        ("stage.search.min_score=nan", "`stage.search.min_score` must be .* finite, got nan"),
        ("seed=-1", "`seed` must be at least 0 and at most 4294967295, got -1"),
        ("stage.finetune.seed=-1", "`stage.finetune.seed` must be at least 0 and at most 429"),
        (
            "stage.length_adapt.bound_start=0.9",
            "`stage.length_adapt.bound_start` must be at most `stage.length_adapt.bound`, got 0.9",
        ),
        ("stage.distill.layer_map=[]", "`stage.distill.layer_map` must name a layer"),
        (
            "+stage.distill.losses={fractions.Fraction:nan}",
            "`stage.distill.losses`: The distillation loss `fractions.Fraction` must be",
        ),
        (
            "stage.measure.max_loss=-1",
            "`stage.measure.max_loss` must be at least 0 and .*, got -1",
        ),
        (
            "stage.measure.name=supernet",
            "`stage.measure.name` must be a name that no other row has, got `supernet`",
        ),
        (
            "stage.export.runtime=torch",
            "of `stage.export.runtime` `torch`. Allowed: onnxruntime, op",
        ),
        ("stage.distill.quantizrs=null", "Did you mean `stage.distill.quantizers`"),
    ],
)
def test_values_of_stages_are_checked_before_any_runs(override: str, sentence: str) -> None:
    workflow = find_workflow("quala_minilm")
    with pytest.raises(QualaError, match=sentence), one_sentence(workflow):
        typed(composed(workflow, [override]), workflow)


def test_a_misspelt_option_of_a_preset_has_a_nearest_name() -> None:
    workflow = find_workflow("kdlsq")
    found = "Did you mean `stage.distill.quantizers.weight_bits`"
    with pytest.raises(QualaError, match=found), one_sentence(workflow):
        composed(workflow, ["stage.distill.quantizers.weigth_bits=4"])


def test_a_group_choice_has_a_nearest_name(toy: Toy) -> None:
    folder = toy.folder / "conf/experiment"
    folder.mkdir()
    (folder / "tiny.yaml").write_text("# @package _global_\nseed: 7\n")
    workflow = toy.workflow
    assert typed(composed(workflow, ["experiment=tiny"]), workflow).seed == 7
    with pytest.raises(QualaError, match="Did you mean `tiny`"), one_sentence(workflow):
        composed(workflow, ["experiment=tny"])


def test_an_unknown_key_in_a_file_is_named(toy: Toy) -> None:
    folder = toy.folder / "conf/experiment"
    folder.mkdir()
    (folder / "bad.yaml").write_text("# @package _global_\nstage: {first: {txt: b}}\n")
    workflow = toy.workflow
    with pytest.raises(QualaError, match="txt"), one_sentence(workflow):
        composed(workflow, ["experiment=bad"])


@pytest.fixture
def own(toy: Toy) -> Workflow:
    """The toy workflow with experiments of its own."""
    folder = toy.folder / "conf/experiment/toy"
    folder.mkdir(parents=True)
    for name, seed in (("demo", 7), ("large", 8)):
        (folder / f"{name}.yaml").write_text(f"# @package _global_\nseed: {seed}\n")
    (toy.folder / "conf/experiment/common.yaml").write_text("# @package _global_\nseed: 9\n")
    return toy.workflow


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ([], ["experiment=toy/demo"]),
        (["seed=3"], ["experiment=toy/demo", "seed=3"]),
        (["-m", "seed=3,4"], ["-m", "experiment=toy/demo", "seed=3,4"]),
        (["-m", "~data"], ["-m", "experiment=toy/demo", "~data"]),
        (["--cfg", "job"], ["experiment=toy/demo", "--cfg", "job"]),
        (["--cfg", "job", "seed=3"], ["--cfg", "job", "experiment=toy/demo", "seed=3"]),
        (["experiment=toy/large"], ["experiment=toy/large"]),
        (["-m", "experiment=toy/demo,toy/large"], ["-m", "experiment=toy/demo,toy/large"]),
        (["~experiment"], ["~experiment"]),
    ],
)
def test_a_workflow_starts_from_its_own_demo(
    own: Workflow, words: list[str], completed: list[str]
) -> None:
    assert with_experiment(own, words) == completed


def test_the_own_demo_is_composed(own: Workflow) -> None:
    assert [typed(composed(own, words), own).seed for words in ([], ["~experiment"])] == [7, 0]


def test_a_workflow_without_experiments_starts_from_none(toy: Toy) -> None:
    assert with_experiment(toy.workflow, ["seed=3"]) == ["seed=3"]


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        ("common", "Unknown experiment of `toy` `common`. .*Allowed: toy/demo, toy/large"),
        ("toy/demo,large", "Unknown experiment of `toy` `large`. Did you mean `toy/large`"),
        ("toy/larg", "Unknown experiment `toy/larg`. Did you mean `toy/large`"),
    ],
)
def test_an_experiment_of_another_workflow_is_refused(
    own: Workflow, choice: str, sentence: str
) -> None:
    with pytest.raises(QualaError, match=sentence), one_sentence(own):
        composed(own, [f"experiment={choice}"])


@pytest.fixture
def shared(toy: Toy) -> WorkflowSpec:
    """Two of three stages, and an experiment that sets options of all."""
    (toy.folder / "conf/experiment").mkdir()
    values = "first: {text: x}, third: {text: y}"
    shared = f"# @package _global_\nstage: {{{values}}}\n"
    (toy.folder / "conf/experiment/shared.yaml").write_text(shared)
    return SomeStages(**vars(toy.workflow))


class SomeStages(WorkflowSpec):
    """A workflow that runs two of the stages that its configuration knows."""

    @property
    def stages(self) -> dict[str, Stage]:
        return {name: self.known_stages[name] for name in ("first", "second")}


def test_values_of_other_stages_are_dropped_where_an_experiment_sets_them(
    shared: WorkflowSpec,
) -> None:
    found = typed(composed(shared, ["experiment=shared"]), shared)
    assert list(found.stages) == ["first", "second"]
    assert found.stages["first"].text == "x"


@pytest.mark.parametrize(
    "word",
    [
        "stage.third.text=y",
        "+stage/third=a",
        "+part@stage.third.part=a",
        "~stage.third.text",
        "stage={third: {text: y}}",
    ],
)
def test_an_override_of_another_stage_is_refused(shared: WorkflowSpec, word: str) -> None:
    with pytest.raises(QualaError) as raised, one_sentence(shared):
        composed(shared, [word])
    assert str(raised.value) == (
        f"`{word}` sets the stage `third`, which the workflow `toy` does not have; its stages: "
        "first, second."
    )


@pytest.mark.parametrize("value", ["../d/reviews (1).csv", 'a "b", {c} [d.csv', "it's (1).csv"])
def test_a_value_quoted_as_the_mistake_says_is_that_value(toy: Toy, value: str) -> None:
    workflow = toy.workflow
    with pytest.raises(QualaError) as raised, one_sentence(workflow):
        composed(workflow, [f"data.path={value}"])
    (word,) = shlex.split(str(raised.value).partition("is quoted: ")[2])
    assert composed(workflow, [word]).data.path == value


def noted(workflow: WorkflowSpec, *words: str, varied: Sequence[str] = ()) -> list[str]:
    return check_options(composed(workflow, words), words, varied)


OFF = "stage.second.enabled=false"


@pytest.mark.parametrize(
    "words",
    [
        ["stage.second.given=here", "stage.second.text=b"],
        ["stage.second.text=b", OFF],
        ["stage.second.force=true", OFF],
        ["stage={second:{text:b,enabled:false}}"],
    ],
)
def test_an_option_of_a_stage_that_does_not_run_is_refused(toy: Toy, words: list[str]) -> None:
    with pytest.raises(QualaError, match=r"has no effect: the stage `second` is (given|switched)"):
        noted(toy.workflow, *words)


@pytest.mark.parametrize(
    "words",
    [
        ["stage.second.text=b", "stage.first.given=null"],
        ["stage.second.text=b", "stage.first.given=here"],
        ["stage.second.given=here", "stage.second.enabled=true"],
        [OFF, "stage.second.text=b", "stage.third.text=${stage.second.text}"],
    ],
)
def test_an_option_that_counts_is_not(toy: Toy, words: list[str]) -> None:
    assert noted(toy.workflow, *words) == []


def test_a_preset_of_a_stage_that_is_off_is_refused() -> None:
    words = ["stage/distill=hsk", "stage.distill.enabled=false"]
    with pytest.raises(QualaError, match="`stage/distill=hsk` has no effect"):
        noted(find_workflow("quala_minilm"), *words)


def test_a_sweep_may_switch_a_stage_off(toy: Toy) -> None:
    job = [OFF, "stage.second.text=b"]
    varied = swept(["-m", "stage.second.enabled=true,false", "stage.second.text=b", "seed=0,1"])
    assert varied == ["stage.second.enabled=true,false", "seed=0,1"]
    assert noted(toy.workflow, *job, varied=varied) == [
        "`stage.second.text=b` has no effect: the stage `second` is switched off here."
    ]
    with pytest.raises(QualaError, match="no effect"):
        noted(toy.workflow, *job, varied=["stage.second.text=b,c", "seed=0,1"])


def test_epochs_beside_a_presets_steps_are_explained() -> None:
    workflow = find_workflow("quala_minilm")
    words = ["experiment=squad_cpu", "data.path=d", "stage.length_adapt.epochs=50"]
    (told,) = noted(workflow, *words)
    assert "`max_steps` 1500 of the preset" in told
    assert "`stage.length_adapt.max_steps=null`" in told
    assert noted(workflow, *words, "stage.length_adapt.max_steps=null") == []
    assert noted(workflow, *words, "stage.length_adapt.max_steps=9") == []


def test_a_path_in_the_home_folder_needs_no_quotes(toy: Toy) -> None:
    given = composed(toy.workflow, ["data.path=~/my-data/train.csv"])
    assert given.data.path == "~/my-data/train.csv"
    words = with_experiment(toy.workflow, ["~seed", "data.path=~/a,~/b", "data.title='x,~y,z'"])
    assert words == ["~seed", "data.path='~/a','~/b'", "data.title='x,~y,z'"]
    assert swept(words) == words[1:2]
    stored = composed(toy.workflow, ["tracking.folder=~/runs"])
    assert stored.tracking.folder == os.path.expanduser("~/runs")  # where Hydra writes, too


def test_a_sweep_without_an_end_is_refused_before_it_is_listed() -> None:
    with pytest.raises(QualaError, match="at most 10000 jobs"):
        swept(["seed=range(0,100000000)"])
    with pytest.raises(QualaError, match="at most 10000 jobs"):
        swept(["seed=range(0,1000)", "data.seed=range(0,1000)"])
    assert swept(["seed=range(0,9)", "data.seed=1"]) == ["seed=range(0,9)"]
    with pytest.raises(QualaError, match=r"`seed=range\(1,1\)` gives no value"):
        swept(["seed=range(1,1)"])


def test_a_glob_is_the_options_that_it_names(toy: Toy) -> None:
    workflow = find_workflow("kdlsq")
    words = ["data=glob(*,exclude=s*)", "+stage.distill.x='a=glob(b)'"]
    found = with_experiment(workflow, [*words, "experiment=glob(kdlsq/*_cpu)"])
    assert found == [
        "data=demo,glue,ner,triples",
        words[1],
        "experiment=kdlsq/glue_cpu,kdlsq/squad_cpu",
    ]
    assert swept(found) == [found[0], found[2]]
    with pytest.raises(QualaError, match=r"choice for `data` `glob\(x\)`. Allowed: demo"):
        with_experiment(workflow, ["data=glob(x)"])
