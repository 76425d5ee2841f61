"""What is known of a planned model before it is made: its start model, and options on the way."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quala.architecture import CONFIG, Architecture, check_kernels
from quala.cost import OFFLINE, architecture_of, offline_folder
from quala.errors import QualaError, quoted
from quala.lengths import Units, elastic_layers
from quala.plugins import FAMILIES
from quala.stored import read_object

if TYPE_CHECKING:
    from quala.compress.quantize.config import QuantizeConfig
    from quala.models.families import Family

_LAYER = re.compile(r"layers\.(\d+)\.")
_HUB_NAME = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?(@[\w./-]+)?")


def start_facts(source: Any) -> dict[str, Any] | None:
    """Return the config.json of a start model in a folder; None for a run or a name on the hub.

    Raises QualaError for what can be none of them, and for a model of no known type.
    """
    value = getattr(source, "value", None)
    if not isinstance(value, str):
        return None
    folder = offline_folder() if value == OFFLINE else Path(value).expanduser()
    if folder is None:
        return None  # a package is missing, which is said where it is loaded
    if not folder.is_dir():
        if not _HUB_NAME.fullmatch(value) or value.startswith("."):
            raise QualaError(f"`{source.name}`: there is no model folder at `{quoted(value)}`.")
        return None
    try:
        return model_facts(folder)
    except QualaError as error:
        raise QualaError(f"`{source.name}={value}` is no model: {error}") from error


def model_facts(folder: Path, data: Any = None) -> dict[str, Any]:
    """Return the config.json of a model in a folder; raise QualaError for one of no known type."""
    facts = read_object(folder / CONFIG)
    if (kind := facts.get("model_type")) is not None:
        FAMILIES.check(str(kind))
    return facts


def sizes_of(made: Any) -> Architecture | None:
    """Return the sizes of a planned model that was trained on from a start model, where known."""
    while (config := getattr(made, "config", None)) is not None:
        if config.given is not None or hasattr(config, "keep_map"):
            return None
        made = made.inputs.get("model")
    return _architecture(start_facts(made))


def _architecture(facts: dict[str, Any] | None) -> Architecture | None:
    try:
        return architecture_of(facts) if facts else None
    except (QualaError, TypeError, ValueError, ArithmeticError):  # is refused where it is read
        return None


def facts_at_start(made: Any) -> dict[str, Any]:
    """Return the config.json of the start model of a planned one; nothing where not known."""
    facts = None
    while (config := getattr(made, "config", None)) is not None and config.given is None:
        made = made.inputs.get("model") or made.inputs.get("teacher")
    if config is None:
        facts = start_facts(made)
    elif isinstance(given := getattr(made, "given", None), Path):
        facts = model_facts(given)
    return facts or {}


def check_start_kernels(made: Any, quantizers: QuantizeConfig | None) -> None:
    """Raise QualaError for a planned model without the functions that `kernels` replace."""
    if quantizers is not None and quantizers.kernels:
        facts = facts_at_start(made)
        if "model_type" in facts:
            check_kernels(quantizers.kernels, facts)


def family_at_start(made: Any) -> Family | None:
    """Return the family of the start model of a planned one, where known."""
    kind = facts_at_start(made).get("model_type")
    return FAMILIES.find(kind) if kind is not None else None


def trained_with(made: Any, option: str) -> Any:
    """Return an option of the last stage before a planned model that sets it; else None."""
    while (config := getattr(made, "config", None)) is not None and config.given is None:
        if (value := getattr(config, option, None)) is not None:
            return value
        made = made.inputs.get("model")
    return None


def check_dense(made: Any, option: str) -> None:
    """Raise QualaError for a planned model whose feed-forwards are experts; `option` cuts them."""
    experts = trained_with(made, "experts")
    start = _architecture(facts_at_start(made)) if experts is None else None
    if (experts and experts.count > 1) or (start is not None and start.routed):
        raise QualaError(
            f"`{option}` cuts dense feed-forwards, got a model whose feed-forwards are experts."
        )


def check_sites(made: Any, quantizers: QuantizeConfig | None) -> None:
    """Raise QualaError for groups and names of weights that a planned model does not have."""
    sizes = sizes_of(made)
    if quantizers is None or sizes is None:
        return
    for columns in (sizes.hidden, sizes.intermediate, *_narrowed(made, sizes)):
        if quantizers.weight_granularity == "group" and columns % quantizers.weight_group:
            raise QualaError(
                f"`quantizers.weight_group` must divide the columns of all weights, {columns} of "
                f"some, got {quantizers.weight_group}."
            )
    for pattern in quantizers.overrides:
        layer = _LAYER.match(pattern)
        if layer and int(layer[1]) >= sizes.layers:
            raise QualaError(
                f"`quantizers.overrides` got `{pattern}`, but the {sizes.layers} layers are "
                f"numbered from 0 to {sizes.layers - 1}."
            )


def _narrowed(made: Any, sizes: Architecture) -> set[int]:
    """Return the columns of the weights of narrower sub-networks that a model is trained for."""
    whole = tuple(Units(size.heads, size.intermediate) for size in sizes.sizes)
    widths = sorted(trained_with(made, "widths") or [1.0], reverse=True)
    each = [units for layers in elastic_layers(whole, widths, [1.0]) for units in layers if units]
    width = sizes.hidden // sizes.heads
    return {columns for units in each for columns in (units.heads * width, units.neurons)}


def check_elastic(made: Any, widths: Sequence[float], depths: Sequence[float]) -> None:
    """Raise QualaError for a planned model that has no sub-networks of these sizes."""
    if (family := family_at_start(made)) is not None:
        family.check_shrink()
        if len(widths) > 1:
            family.check_width()
    if (sizes := sizes_of(made)) is not None:
        units = [Units(size.heads, size.intermediate) for size in sizes.sizes]
        elastic_layers(units, widths, depths)


def check_served(model: Any, needs: str) -> None:
    """Raise QualaError for a planned model that no runtime but PyTorch takes."""
    if trained_with(model, "semantics") == "reference":
        raise QualaError(f"{needs} models with `semantics=natural`, got `reference`.")
    quantizers = trained_with(model, "quantizers")
    if quantizers is not None and quantizers.activation_bits != 8:
        raise QualaError(
            f"{needs} models with `quantizers.activation_bits=8`, got "
            f"{quantizers.activation_bits}."
        )
