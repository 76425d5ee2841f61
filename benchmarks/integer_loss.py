"""Where a model loses by becoming int8, and what inputs that stay float give back.

python benchmarks/integer_loss.py --model SUPERNET --data squad --windows 50 --threads 1

A float checkpoint that answers questions is rounded in parts: everything, the
layers of one kind alone, linear weights alone, and everything with `outliers` inputs of a layer
left float. Printed is the mean divergence KL(float || rounded) of the start and end distributions,
in nats, over windows of the test set; it tells parts apart that need thousands of questions in F1.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from quala.checkpoint import load_with_data
from quala.compress.quantize.config import QuantizeConfig
from quala.compress.quantize.modules import QuantEmbedding, QuantLinear
from quala.compress.quantize.transform import calibrate, quantize
from quala.data.features import Batch
from quala.data.spec import DataSpec
from quala.models.adaptive import LengthAdaptiveModel

BATCH = 16
KINDS: dict[str, Callable[[str], bool]] = {
    "embeddings": lambda name: "embeddings" in name,
    "queries, keys, values": lambda name: name.split(".")[-1] in ("query", "key", "value"),
    "attention output": lambda name: "attention.output" in name,
    "feed-forward, first": lambda name: "intermediate" in name,
    "feed-forward, second": lambda name: name.endswith("output.dense") and "attention" not in name,
}
"""The layers of a BERT by their names."""


def rounded(
    model: LengthAdaptiveModel, config: QuantizeConfig, seen: list[Batch]
) -> LengthAdaptiveModel:
    """Return a copy on rounded weights and inputs, with the ranges of the batches `seen`."""
    made = copy.deepcopy(model).eval()

    def observe() -> None:
        for batch in seen:
            made(batch)

    quantize(made.hf, config)
    calibrate(made.hf, observe)
    return made


def keep(model: LengthAdaptiveModel, wanted: Callable[[str], bool]) -> None:
    """Round the layers whose name is `wanted`, and no others."""
    for name, layer in model.hf.named_modules():
        mode = "fake" if wanted(name) else "off"
        if isinstance(layer, QuantEmbedding):
            layer.mode = mode  # type: ignore[assignment]
        elif isinstance(layer, QuantLinear):
            layer.input_quantizer.mode = mode  # type: ignore[assignment]


@torch.no_grad()
def divergence(model: LengthAdaptiveModel, shown: list[Batch], expected: list[Tensor]) -> float:
    """Return the mean KL(expected || model's) of starts and ends."""
    sums, count = 0.0, 0
    for batch, logits in zip(shown, expected, strict=True):
        truth, found = logits.log_softmax(1), model(batch).log_softmax(1)
        parts = (truth.exp() * (truth - found)).nan_to_num(0.0).sum(1)  # padding is -inf in both
        sums, count = sums + float(parts.sum()), count + parts.numel()
    return sums / count


def parts(
    model: LengthAdaptiveModel, config: QuantizeConfig, seen: list[Batch], outliers: list[int]
) -> Iterator[tuple[str, LengthAdaptiveModel]]:
    """Yield what is rounded, and the model."""
    made = rounded(model, config, seen)
    yield "everything", made
    for kind, wanted in KINDS.items():
        keep(made, wanted)
        yield f"only {kind}", made
    exact = copy.deepcopy(model)
    for name, layer in made.hf.named_modules():
        if isinstance(layer, QuantLinear):
            plain = exact.hf.get_submodule(name)
            assert isinstance(plain, nn.Linear)
            plain.weight.data.copy_(layer.weight_quantizer(layer.weight))
    yield "weights of linear layers", exact
    for count in outliers:
        yield (
            f"everything, outliers={count}",
            rounded(model, replace(config, outliers=count), seen),
        )


def main() -> None:
    """Print a divergence for each part."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", required=True, help="a float checkpoint")
    parser.add_argument("--data", required=True, help="a folder with SQuAD's files")
    parser.add_argument("--windows", type=int, default=50)
    parser.add_argument("--calibration", type=int, default=16, help=f"batches of {BATCH}")
    parser.add_argument("--outliers", type=int, nargs="*", default=[1, 4, 16])
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    inputs = args.calibration * BATCH
    spec = DataSpec(
        task="squad", path=args.data, max_train=2 * inputs, max_test=args.windows,
        search_size=1, selection_size=1,
    )  # fmt: skip
    opened = load_with_data(args.model, spec)
    model = opened.model.eval()
    train, test = opened.data.train.features, opened.data.test.features
    seen = [train.batch(range(at, at + BATCH)) for at in range(0, inputs, BATCH)]
    ends = (min(at + BATCH, args.windows) for at in range(0, args.windows, BATCH))
    shown = [test.batch(range(at, end)) for at, end in zip(range(0, args.windows, BATCH), ends)]
    with torch.no_grad():
        expected = [model(batch) for batch in shown]
    config = QuantizeConfig(activation_range="minmax")
    for name, made in parts(model, config, seen, args.outliers):
        print(f"{name:40} {divergence(made, shown, expected):.5f}", flush=True)


if __name__ == "__main__":
    main()
