"""A student of less width: its teacher's most important heads and neurons, the others gone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from quala.compress.prune.taylor import Importance, taylor_importance
from quala.compress.prune.width import falling_places, sort_width, subnetwork
from quala.compress.structure import structure_of
from quala.data.task import task_loss
from quala.stages.training import step_batches

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from quala.data.batch import Batch
    from quala.stages.checkpoint import Opened
    from quala.stages.distill_config import DistillConfig


def narrow(
    hf: PreTrainedModel, layers: Sequence[int], teacher: Opened, config: DistillConfig
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


def importance(teacher: Opened, config: DistillConfig) -> Importance:
    """Score the teacher's heads and neurons on `importance_batches` batches of the train slice."""
    teacher.model.eval()
    return taylor_importance(
        teacher.model.hf,
        _batches(teacher, config),
        lambda batch: task_loss(teacher.data.task, teacher.model(batch), batch),
    )


def _batches(teacher: Opened, config: DistillConfig) -> Iterator[Batch]:
    features = teacher.data.train.features
    wanted = config.importance_batches or config.calibration_batches
    count = min(wanted, math.ceil(len(features) / config.batch_size))
    for rows in step_batches(features, config, count):
        yield features.batch(rows, pad_to=teacher.pad_to)
