"""The student of a distillation: made of its teacher, or opened, in visible steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from quala.checkpoint import Checkpoint, load_with_data, metadata
from quala.compress.layer_maps import layer_pairs, layers_to_keep, uniform_layers
from quala.compress.prune.magnitude import Masks, apply_masks
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
from quala.compress.shrink import hybrid_compress, weight_budget
from quala.compress.structure import keep_layers, record_structure, skeleton, structure_of
from quala.cost import parameters
from quala.errors import QualaError
from quala.lengths import elastic_layers
from quala.models.adaptive import LengthAdaptiveModel
from quala.models.load import label_names, save_model, source_fingerprint, stored_facts
from quala.stages.distill_options import span_head_untrained
from quala.stages.quantize import fake_quantize, save_quantized
from quala.stages.teacher import check_teacher
from quala.stages.training import train_batches

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from transformers import PreTrainedModel

    from quala.compress.quantize.config import QuantizeConfig
    from quala.data.spec import DataSpec
    from quala.stages.distill_options import DistillConfig, ShrinkConfig


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
        checkpoint = replace(self.checkpoint, model=_rebuilt(self.model, hf))
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
            and for a `significance` that needs a span head trained at every layer.
    """
    config.check_inputs(inputs)
    if "model" not in inputs and teacher is not None:
        student = copy_layers(config, teacher, inputs["teacher"])
    else:
        labels = label_names(teacher.data.task) if teacher else ()
        checkpoint = open_student(inputs["model"], inputs["data"], config, labels=labels or None)
        if teacher is not None:
            check_teacher(teacher, checkpoint)
        student = Student(checkpoint, origin_of(inputs["model"], inputs["teacher"]))
    if config.significance is not None and student.model.significance.needs_span_head:
        raise span_head_untrained(config.significance)
    if config.width < 1 and teacher is not None:
        student = narrow(student, width=config.width, scores=importance(teacher, config))
    if config.shrink is not None and teacher is not None:
        student = shrink(student, config.shrink, original=parameters(teacher.model.arch))
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
    layers = student.origin.layers
    own = Importance(
        tuple(scores.heads[layer] for layer in layers),
        tuple(scores.neurons[layer] for layer in layers),
    )
    hf = sort_width(student.model.hf, own)
    small = extract(hf, elastic_layers(units_of(hf), [width], [1.0])[0])
    counts = [layer.heads for layer in structure_of(small).layers]
    places = falling_places(own.heads)
    heads = [order[:count] for order, count in zip(places, counts, strict=True)]
    return student.with_weights(small, origin=replace(student.origin, heads=heads))


def shrink(student: Student, config: ShrinkConfig, *, original: int) -> Student:
    """Factorize and prune to the size of this step (LadaBERT, arXiv 2004.04124).

    The ratio counts against `original` parameters.

    Raises:
        QualaError: for a last ratio that cannot be reached, before the first step is trained.
    """
    hf, now = student.model.hf, config.now()
    weight_budget(hf, config, original_parameters=original)
    small, masks = hybrid_compress(hf, now, original_parameters=original)
    return student.with_weights(small, masks=masks)


def split(hf: PreTrainedModel) -> None:
    """Replace each ternary layer, in place, by the sum of two binary ones (arXiv 2012.15701).

    Raises:
        QualaError: for a model without ternary layers.
    """
    split_ternary(hf)
    record_structure(hf)  # for cost, which counts both halves


def _rebuilt(old: LengthAdaptiveModel, hf: PreTrainedModel) -> LengthAdaptiveModel:
    return LengthAdaptiveModel(
        hf,
        task=old.task,
        significance=old.significance.name,
        semantics=old.semantics,
    )


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
    return replace(opened, model=_rebuilt(opened.model, hf).eval())


def _other_quantizers(latent: Latent, wanted: QuantizeConfig) -> str:
    names = [field.name for field in fields(latent.config)]
    name = next(n for n in names if getattr(latent.config, n) != getattr(wanted, n))
    return (
        "`split` takes a student as it was trained: its "
        f"`quantizers.{name}` is {getattr(latent.config, name)}, got "
        f"{getattr(wanted, name)}; null leaves them as they are."
    )


def importance(teacher: Checkpoint, config: DistillConfig) -> Importance:
    """Score the teacher's heads and neurons on `importance_batches` batches of the train slice."""
    teacher.model.eval()
    return taylor_importance(
        teacher.model.hf,
        train_batches(teacher, config, config.importance_batches or config.calibration_batches),
        lambda batch: teacher.model.task.loss(teacher.model(batch), batch),
    )


def followed_layers(
    config: DistillConfig, student: Student, teacher: Checkpoint
) -> list[tuple[int, int]]:
    """Return the pairs of a student's layer and the teacher's layer that it learns from."""
    own, depth = student.model.num_layers, teacher.model.num_layers
    copied = student.origin.layers if student.origin else None
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


class PrunedWeights(nn.Module):
    """The masks of a model in training; without masks it does nothing.

    They are buffers: a checkpoint holds them, and they move with the model to its device.
    """

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._names = list(masks)
        for place, mask in enumerate(masks.values()):
            self.register_buffer(f"mask_{place}", mask)

    def masks(self) -> Masks:
        """Return the masks, True where a weight stays, by the name of the parameter."""
        return dict(zip(self._names, self.buffers(), strict=True))

    def hide_gradients(self, model: nn.Module) -> None:
        """Set the gradients of pruned weights to zero, so that clipping leaves them out."""
        weights = dict(model.named_parameters())
        for name, mask in self.masks().items():
            gradient = weights[name].grad
            if gradient is not None:
                gradient.mul_(mask.to(gradient.dtype))

    def keep_zero(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Set pruned weights to zero after each step of `optimizer`, before anything is saved."""
        optimizer.register_step_post_hook(lambda *_: apply_masks(model, self.masks()))


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
    if config.shrink is not None:
        store_sparse(folder)
