"""Every option of every workflow is checked when it is composed, whatever it is set to."""

from __future__ import annotations

import copy
import dataclasses
import math
import subprocess
import sys
import types
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from quala.data.spec import DataSpec
from quala.errors import QualaError
from quala.ranges import LONGEST
from quala.stages import STAGES
from quala.workflow.compose import check_options, composed, one_sentence, own_values, typed
from quala.workflow.plan import check_plan
from quala.workflow.script import WorkflowSpec, find_workflow, workflow_scripts
from quala.workflow.settings import FlowConfig, TrackingConfig, build

CONFIGS = {
    **{f"stage.{name}": stage.config for name, stage in STAGES.items()},
    "data": DataSpec,
    "flow": FlowConfig,
    "tracking": TrackingConfig,
}
WORKFLOWS = sorted(workflow_scripts())
PRESETS = {  # where options are that are null by default
    "kdlsq": ["+cache@stage.distill.cache=hsk", "stage.distill.attention=0"],
    "quala_minilm": [
        "stage.distill.significance=question",
        "+stage.distill.quantizers={}",
    ],
}


def parts(hint: Any) -> list[Any]:
    """Return what a hint is made of: the types in unions, lists and mappings."""
    if get_origin(hint) in (Union, types.UnionType, list, tuple, dict):
        return [part for inner in get_args(hint) for part in parts(inner)]
    return [hint]


def options(config: type[Any], path: str) -> Iterator[tuple[str, dataclasses.Field[Any], Any]]:
    """Yield each option of a config and of those in it, with its name and its type."""
    hints = get_type_hints(config)
    for item in dataclasses.fields(config):
        inner = [part for part in parts(hints[item.name]) if dataclasses.is_dataclass(part)]
        if item.init and not inner:
            yield f"{path}.{item.name}", item, hints[item.name]
        for one in inner:
            yield from options(one, f"{path}.{item.name}")


OPTIONS = {
    name: (item, hint)
    for path, config in CONFIGS.items()
    for name, item, hint in options(config, path)
}


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_an_option_says_what_it_may_be(name: str) -> None:
    """A number has limits on both sides; a text is one of a few names, or is of a kind."""
    item, hint = OPTIONS[name]
    told, kinds = item.metadata, parts(hint)
    if {int, float} & set(kinds):
        limits = told.get("range", {})
        assert {"above", "at_least"} & limits.keys(), f"{name} has no lower limit, see `ranged`"
        assert {"below", "at_most"} & limits.keys(), f"{name} has no upper limit, see `ranged`"
    keys = dict in (get_origin(hint), *map(get_origin, get_args(hint)))
    if str in (kinds[1:] if keys else kinds):
        assert told.get("text") in LONGEST, f"{name} has no kind of text, see `quala.ranges.text`"
    known = {int, float, str, bool, type(None), ...}
    assert all(one in known or get_origin(one) is Literal for one in kinds), f"{name}: {kinds}"


@cache
def base(name: str) -> tuple[WorkflowSpec, DictConfig]:
    workflow = find_workflow(name)
    with one_sentence(workflow):
        return workflow, composed(workflow, PRESETS.get(name, []))


def answer(name: str, changes: dict[str, Any]) -> str:
    """Return the sentence that refuses values of options, empty if they are taken."""
    workflow, composition = base(name)
    config = copy.deepcopy(composition)
    try:
        with one_sentence(workflow):
            for key, value in changes.items():
                OmegaConf.update(config, key, value, merge=False, force_add=True)
            check_plan(workflow, typed(config, workflow))
    except QualaError as error:
        return str(error)
    return ""


@cache
def plain(name: str) -> dict[str, Any]:
    workflow, composition = base(name)
    return own_values(composition, workflow)


def refusal(name: str, option: str, value: Any) -> str:
    """Return the sentence that refuses a value of an option, empty if it is taken."""
    group = next(path for path in CONFIGS if option.startswith(f"{path}."))
    values = copy.deepcopy(plain(name))
    for part in group.split("."):
        values = values[part]
    *path, last = option.removeprefix(f"{group}.").split(".")
    place = values
    for part in path:
        place = place[part]
    place[last] = value
    try:
        build(CONFIGS[group], values, group)
    except QualaError as error:
        return str(error)
    return ""


def own_options(name: str) -> list[str]:
    """Return the options that a workflow's configuration has, of those that are typed."""
    workflow, config = base(name)
    stages = {f"stage.{one}" for one in workflow.stages} | {"data", "flow", "tracking"}
    absent = object()
    return [
        option
        for option in OPTIONS
        if any(option.startswith(f"{one}.") for one in stages)
        and OmegaConf.select(config, option, default=absent) is not absent
    ]


def edges(limits: dict[str, float], *, whole: bool) -> dict[float, bool]:
    """Return values just inside and outside of limits, and whether they are inside."""
    found: dict[float, bool] = {}
    for limit, bound in limits.items():
        up, down = (
            (int(bound) + 1, int(bound) - 1)
            if whole
            else (math.nextafter(bound, math.inf), math.nextafter(bound, -math.inf))
        )
        inside, outside = {
            "above": (up, bound),
            "at_least": (bound, down),
            "below": (down, bound),
            "at_most": (bound, up),
        }[limit]
        found |= {inside: True, outside: False}
    return found if whole else found | {math.inf: False, -math.inf: False, math.nan: False}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_the_limits_of_an_option_are_where_it_says(name: str) -> None:
    """Just outside its limits are told; just inside something else may be wrong."""
    for option in own_options(name):
        item, hint = OPTIONS[option]
        limits = item.metadata.get("range")
        if limits is None:
            continue
        origins = (get_origin(hint), *map(get_origin, get_args(hint)))
        words = " and ".join(f"{one.replace('_', ' ')} {limit}" for one, limit in limits.items())
        sentence, listed = f"`{option}` must be {words}", list in origins
        if dict in origins:
            continue  # of losses of one's own
        for value, inside in edges(limits, whole=int in parts(hint)).items():
            found = refusal(name, option, [value] if listed else value)
            assert found.startswith(sentence) != inside, f"{option}={value}: {found or 'taken'}"


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("a\nb", ("line", "name", "place")),
        ("a\x1b[31mb", ("line", "name", "place")),
        ("a\u202eb", ("line", "name", "place")),
        ("\ud800", ("line", "name", "place")),
        ("a\0b", ("line", "name", "place")),
        ("a" * 5000, ("line", "name", "place")),
        ("", ("name", "place")),
        ("  ", ("name", "place")),
        ("../../x", ("name",)),
        ("/etc/x", ("name",)),
        ("..", ("name",)),
        ("a:b", ("name",)),
        ("[/x]", ("name",)),
        ("~nosuchuser/x", ("name", "place")),
        ("a" * 300, ("name", "place")),
    ],
)
def test_a_text_of_the_wrong_kind_is_refused(text: str, kinds: tuple[str, ...]) -> None:
    for option in own_options("quala_minilm"):
        item, hint = OPTIONS[option]
        if item.metadata.get("text") not in kinds or get_origin(hint) is dict:
            continue
        listed = get_origin(hint) in (list, tuple)
        found = refusal("quala_minilm", option, [text] if listed else text)
        assert found.startswith(f"`{option}` "), f"{option}: {found or 'taken'}"


ODD = st.one_of(
    st.sampled_from(
        [
            None, True, False, [], {}, [None], [[1]], {"a": {"b": []}}, 10**30, -(10**30), 10**400,
            math.nan, math.inf, -math.inf, 1e308, -1e-308, 0, -1, 2**63, "", " ", "nan", "inf",
            "null", "???", "../../x", "/proc/self/mem", "~", "~root", "~nosuchuser", "[/x]",
            "[bold red]x", "'", '"', '"""', "`x`", "{", "}", "[", "${nope}", "${oc.env:HOME}",
            "${oc.env:NO_SUCH_VARIABLE}", "${seed}", "${", "${oc.create:{a:1}}", "${.x}", "$",
            "${oc.decode:'[1,'}", "a\nb", "a\0b", "\x1b[2J", "\ud800", "\u202ex", "e\u0301" * 50,
            "\U0001f600", "x" * 10_000, "a=b", "a,b", "1,2", "runs:/", "models:/", "runs:/x/y",
            "models:/m@a", "f" * 32, "os.system", "quala.errors.QualaError", "math.pi", ".", "..",
            b"x", 1e16, "1e999", "0x10", "1_000", "٣", "ﬁ", "%s", "{0}", "\\", "C:\\x", "file:///x",
        ]
    ),
    st.text(max_size=20),
    st.integers(),
    st.floats(),
    st.lists(st.one_of(st.integers(), st.text(max_size=5), st.none()), max_size=4),
    st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3),
)  # fmt: skip
QUICK = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],  # what fails is small already
    suppress_health_check=list(HealthCheck),
)


def one_line(sentence: str) -> bool:
    return all(character.isprintable() for character in sentence)


@QUICK
@given(data=st.data())
def test_no_value_of_an_option_is_more_than_a_sentence(data: st.DataObject) -> None:
    """Nonsense is taken or refused by one sentence; nothing else is ever raised."""
    name = data.draw(st.sampled_from(WORKFLOWS))
    keys = [*own_options(name), "seed", "progress", "workflow", "model.teacher", "model.odd"]
    changes = data.draw(st.dictionaries(st.sampled_from(keys), ODD, min_size=1, max_size=2))
    found = answer(name, changes)
    assert one_line(found), repr(found)
    assert len(found) < 2000


WORDS = st.one_of(
    st.sampled_from(
        [
            "seed", "+seed=1", "++seed=x", "~seed", "~seed=1", "=", "=1", "a=", "+", "~",
            "++", "@",
            "stage=1", "stage.search=null", "stage.search={}", "~stage.search",
            "+stage.search.x=1",
            "stage/distill=nope", "+stage/distill=kdlsq", "stage/distill=null",
            "stage/distill=[a]",
            "data=null", "data=nope", "~data", "experiment=../x", "experiment=/etc/passwd",
            "experiment=[demo,demo]", "experiment={a:1}", "~experiment=x", "model=null",
            "model={}",
            "model.teacher={a:1}", "tracking=nope", "hydra.run.dir=/proc/x", "hydra=null",
            "hydra.sweeper=nope", "hydra/sweeper=nope", "hydra/launcher=nope", "hydra.verbose=[",
            "stage.search.chunk=choice(1,2)", "seed=range(0,3)", "seed=glob(*)",
            "seed=interval(1,2",
            "stage.distill.losses={a.b:1}", "+stage.distill.losses.x.y=1",
            "data.columns.text=null",
            "+data.columns={a:b}", "data.labels=[a,a]", "data.labels=a", "defaults=[]", "???=1",
            "seed=${", "seed=${seed}", "seed=${oc.env:HOME}", "data.path=${oc.env:NOPE}",
            "-m", "--",
            "stage.report.title='[/x]'", "stage.report.title=[/x]", "a.b.c.d.e=1",
            "seed='", 'seed="',
            "stage.measure.name='../x'", "+a.b=1", "+workflow=x", "workflow=null",
            "progress=maybe",
        ]
    ),
    st.builds(
        "{}{}={}".format,
        st.sampled_from(["", "+", "++", "~"]),
        st.sampled_from(sorted(OPTIONS)),
        st.text(max_size=12),
    ),
    st.text(max_size=12),
)  # fmt: skip


@settings(QUICK, max_examples=40)
@given(name=st.sampled_from(WORKFLOWS), words=st.lists(WORDS, min_size=1, max_size=2))
def test_no_override_is_more_than_a_sentence(name: str, words: list[str]) -> None:
    workflow = find_workflow(name)
    try:
        with one_sentence(workflow):
            config = composed(workflow, words)
            check_options(config, words)
            check_plan(workflow, typed(config, workflow))
    except QualaError as error:
        refused = str(error)
    else:
        refused = ""
    assert one_line(refused), repr(refused)


NOES = """
import contextlib, io, pathlib, sys
from quala.cli.entry import main

for words in {cases}:
    told = io.StringIO()
    with contextlib.redirect_stderr(told):
        code = main(words)
    heavy = {{"torch", "transformers", "mlflow", "pandas", "optuna"}} & set(sys.modules)
    made = [path.name for path in pathlib.Path().iterdir() if path.name != "there"]
    assert (code, heavy, made) == (2, set(), []), (words, code, heavy, made, told.getvalue())
    assert told.getvalue().startswith("error: ") and told.getvalue().count("\\n") == 1, words
"""


def test_a_no_comes_before_torch_mlflow_and_a_store(tmp_path: Path) -> None:
    for name, text in (("list", "[]"), ("kind", '{"model_type": "llama"}'), ("none", "{")):
        (tmp_path / "there" / name).mkdir(parents=True)
        (tmp_path / "there" / name / "config.json").write_text(text)
    bad = [
        ["nope"],
        ["quala_minilm", "sed=3"],
        ["quala_minilm", "seed=-1"],
        ["quala_minilm", "stage.measure.runtime=onnx"],
        ["quala_minilm", "stage.length_adapt.significance=spn"],
        ["quala_minilm", "stage.search.step=1000"],
        ["quala_minilm", "stage.distill.layers=7"],
        ["quala_minilm", "+stage.distill.losses={fractions.Fraction:1}"],
        ["quala_minilm", "stage.search.strategy=fractions.Fraction"],
        ["quala_minilm", "data.name=null", "data.path=there/nope"],
        ["quala_minilm", "data.name=null", "data.path=there"],
        ["quala_minilm", "model.teacher=./there/nope"],
        ["quala_minilm", "model.teacher=there"],
        *(["quala_minilm", f"model.teacher=there/{name}"] for name in ("list", "kind", "none")),
        ["quala_minilm", "stage.finetune.given=there/nope"],
        ["quala_minilm", "stage.finetune.given=there"],
        ["quala_minilm", "stage.search.given=there"],
        ["quala_minilm", "flow.until=nope"],
        ["quala_minilm", "tracking.uri=nope"],
        ["kdlsq", "stage.distill.latent=maybe"],
    ]
    cases = [
        [verb, *words] for verb, some in (("plan", bad), ("run", bad[1::4])) for words in some
    ]
    done = subprocess.run(
        [sys.executable, "-c", NOES.format(cases=cases)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
