"""What a student copied of its teacher, and so which heads it may be held against."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from quala.checkpoint import TaskCheckpoint, load_with_data, metadata
from quala.compress.depth import keep_layers
from quala.compress.layer_maps import layer_pairs, layers_to_keep, uniform_layers
from quala.compress.prune.magnitude import Masks, apply_masks
from quala.compress.prune.sparse import store_sparse
from quala.compress.prune.structured import (
    Importance,
    falling_places,
    sort_width,
    subnetwork,
    taylor_importance,
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
from quala.compress.structure import record_structure, skeleton, structure_of
from quala.cost import parameters
from quala.errors import QualaError
from quala.models.adaptive import LengthAdaptiveModel
from quala.models.load import METADATA_FILE, read_metadata, save_model, source_fingerprint
from quala.stages.quantize import fake_quantize, save_quantized
from quala.stages.training import step_batches

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from transformers import PreTrainedModel

    from quala.compress.quantize.config import QuantizeConfig
    from quala.data.features import Batch
    from quala.data.spec import DataSpec
    from quala.stages.distill_options import DistillConfig, ShrinkConfig


KEY = "copied"
Pairs = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Origin:
    """The teacher's layer that each layer of a student copied, and the head that each head did."""

    teacher: str
    """Fingerprint of the teacher's weights: places in another model say nothing."""
    layers: list[int]
    heads: list[list[int]]

    def to_json(self) -> dict[str, Any]:
        """Return what quala.json keeps."""
        return {KEY: asdict(self)}


def copied_from(
    teacher: str | Path, layers: Sequence[int], heads: Sequence[Sequence[int]]
) -> Origin:
    """Return the origin of a student that copied these layers and heads of `teacher`."""
    places = [list(places) for places in heads]
    return Origin(source_fingerprint(teacher), list(layers), places)


def origin_of(student: str | Path, teacher: str | Path) -> Origin | None:
    """Read what a saved student copied of `teacher`; None where it does not say, or of another.

    Raises:
        QualaError: for a damaged record.
    """
    if not (Path(student) / METADATA_FILE).is_file():
        return None
    facts = read_metadata(student).get(KEY)
    if facts is None:
        return None
    try:
        origin = Origin(facts["teacher"], list(facts["layers"]), [list(h) for h in facts["heads"]])
    except (KeyError, TypeError) as error:
        raise QualaError(f"`{KEY}` in `{student}` is damaged: {error!r}.") from error
    return origin if origin.teacher == source_fingerprint(teacher) else None


def heads_to_follow(
    pairs: Pairs,
    student: LengthAdaptiveModel,
    teacher: LengthAdaptiveModel,
    origin: Origin | None,
) -> list[list[int]]:
    """Return for each pair of layers the teacher's heads that the student's are held against.

    Those that they copied where the layer is a copy of the other, else all of them in order.

    Raises:
        QualaError: for layers of different head counts of which one is no copy of the other.
    """
    followed = []
    for own, other in pairs:
        count, wanted = student.arch.sizes[own].heads, teacher.arch.sizes[other].heads
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


def open_student(source: str | Path, spec: DataSpec, config: DistillConfig) -> TaskCheckpoint:
    """Return the student at `source` with weights that can be trained.

    An integer student goes on from the weights behind its integers: in the form it was trained
    in, or, where other `quantizers` are asked for, as a float model.

    Raises:
        QualaError: for an integer student saved without those weights, and for other quantizers
            than its own with `split`.
    """
    opened = load_with_data(
        source,
        spec,
        significance=config.significance,
        semantics=config.semantics,
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
        raise QualaError(_other(latent, config.quantizers))
    else:
        restore_float(hf, latent)
        record_structure(hf)  # halves are whole again
    old = opened.model
    model = LengthAdaptiveModel(
        hf,
        task=old.task,
        significance=old.significance.name,
        semantics=old.semantics,
    )
    return replace(opened, model=model.eval())


def into_training_form(student: TaskCheckpoint, config: DistillConfig) -> None:
    """Round what `quantizers` say and split what `split` says, in place, unless it is so already.

    Raises:
        QualaError: for a float student to split, or to keep latent weights of.
    """
    if config.quantizers is not None and not is_fake_quantized(student.model):
        fake_quantize(student, config.quantizers, config)
    if config.split:
        split_ternary(student.model.hf)
        record_structure(student.model.hf)  # for cost, which counts both halves
    if config.latent and not is_fake_quantized(student.model):
        raise QualaError("`latent` keeps what is behind integers, got a float student.")


def _other(latent: Latent, wanted: QuantizeConfig) -> str:
    names = [field.name for field in fields(latent.config)]
    name = next(n for n in names if getattr(latent.config, n) != getattr(wanted, n))
    return (
        "`split` takes a student apart as it was trained: its "
        f"`quantizers.{name}` is {getattr(latent.config, name)}, got "
        f"{getattr(wanted, name)}; null leaves them as they are."
    )


def narrow(
    hf: PreTrainedModel, layers: Sequence[int], teacher: TaskCheckpoint, config: DistillConfig
) -> tuple[PreTrainedModel, list[list[int]]]:
    """Return `hf`, a copy of these `layers` of the teacher, with `width` of its heads and neurons.

    They are scored in the whole teacher, by its task loss on train batches. The second value has,
    for each layer, the teacher's heads in the order in which the student has them.
    """
    scores = importance(teacher, config)
    own = Importance(
        tuple(scores.heads[layer] for layer in layers),
        tuple(scores.neurons[layer] for layer in layers),
    )
    small = subnetwork(sort_width(hf, own), config.width)
    counts = [layer.heads for layer in structure_of(small).layers]
    places = falling_places(own.heads)
    return small, [order[:count] for order, count in zip(places, counts, strict=True)]


def importance(teacher: TaskCheckpoint, config: DistillConfig) -> Importance:
    """Score the teacher's heads and neurons on `importance_batches` batches of the train slice."""
    teacher.model.eval()
    return taylor_importance(
        teacher.model.hf,
        _batches(teacher, config),
        lambda batch: teacher.data.task.loss(teacher.model(batch), batch),
    )


def _batches(teacher: TaskCheckpoint, config: DistillConfig) -> Iterator[Batch]:
    features = teacher.data.train.features
    wanted = config.importance_batches or config.calibration_batches
    count = min(wanted, math.ceil(len(features) / config.batch_size))
    for rows in step_batches(features, config, count):
        yield features.batch(rows, pad_to=teacher.pad_to)


class PrunedWeights(nn.Module):
    """The masks of a model in training; without masks it does nothing.

    They are buffers, so that a checkpoint holds them and they go where the model goes.
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
        """Set the gradients of pruned weights to zero: clipping counts what is trained only."""
        weights = dict(model.named_parameters())
        for name, mask in self.masks().items():
            gradient = weights[name].grad
            if gradient is not None:
                gradient.mul_(mask.to(gradient.dtype))

    def keep_zero(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Set pruned weights to zero after each step of `optimizer`, before anything is saved."""
        optimizer.register_step_post_hook(lambda *_: apply_masks(model, self.masks()))


def shrink(
    student: TaskCheckpoint, config: ShrinkConfig, *, teacher: TaskCheckpoint
) -> tuple[TaskCheckpoint, Masks]:
    """Return the student at the size of this step, and the masks that its training must keep.

    The ratio counts against the parameters of the `teacher`.

    Raises:
        QualaError: for a last ratio that cannot be reached, before the first step is trained.
    """
    model, original = student.model, parameters(teacher.model.arch)
    now = config.now()
    weight_budget(model.hf, config, original_parameters=original)
    small, masks = hybrid_compress(model.hf, now, original_parameters=original)
    made = LengthAdaptiveModel(
        small,
        task=model.task,
        significance=model.significance.name,
        semantics=model.semantics,
    )
    return replace(student, model=made), masks


def shrink_figures(student: TaskCheckpoint, masks: Masks, *, original: int) -> dict[str, float]:
    """Return how many parameters the masks leave, and how many times more the `original` has."""
    hidden = sum(mask.numel() - int(mask.sum()) for mask in masks.values())
    left = parameters(student.model.arch) - hidden
    return {"shrink/parameters": float(left), "shrink/ratio": original / left}


def student_of(
    config: DistillConfig, teacher: TaskCheckpoint, inputs: Mapping[str, Any]
) -> tuple[TaskCheckpoint, Origin | None]:
    """Return the student, and what it copied of the teacher, None where it is of its own.

    Raises:
        QualaError: for a `width` with a student that is opened.
    """
    if "model" in inputs:
        if config.width < 1:
            raise QualaError(
                f"`width` narrows layers copied from the teacher, got {config.width} with a "
                "student of its own."
            )
        student = open_student(inputs["model"], inputs["data"], config)
        return student, origin_of(inputs["model"], inputs["teacher"])
    depth = teacher.model.num_layers
    kept = config.keep
    if kept is None:
        kept = layers_to_keep(config.keep_map, depth=depth, kept=config.layers or depth)
    hf = keep_layers(teacher.model.hf, kept)
    heads = [list(range(teacher.model.arch.sizes[layer].heads)) for layer in kept]
    if config.width < 1:
        hf, heads = narrow(hf, kept, teacher, config)
    model = LengthAdaptiveModel(
        hf,
        task=teacher.model.task,
        significance=config.significance or "question",
        semantics=config.semantics or "natural",
    )
    origin = copied_from(inputs["teacher"], kept, heads)
    return TaskCheckpoint(model, teacher.tokenizer, teacher.data), origin


def followed_layers(
    config: DistillConfig, student: TaskCheckpoint, teacher: TaskCheckpoint, origin: Origin | None
) -> list[tuple[int, int]]:
    """Return the student's and the teacher's layers that belong together."""
    own, depth = student.model.num_layers, teacher.model.num_layers
    followed = config.layer_map or (origin.layers if origin else uniform_layers(depth, own))
    return layer_pairs(followed, teacher=depth, student=own)


def save_student(
    config: DistillConfig, student: TaskCheckpoint, folder: Path, origin: Origin | None
) -> None:
    """Write the student, as integers where it is rounded, and what it copied of the teacher."""
    facts = origin.to_json() if origin else {}
    if is_fake_quantized(student.model):
        if config.latent:
            save_latent(student.model.hf, folder)
        save_quantized(student, folder, facts)
    else:
        facts = metadata(student) | facts
        save_model(student.model, student.tokenizer, folder, metadata=facts)
    if config.shrink is not None:
        store_sparse(folder)
