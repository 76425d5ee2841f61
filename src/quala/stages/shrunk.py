"""A student made smaller than its teacher, and kept at that size while it trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor, nn

from quala.compress.prune.hybrid import hybrid_compress, weight_budget
from quala.compress.prune.magnitude import Masks, apply_masks
from quala.cost import parameters
from quala.models.adaptive import LengthAdaptiveModel
from quala.stages.checkpoint import Opened

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from quala.stages.shrink_config import ShrinkConfig


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


def shrink(student: Opened, config: ShrinkConfig, *, teacher: Opened) -> tuple[Opened, Masks]:
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
        task_kind=model.task_kind,
        significance=model.significance.name,
        semantics=model.semantics,
    )
    return replace(student, model=made), masks


def shrink_figures(student: Opened, masks: Masks, *, original: int) -> dict[str, float]:
    """Return how many parameters the masks leave, and how many times more the `original` has."""
    hidden = sum(mask.numel() - int(mask.sum()) for mask in masks.values())
    left = parameters(student.model.arch) - hidden
    return {"shrink/parameters": float(left), "shrink/ratio": original / left}
