"""A student of a distillation: copied of its teacher or opened, and saved again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quala.compress.distill.layer_map import layer_pairs, uniform_layers
from quala.compress.layers.maps import layers_to_keep
from quala.compress.layers.reduce import keep_layers
from quala.compress.prune.sparse import store_sparse
from quala.compress.quantize.latent import in_training_form, save_latent
from quala.errors import QualaError
from quala.models.adaptive import LengthAdaptiveModel
from quala.models.load import save_model
from quala.stages.checkpoint import Opened, metadata
from quala.stages.latent import open_student
from quala.stages.origin import Origin, copied_from, origin_of
from quala.stages.quantized import save_quantized
from quala.stages.width import narrow

if TYPE_CHECKING:
    from quala.stages.distill_config import DistillConfig


def student_of(
    config: DistillConfig, teacher: Opened, inputs: Mapping[str, Any]
) -> tuple[Opened, Origin | None]:
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
        task_kind=teacher.data.task.kind,
        significance=config.significance or "question",
        semantics=config.semantics or "natural",
    )
    origin = copied_from(inputs["teacher"], kept, heads)
    return Opened(model, teacher.tokenizer, teacher.data), origin


def followed_layers(
    config: DistillConfig, student: Opened, teacher: Opened, origin: Origin | None
) -> list[tuple[int, int]]:
    """Return the student's and the teacher's layers that belong together."""
    own, depth = student.model.num_layers, teacher.model.num_layers
    followed = config.layer_map or (origin.layers if origin else uniform_layers(depth, own))
    return layer_pairs(followed, teacher=depth, student=own)


def save_student(
    config: DistillConfig, student: Opened, folder: Path, origin: Origin | None
) -> None:
    """Write the student, as integers where it is rounded, and what it copied of the teacher."""
    facts = origin.to_json() if origin else {}
    if in_training_form(student.model):
        if config.latent:
            save_latent(student.model.hf, folder)
        save_quantized(student, folder, facts)
    else:
        facts = metadata(student) | facts
        save_model(student.model, student.tokenizer, folder, metadata=facts)
    if config.shrink is not None:
        store_sparse(folder)
