"""Composition by Hydra: schemas in, typed settings out, errors as one sentence."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from hydra import compose, initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException, ValidationError
from omegaconf.resolvers.oc import env

from quala.errors import QualaError, quoted, unknown
from quala.plugins import known_names
from quala.ranges import LONGEST_PART
from quala.redact import hide_variable
from quala.workflow.groups import (
    EXPERIMENT,
    PLAIN,
    Where,
    conf_folders,
    experiments_of,
    options_of,
)
from quala.workflow.identity import leaves
from quala.workflow.script import WorkflowSpec, workflow_scripts
from quala.workflow.server import chosen_address
from quala.workflow.settings import Settings, root_schema, settings

SCHEMA = "quala_schema"
DEMO = "demo"
MOST_JOBS = 10_000
VERSION_BASE = "1.3"
_EXPERIMENT = re.compile(r"~?experiment(=|$)")
_OVERRIDE = re.compile(r"~|[^-][^=]*=")
_HOME = re.compile(r"(?<=[=,])~[\w./-]*(?=,|$)")
_STAGE = re.compile(r"(?:^[+~]*|@)stage[./](\w+)(?:\.(\w+))?")


def _from_environment(name: str, *default: str | None) -> str | None:
    """Return a variable's value as OmegaConf's own `oc.env` does, and keep it out of texts."""
    value = env(name, *default)
    if value is not None and name in os.environ:
        hide_variable(name, value, known_names())
    return value


OmegaConf.register_new_resolver("oc.env", _from_environment, replace=True)


def register(workflow: WorkflowSpec) -> None:
    """Register the schema that Hydra checks a workflow's configuration against."""
    configs = {name: stage.config for name, stage in workflow.known_stages.items()}
    ConfigStore.instance().store(name=SCHEMA, node=root_schema(configs, workflow.name))


def composed(
    workflow: WorkflowSpec,
    overrides: Sequence[str],
    where: Where = PLAIN,
    *,
    whole: bool = False,
) -> DictConfig:
    """Return the configuration that Hydra composes from a workflow and overrides.

    `whole` keeps the part of Hydra itself.
    """
    overrides = with_experiment(workflow, overrides, where)
    with initialized(workflow, where):
        return compose(where.name, overrides=overrides, return_hydra_config=whole)


@contextmanager
def initialized(workflow: WorkflowSpec, where: Where = PLAIN) -> Iterator[None]:
    """Have Hydra know the configurations of a workflow, and those of the command line."""
    register(workflow)
    folder = str(workflow.conf.absolute())
    with initialize_config_dir(config_dir=folder, version_base=VERSION_BASE):
        if where.folder:  # as `hydra.main` does it, which `compose` cannot
            path = create_config_search_path(folder)
            own = f"file://{os.path.abspath(where.folder)}"
            path.prepend("command-line", own, SearchPathQuery(provider="schema"))
            GlobalHydra.instance().clear()
            Hydra.create_main_hydra2(workflow.name, path)
        yield


def with_experiment(
    workflow: WorkflowSpec, words: Sequence[str], where: Where = PLAIN
) -> list[str]:
    """Return the words of a command line, with the workflow's own demo if they name no experiment.

    A workflow that has a folder in conf/experiment starts from the `demo` there. Values such as
    `~/models` are quoted, which Hydra's grammar wants, and of a `glob` the options are named.

    Raises:
        QualaError: for an experiment or an option of a stage that only other workflows have.
    """
    words = [word if set(word) & {"'", '"'} else _HOME.sub(_quoted_home, word) for word in words]
    for word in words:
        if len((key := word.partition("=")[0]).encode()) > LONGEST_PART:  # files are looked for
            raise QualaError(f"The override `{quoted(key)}` has a key that is too long.")
        _check_stage(workflow, word)
    folders = conf_folders(workflow, where, words)
    words = [_named(word, workflow, folders) if "=glob(" in word else word for word in words]
    chosen = [word for word in words if _EXPERIMENT.match(word)]
    own = options_of(folders[1:], EXPERIMENT)
    for word in chosen:
        for name in word.partition("=")[2].split(","):
            if (one := name.strip("'\" ")) not in own:
                _check_experiment(workflow, one)
    demo = f"{workflow.name}/{DEMO}"
    if chosen or demo not in workflow.experiments:
        return list(words)
    # Right before the first override, for options may not stand between them; else in front.
    place = next((n for n, word in enumerate(words) if _OVERRIDE.match(word)), 0)
    return [*words[:place], f"experiment={demo}", *words[place:]]


def _named(word: str, workflow: WorkflowSpec, folders: Sequence[Path]) -> str:
    """Return an override with the options of its group that a `glob` stands for."""
    one = OverridesParser.create().parse_override(word)
    value: Any = one.value()
    group = one.key_or_group
    if not isinstance(value, Glob):
        return word
    own = group == EXPERIMENT
    known = experiments_of(workflow, folders) if own else options_of(folders, group)
    if not (found := value.filter(list(known))):
        raise unknown(f"choice for `{group}`", word.partition("=")[2], known)
    return f"{one.get_key_element()}={','.join(found)}"


def _quoted_home(found: re.Match[str]) -> str:
    # Hydra's own files lie in `tracking.folder` too, and it knows no `~`.
    ours = re.match(r"\+*tracking\.(folder|work)=", found.string)
    return f"'{os.path.expanduser(found[0]) if ours else found[0]}'"


def _stage_options(word: str) -> list[tuple[str, str]]:
    """Return the stages that a word of the command line sets, each with the option or ``."""
    if not re.match(r"\+*stage=", word):
        return _STAGE.findall(word.partition("=")[0])
    value = OverridesParser.create().parse_override(word).value()
    stages = value.items() if isinstance(value, dict) else ()
    return [
        (str(name), str(option))
        for name, options in stages
        for option in (options if isinstance(options, dict) else ("",))
    ]


def swept(words: Sequence[str]) -> list[str]:
    """Return the overrides of a command line that have several values."""
    parser = OverridesParser.create()
    known = [word for word in words if _OVERRIDE.match(word) and "=" in word]
    varied = {
        word: one for word in known if (one := parser.parse_override(word)).is_sweep_override()
    }
    jobs = 1
    for word, one in varied.items():
        if one.is_discrete_sweep():
            jobs *= sum(1 for _ in islice(one.sweep_iterator(), MOST_JOBS + 1))
        if not jobs:
            raise QualaError(f"`{quoted(word)}` gives no value, and so the sweep no job.")
        if jobs > MOST_JOBS:  # Hydra composes them all first
            raise QualaError(f"A sweep has at most {MOST_JOBS} jobs, `{quoted(word)}` gives more.")
    return list(varied)


def sample_jobs(words: Sequence[str]) -> list[list[str]]:
    """Return jobs of a sweep in which each value of each override occurs, no more than needed.

    There are none for a sweep with values that only a sweeper knows, such as intervals.
    """
    parser = OverridesParser.create()
    choices = []
    for word in words:
        one = parser.parse_override(word)
        if not one.is_sweep_override():
            choices.append([word])
        elif one.is_discrete_sweep():
            values = islice(one.sweep_string_iterator(), MOST_JOBS)
            choices.append([f"{one.get_key_element()}={value}" for value in values])
        else:
            return []
    most = max(map(len, choices), default=1)
    return [[values[job % len(values)] for values in choices] for job in range(most)]


def check_options(
    config: DictConfig, words: Sequence[str], varied: Sequence[str] = ()
) -> list[str]:
    """Return notes on the options that were typed.

    `varied` are the overrides of a sweep with several values. Raises QualaError for an option of
    a stage that does not run: it is given or switched off, and not by a value of the sweep.
    """
    text, notes = OmegaConf.to_yaml(config), []
    typed_options = {pair for word in words for pair in _stage_options(word)}
    for word in words:
        for name, option in _stage_options(word):
            stage = config.stage[name]
            if stage.enabled and stage.given is None:
                steps = stage.get("max_steps")
                if option == "epochs" and steps and (name, "max_steps") not in typed_options:
                    notes.append(
                        f"`{word}`: the training ends after `max_steps` {steps} of the preset if "
                        f"that comes first; `stage.{name}.max_steps=null` leaves it to the epochs."
                    )
            elif option not in ("enabled", "given") and f"${{stage.{name}.{option}}}" not in text:
                reason = "given" if stage.enabled else "switched off"
                told = f"`{word}` has no effect: the stage `{name}` is {reason}"
                if not any(_decides(other, name) for other in varied):
                    option = "given" if stage.enabled else "enabled"
                    raise QualaError(
                        f"{told}, see `stage.{name}.{option}`; leave one of both out."
                    )
                notes.append(f"{told} here.")
    return notes


def _decides(word: str, name: str) -> bool:
    """Return whether a word may say if a stage runs."""
    choices = {(name, ""), (name, "enabled"), (name, "given")}
    return bool(_EXPERIMENT.match(word) or choices & set(_stage_options(word)))


def _check_stage(workflow: WorkflowSpec, word: str) -> None:
    for name, _ in _stage_options(word):
        if name in workflow.known_stages and name not in workflow.stages:
            raise QualaError(
                f"`{word}` sets the stage `{name}`, which the workflow `{workflow.name}` does not "
                f"have; its stages: {', '.join(workflow.stages)}."
            )


def _check_experiment(workflow: WorkflowSpec, name: str) -> None:
    owner, _, rest = name.rpartition("/")
    if owner == workflow.name or name in ("", "null"):
        return
    if workflow.experiments:
        raise unknown(f"experiment of `{workflow.name}`", name, workflow.experiments)
    if rest and {owner, workflow.name} <= workflow_scripts().keys():
        raise QualaError(
            f"`experiment={name}` is one of the workflow `{owner}`, got `{workflow.name}`."
        )


def typed(config: DictConfig, workflow: WorkflowSpec) -> Settings:
    """Return typed settings; raise QualaError for what is missing or wrong."""
    if config.workflow != workflow.name:
        raise QualaError(f"`workflow` is `{workflow.name}` here, got `{config.workflow}`.")
    if OmegaConf.is_missing(config.tracking, "uri") and chosen_address(None):
        config = OmegaConf.merge(config, {"tracking": {"uri": None}})  # type: ignore[assignment]
    needed = own_values(config, workflow, resolve=False)
    for name, value in sorted(leaves(needed), key=lambda leaf: leaf[0]):
        if value == MISSING:
            raise QualaError(f"`{name}` has no value: give one with `{name}=`.")
    configs = {name: stage.config for name, stage in workflow.stages.items()}
    return settings(own_values(config, workflow), configs)


def own_values(
    config: DictConfig, workflow: WorkflowSpec, *, resolve: bool = True
) -> dict[str, Any]:
    """Return the values of a configuration without those of stages that only others run.

    A shared experiment may set the options of such stages.
    """
    values: Any = OmegaConf.to_container(config, resolve=resolve)
    others = workflow.known_stages.keys() - workflow.stages.keys()
    stages = {name: own for name, own in values["stage"].items() if name not in others}
    return {**values, "stage": stages}


@contextmanager
def one_sentence(workflow: WorkflowSpec) -> Iterator[None]:
    """Turn the errors of Hydra and OmegaConf into QualaErrors."""
    try:
        yield
    except MissingConfigException as error:
        raise _missing(error, workflow) from error
    except OverrideParseException as error:
        key, _, value = str(error.override).partition("=")
        wanted = shlex.quote('{}="{}"'.format(key, value.replace('"', r"\"")))
        hint = "; a text with blanks, brackets, commas or letters beyond a to z is quoted: "
        raise QualaError(
            f"`{quoted(error.override, 300)}` is not an override such as `seed=1`"
            + (f"{hint}{quoted(wanted, 300)}" if value else "")
        ) from error
    except (HydraException, OmegaConfBaseException) as error:
        raise _explained(error, workflow) from error
    except (AssertionError, AttributeError) as error:
        # OmegaConf raises these for a value inside null, and for a mapping in place of null.
        if not any(sign in str(error) for sign in ("Unexpected type for root", "Optional[")):
            raise
        raise QualaError(
            "An option cannot be set inside one that is null, which a preset fills, such as "
            "`stage/distill=kdlsq` with `stage.distill.quantizers.weight_bits=4`, or "
            "`+cache@stage.distill.cache=hsk`."
        ) from error
    except (OverflowError, RecursionError) as error:
        raise QualaError(f"A value is too large: {_first(error)}.") from error
    except ValueError as error:
        if "integer string conversion" in str(error):
            raise QualaError(f"A number is too long: {_first(error)}.") from error
        if "Config group override" not in str(error):
            raise
        raise QualaError(
            "A group cannot be set to null: `~experiment` leaves the experiment out."
        ) from error


def _missing(error: MissingConfigException, workflow: WorkflowSpec) -> QualaError:
    name = str(error.missing_cfg_file)
    if error.options:
        group, _, option = name.rpartition("/")
        if group == f"experiment/{workflow.name}":
            return unknown("experiment", name.partition("/")[2], workflow.experiments)
        named = [name for name in error.options if not name.startswith("_")]
        return unknown(f"choice for `{group}`", option, named)
    return QualaError(f"There is no configuration `{name}`.")


def _explained(error: Exception, workflow: WorkflowSpec) -> QualaError:
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    key = _key(error, cause)
    if "hydra.searchpath is only supported" in str(error):
        return QualaError(
            "`hydra.searchpath` stands on the command line or in the primary configuration "
            f"(`--config-name`), no other file can set it: {_first(cause)}"
        )
    if isinstance(cause, ValidationError) and key:
        return QualaError(f"`{key}` cannot have this value: {_first(cause)}")
    several = re.match(r"Ambiguous value for argument '(.*)'", str(error))
    if several:
        return QualaError(
            f"`{several.group(1)}` gives several values: a list is `[1,2]`, a sweep needs `-m`."
        )
    if key and "An item is already at" in str(error):
        return QualaError(f"`{key}` has a value already: `{key}=VALUE`, without +, changes it.")
    if isinstance(error, ConfigCompositionException) and key:
        return _unknown_key(key, workflow) or QualaError(
            f"`{key}` cannot be set, no configuration names it: `+{key}=VALUE` adds it."
        )
    return QualaError(f"The configuration cannot be composed: {_first(cause)}")


def _key(error: Exception, cause: BaseException) -> str | None:
    override = re.search(r"Could not (?:override|append|delete)[^']*'([^']+)'", str(error))
    if override:
        return override.group(1).partition("@")[0].replace("/", ".").rstrip(".")
    full = re.search(r"full_key: (\S+)", str(cause)) or re.search(r"full_key: (\S+)", str(error))
    return full.group(1) if full else None


def _unknown_key(key: str, workflow: WorkflowSpec) -> QualaError | None:
    """Return the error with the nearest name; None for a key below a mapping of free names."""
    configs = {name: stage.config for name, stage in workflow.stages.items()}
    kind: Any = root_schema(configs, workflow.name)
    prefix = ""
    for part in key.split("."):
        found = [one for one in (kind, *get_args(kind)) if dataclasses.is_dataclass(one)]
        groups = set() if prefix else {"experiment", "hydra"}
        if not found or part in groups:
            return None
        kinds = {item.name: item.type for item in dataclasses.fields(found[0])}
        if part not in kinds:
            allowed = [f"{prefix}{name}" for name in kinds.keys() | groups]
            return unknown("configuration key", f"{prefix}{part}", allowed)
        prefix = f"{prefix}{part}."
        kind = kinds[part]
    return None


def _first(error: BaseException) -> str:
    return quoted(str(error).strip().partition("\n")[0], 300)
