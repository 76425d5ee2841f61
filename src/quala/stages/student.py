"""The student of a distillation: made of its teacher, or opened, in visible steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from quala.checkpoint import Checkpoint, load_with_data, metadata
from quala.compress.experts import cut_experts, route_tables
from quala.compress.layer_maps import layer_pairs, layers_to_keep, uniform_layers
from quala.compress.prune.config import sizes_of
from quala.compress.prune.magnitude import (
    Masks,
    fisher_scores,
    masks_of,
    prunable_weights,
    zero_share,
)
from quala.compress.prune.sparse import store_sparse
from quala.compress.prune.structured import (
    Importance,
    extract,
    falling_places,
    sort_width,
    taylor_importance,
    units_of,
)
from quala.compress.quantize.latent import (
    LATENT_FILE,
    Latent,
    read_latent,
    restore_float,
    restore_latent,
    save_latent,
)
from quala.compress.quantize.split import split_ternary
from quala.compress.quantize.transform import is_fake_quantized
from quala.compress.shrink import (
    factorize_words,
    hybrid_compress,
    keep_prefix,
    weight_budget,
    with_zeros,
)
from quala.compress.structure import keep_layers, record_structure, skeleton, structure_of
from quala.cost import architecture_of, parameters
from quala.errors import QualaError
from quala.lengths import elastic_layers
from quala.models.adaptive import LengthAdaptiveModel
from quala.models.load import (
    label_names,
    read_config,
    save_model,
    source_fingerprint,
    stored_facts,
)
from quala.stages.distill_options import span_head_untrained
from quala.stages.quantize import fake_quantize, save_quantized
from quala.stages.teacher import check_teacher
from quala.stages.training import train_batches

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from quala.architecture import Architecture
    from quala.compress.prune.config import ShrinkConfig
    from quala.compress.quantize.config import QuantizeConfig
    from quala.data.features import Batch
    from quala.data.spec import DataSpec
    from quala.stages.distill_options import DistillConfig


KEY = "copied"
Pairs = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Origin:
    """The teacher's layer that each layer of a student copied, and the head that each head did."""

    teacher: str
    """Fingerprint of the teacher's weights. The numbers below mean nothing in another model."""
    layers: list[int]
    heads: list[list[int]]

    def to_json(self) -> dict[str, Any]:
        """Return what quala.json keeps."""
        return {KEY: asdict(self)}


def origin_of(student: str | Path, teacher: str | Path) -> Origin | None:
    """Read which layers of `teacher` a saved student copied; None if it has no such record.

    Raises:
        QualaError: for a damaged record.
    """
    facts = stored_facts(student).get(KEY)
    if facts is None:
        return None
    try:
        origin = Origin(facts["teacher"], list(facts["layers"]), [list(h) for h in facts["heads"]])
    except (KeyError, TypeError) as error:
        raise QualaError(f"`{KEY}` in `{student}` is damaged: {error!r}.") from error
    return origin if origin.teacher == source_fingerprint(teacher) else None


def _itself(student: str | Path, opened: Checkpoint, teacher: str | Path) -> Origin | None:
    """Return the record of a student that is its teacher, as between two steps of `shrink`."""
    found = source_fingerprint(teacher)
    if source_fingerprint(student) != found:
        return None
    sizes = opened.model.arch.sizes
    return Origin(found, list(range(len(sizes))), [list(range(one.heads)) for one in sizes])


@dataclass(frozen=True)
class Student:
    """A student between two steps of its making."""

    checkpoint: Checkpoint
    origin: Origin | None = None
    """None for a student that copied nothing of this teacher."""
    masks: Masks = field(default_factory=dict)
    """The weights that pruning left, which the training must keep at zero elsewhere."""

    @property
    def model(self) -> LengthAdaptiveModel:
        """The model in memory."""
        return self.checkpoint.model

    def with_weights(self, hf: PreTrainedModel, **changes: Any) -> Student:
        """Return this student with another network that ranks tokens in the same way."""
        checkpoint = replace(self.checkpoint, model=self.model.with_network(hf))
        return replace(self, checkpoint=checkpoint, **changes)


def make_student(
    config: DistillConfig, teacher: Checkpoint | None, inputs: Mapping[str, Any]
) -> Student:
    """Return the student that the training starts from, after the steps that the options ask for.

    It is opened where `inputs` has a `model`, else its layers are copied from the teacher, which
    may be None otherwise: it reads other tokens, and is asked elsewhere.
    `DistillConfig.steps` has the names of the steps.

    Raises:
        QualaError: for a `width` with a student that is opened, for `latent` with a float one,
            for a `significance` that needs a span head trained at every layer, and as `shrink`.
    """
    config.check_inputs(inputs)
    if "model" not in inputs and teacher is not None:
        student = copy_layers(config, teacher, inputs["teacher"])
    else:
        labels = label_names(teacher.data.task) if teacher else ()
        checkpoint = open_student(inputs["model"], inputs["data"], config, labels=labels or None)
        if teacher is not None:
            check_teacher(teacher, checkpoint)
        origin = origin_of(inputs["model"], inputs["teacher"])
        if origin is None and config.shrink is not None and teacher is not None:
            origin = _itself(inputs["model"], teacher, inputs["teacher"])
        student = Student(checkpoint, origin)
    if config.significance is not None and student.model.significance.needs_span_head:
        raise span_head_untrained(config.significance)
    if config.width < 1 and teacher is not None:
        student = narrow(student, width=config.width, scores=importance(teacher, config))
    whole = whole_architecture(inputs, teacher)
    if config.shrink is not None and whole is not None:
        student = shrink(student, config.shrink, config, whole=whole)
    if config.experts is not None and teacher is not None:
        student = route(student, config, scores=importance(teacher, config))
    if config.keep_zeros:  # those of `shrink`, and of what it leaves alone
        student = replace(student, masks=masks_of(student.model.hf))
    if config.quantizers is not None and not is_fake_quantized(student.model):
        fake_quantize(student.checkpoint, config.quantizers, config)
    if config.split:
        split(student.model.hf)
    if config.latent and not is_fake_quantized(student.model):
        raise QualaError("`latent` keeps the weights behind integers, got a float student.")
    return student


def copy_layers(config: DistillConfig, teacher: Checkpoint, source: str | Path) -> Student:
    """Return copies of some layers, of the embeddings and of the head (arXiv 2206.01859).

    `source` is where `teacher` was loaded from.
    """
    old, depth = teacher.model, teacher.model.num_layers
    layers = config.keep
    if layers is None:
        layers = layers_to_keep(config.keep_map, depth=depth, kept=config.layers or depth)
    model = LengthAdaptiveModel(
        keep_layers(old.hf, layers),
        task=old.task,
        significance=config.significance or "question",
        semantics=config.semantics or "natural",
    )
    heads = [list(range(size.heads)) for size in model.arch.sizes]
    origin = Origin(source_fingerprint(source), list(layers), heads)
    return Student(replace(teacher, model=model), origin)


def narrow(student: Student, *, width: float, scores: Importance) -> Student:
    """Keep the share `width` of copied heads and neurons, the most important ones (DynaBERT).

    `scores` are those of the whole teacher. The hidden size stays.
    """
    if student.origin is None:
        raise QualaError("`width` narrows copied layers, got a student that copied none.")
    own = _of_layers(scores, student.origin.layers)
    hf = sort_width(student.model.hf, own)
    small = extract(hf, elastic_layers(units_of(hf), [width], [1.0])[0])
    counts = [layer.heads for layer in structure_of(small).layers]
    places = falling_places(own.heads)
    heads = [order[:count] for order, count in zip(places, counts, strict=True)]
    return student.with_weights(small, origin=replace(student.origin, heads=heads))


def _of_layers(scores: Importance, layers: Sequence[int]) -> Importance:
    return Importance(
        tuple(scores.heads[layer] for layer in layers),
        tuple(scores.neurons[layer] for layer in layers),
    )


def route(student: Student, config: DistillConfig, *, scores: Importance) -> Student:
    """Cut the feed-forwards of copied layers into experts (MoEBERT, arXiv 2204.07675).

    `scores` are those of the whole teacher. Raises QualaError for layers that cannot be cut.
    """
    if student.origin is None or config.experts is None:
        raise QualaError("`experts` cuts copied layers, got a student that copied none.")
    train, hf = student.checkpoint.data.train.features, student.model.hf
    tables = route_tables(
        config.experts,
        layers=student.model.num_layers,
        seed=config.seed,
        counts=np.bincount(train.input_ids, minlength=hf.config.vocab_size),
    )
    neurons = _of_layers(scores, student.origin.layers).neurons
    return student.with_weights(cut_experts(hf, config.experts, scores=neurons, tables=tables))


def shrink(
    student: Student, options: ShrinkConfig, config: DistillConfig, *, whole: Architecture
) -> Student:
    """Cut layers, heads and neurons, then ranks, then weights, to the sizes of this step.

    Heads, neurons and the weights of a Fisher score are ranked on train batches by the student as
    it is. Sizes and ratio count against the `whole` model.

    Raises:
        QualaError: for an end above what the student has, and for a last ratio that cannot be
            reached, before the first step is trained.
    """
    sizes = options.sizes(whole)
    options.check_growth(options.ends(whole), sizes_of(student.model.arch))
    original = parameters(whole)
    if options.ratio is not None:
        last = replace(options, step=options.steps).now()
        weight_budget(student.model.hf, last, original_parameters=original)
    if options.sparsity is not None:
        present = zero_share(_prunable(student, options))
        if present > options.sparsity:
            raise QualaError(
                f"`shrink.sparsity` must be at least the {present:.4g} that the model has, got "
                f"{options.sparsity:g}."
            )
    student = replace(_cut_structure(student, config, sizes), masks={})
    if rank := sizes.get("embedding_rank"):
        student = student.with_weights(factorize_words(student.model.hf, rank))
    if options.ratio is not None:
        small, masks = hybrid_compress(
            student.model.hf, options.now(), original_parameters=original
        )
        return student.with_weights(small, masks=masks)
    if options.sparsity is not None:
        small, masks = with_zeros(
            student.model.hf,
            options.sparsity_now(),
            embeddings=options.embeddings,
            scores=_fisher(student, options, config) if options.score == "fisher" else None,
        )
        return student.with_weights(small, masks=masks)
    return student


def _cut_structure(student: Student, config: DistillConfig, sizes: Mapping[str, int]) -> Student:
    """Keep the layers, heads and neurons of these sizes, and the record of where they are from."""
    hf, arch, present = student.model.hf, student.model.arch, sizes_of(student.model.arch)
    cut = {name: size for name, size in sizes.items() if size < present[name]}
    layers = list(range(arch.layers))
    if "layers" in cut:
        layers = layers_to_keep(config.keep_map, depth=arch.layers, kept=cut["layers"])
    small, heads = hf, [list(range(arch.sizes[layer].heads)) for layer in layers]
    if "heads" in cut or "neurons" in cut:
        scores = importance(student.checkpoint, config)
        small, heads = keep_prefix(
            hf, scores, layers=layers, heads=cut.get("heads"), neurons=cut.get("neurons")
        )
    elif "layers" in cut:
        small = keep_layers(hf, layers)
    else:
        return student
    origin = student.origin
    if origin is not None:
        before = [origin.heads[layer] for layer in layers]
        origin = replace(
            origin,
            layers=[origin.layers[layer] for layer in layers],
            heads=[[old[head] for head in kept] for old, kept in zip(before, heads, strict=True)],
        )
    return student.with_weights(small, origin=origin)


def _prunable(student: Student, options: ShrinkConfig) -> dict[str, Tensor]:
    return prunable_weights(student.model.hf, embeddings=options.embeddings)


def _fisher(student: Student, options: ShrinkConfig, config: DistillConfig) -> dict[str, Tensor]:
    """Score the weights that `shrink` may prune, on the batches that score heads and neurons."""
    student.model.eval()
    return fisher_scores(_prunable(student, options), *_scoring(student.checkpoint, config))


def whole_architecture(
    inputs: Mapping[str, Any], teacher: Checkpoint | None
) -> Architecture | None:
    """Return the sizes that `shrink` counts against: of the input `whole`, else of the teacher."""
    if teacher is None or "whole" not in inputs:
        return teacher.model.arch if teacher else None
    arch = architecture_of(read_config(inputs["whole"]).to_dict())
    return replace(arch, outputs=teacher.model.arch.outputs, head=teacher.model.arch.head)


def split(hf: PreTrainedModel) -> None:
    """Replace each ternary layer, in place, by the sum of two binary ones (arXiv 2012.15701).

    Raises:
        QualaError: for a model without ternary layers.
    """
    split_ternary(hf)
    record_structure(hf)  # for cost, which counts both halves


def open_student(
    source: str | Path,
    spec: DataSpec,
    config: DistillConfig,
    *,
    labels: tuple[str, ...] | None = None,
) -> Checkpoint:
    """Return the student at `source` with weights that can be trained.

    A head that it lacks is drawn, with the outputs in the order of `labels`.
    An integer student continues from its latent weights: fake-quantized as it was trained, or, if
    the options have other `quantizers`, as a float model.

    Raises:
        QualaError: for an integer student saved without latent weights, and for `split` with
            other quantizers than its own.
    """
    opened = load_with_data(
        source,
        spec,
        significance=config.significance,
        semantics=config.semantics,
        head="or_new",
        labels=labels,
        seed=config.seed,
    )
    if opened.precision == "fp32":
        return opened
    if not (Path(source) / LATENT_FILE).is_file():
        raise QualaError(
            f"`{source}` holds {opened.precision} weights only, which cannot be trained further: "
            "make it with `latent=true`."
        )
    latent = read_latent(source)
    hf = skeleton(source, dtype=torch.float32)
    if config.quantizers in (None, latent.config):
        restore_latent(hf, latent)
    elif config.split:
        raise QualaError(_other_quantizers(latent, config.quantizers))
    else:
        restore_float(hf, latent)
        record_structure(hf)  # split layers are one layer again
    return replace(opened, model=opened.model.with_network(hf).eval())


def _other_quantizers(latent: Latent, wanted: QuantizeConfig) -> str:
    names = [field.name for field in fields(latent.config)]
    name = next(n for n in names if getattr(latent.config, n) != getattr(wanted, n))
    return (
        "`split` takes a student as it was trained: its "
        f"`quantizers.{name}` is {getattr(latent.config, name)}, got "
        f"{getattr(wanted, name)}; null leaves them as they are."
    )


def importance(opened: Checkpoint, config: DistillConfig) -> Importance:
    """Score heads and neurons of a model on `importance_batches` batches of the train slice."""
    opened.model.eval()
    return taylor_importance(opened.model.hf, *_scoring(opened, config))


def _scoring(
    opened: Checkpoint, config: DistillConfig
) -> tuple[Iterator[Batch], Callable[[Batch], Tensor]]:
    """Return the train batches that rank units and weights, and the loss of the task on one."""
    count = config.importance_batches or config.calibration_batches
    batches = train_batches(opened, config, count)
    return batches, lambda batch: opened.model.task.loss(opened.model(batch), batch)


def followed_layers(
    config: DistillConfig, student: Student, teacher: Checkpoint
) -> list[tuple[int, int]]:
    """Return the pairs of a student's layer and the teacher's layer that it learns from."""
    own, depth = student.model.num_layers, teacher.model.num_layers
    copied = student.origin.layers if student.origin else None
    if config.shrink is not None and config.shrink.layers is not None:
        copied = None  # ROSITA's lowest layers follow all of the teacher's, spread evenly
    followed = config.layer_map or copied or uniform_layers(depth, own)
    return layer_pairs(followed, teacher=depth, student=own)


def followed_heads(pairs: Pairs, student: Student, teacher: Checkpoint) -> list[list[int]]:
    """Return, for each pair of layers, the teacher's heads that the student's are compared with.

    These are the copied heads where the layer is a copy of the other, else all heads in order.

    Raises:
        QualaError: for layers of different head counts of which one is no copy of the other.
    """
    followed, origin = [], student.origin
    for own, other in pairs:
        count = student.model.arch.sizes[own].heads
        wanted = teacher.model.arch.sizes[other].heads
        if origin is not None and origin.layers[own] == other:
            followed.append(origin.heads[own])
        elif count == wanted:
            followed.append(list(range(count)))
        else:
            raise QualaError(
                f"Layer {own} of the student has {count} heads and follows layer {other} of the "
                f"teacher, which has {wanted} and was not copied into it: set `attention=0`, or "
                "leave `layer_map` to the copied layers."
            )
    return followed


def shrink_figures(student: Student, *, original: int) -> dict[str, float]:
    """Return how many parameters the masks leave, and how many times more the `original` has."""
    pruned = sum(mask.numel() - int(mask.sum()) for mask in student.masks.values())
    left = parameters(student.model.arch) - pruned
    return {"shrink/parameters": float(left), "shrink/ratio": original / left}


def save_student(config: DistillConfig, student: Student, folder: Path) -> None:
    """Write the student, as integers if it is fake-quantized, with the record of its origin."""
    checkpoint = student.checkpoint
    facts = student.origin.to_json() if student.origin else {}
    if is_fake_quantized(student.model):
        if config.latent:
            save_latent(student.model.hf, folder)
        save_quantized(checkpoint, folder, facts)
    else:
        facts = metadata(checkpoint) | facts
        save_model(student.model, checkpoint.tokenizer, folder, metadata=facts)
    if config.shrink is not None or config.keep_zeros:
        store_sparse(folder)
