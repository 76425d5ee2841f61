"""Open a student to train it further: an integer one goes on from its latent weights."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from quala.compress.quantize.latent import (
    LATENT_FILE,
    Latent,
    in_training_form,
    read_latent,
    restore_float,
    restore_latent,
)
from quala.compress.quantize.split import split_ternary
from quala.compress.structure import record_structure, skeleton
from quala.errors import QualaError
from quala.models.adaptive import LengthAdaptiveModel
from quala.stages.checkpoint import Opened, open_checkpoint
from quala.stages.quantized import fake_quantize

if TYPE_CHECKING:
    from quala.compress.quantize.config import QuantizeConfig
    from quala.data.spec import DataSpec
    from quala.stages.distill_config import DistillConfig


def open_student(source: str | Path, spec: DataSpec, config: DistillConfig) -> Opened:
    """Return the student at `source` with weights that can be trained.

    An integer student goes on from the weights behind its integers: in the form it was trained
    in, or, where other `quantizers` are asked for, as a float model.

    Raises:
        QualaError: for an integer student saved without those weights, and for other quantizers
            than its own with `split`.
    """
    opened = open_checkpoint(
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
        task_kind=old.task_kind,
        significance=old.significance.name,
        semantics=old.semantics,
    )
    return replace(opened, model=model.eval())


def into_training_form(student: Opened, config: DistillConfig) -> None:
    """Round what `quantizers` say and split what `split` says, in place, unless it is so already.

    Raises:
        QualaError: for a float student to split, or to keep latent weights of.
    """
    if config.quantizers is not None and not in_training_form(student.model):
        fake_quantize(student, config.quantizers, config)
    if config.split:
        split_ternary(student.model.hf)
        record_structure(student.model.hf)  # for cost, which counts both halves
    if config.latent and not in_training_form(student.model):
        raise QualaError("`latent` keeps what is behind integers, got a float student.")


def _other(latent: Latent, wanted: QuantizeConfig) -> str:
    names = [field.name for field in fields(latent.config)]
    name = next(n for n in names if getattr(latent.config, n) != getattr(wanted, n))
    return (
        "`split` takes a student apart as it was trained: its "
        f"`quantizers.{name}` is {getattr(latent.config, name)}, got "
        f"{getattr(wanted, name)}; null leaves them as they are."
    )
