"""What a training step costs, as ratios against a baseline of the same run.

python benchmarks/training_step.py --layers 6 --hidden 384 --steps 8 --threads 2

Prints four ratios, each the median over interleaved repetitions:
- a sandwich step's time over the time that its MACs predict from a full-length step;
- a step of the training stage over a step of a bare PyTorch loop on the same batches;
- PyTorch's AdamW as it comes over the stage's, all weights trained;
- a full-length pass in bfloat16, gradient included, with attention in bfloat16 too, over ours.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BertConfig, BertForQuestionAnswering

from quala.compress.losses import soft_loss
from quala.cost import mean_macs
from quala.data.features import Batch, FeatureSet
from quala.data.task import Span
from quala.lengths import LengthConfig, constant_drop
from quala.models import adaptive
from quala.models.adaptive import LengthAdaptiveModel
from quala.stages.finetune import FinetuneModule
from quala.stages.options import FinetuneConfig
from quala.stages.training import Plan, fit, step_batches
from quala.workflow import StageContext

TASK = Span()
LONGEST = 384


def build_model(layers: int, hidden: int) -> LengthAdaptiveModel:
    """Return a random BERT without dropout, word embeddings frozen, as the recipes train it."""
    config = BertConfig(
        vocab_size=30522,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        intermediate_size=4 * hidden,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    torch.manual_seed(0)
    model = LengthAdaptiveModel(BertForQuestionAnswering(config))
    model.hf.get_input_embeddings().requires_grad_(False)
    return model.train()


class RandomFeatures:
    """Features of SQuAD-like lengths with random words, in the shape of a FeatureSet."""

    def __init__(self, count: int):
        generator = torch.Generator().manual_seed(0)
        lengths = torch.normal(176.0, 60.0, (count,), generator=generator).clamp(64, LONGEST)
        self.lengths = lengths.long().numpy()
        self.ids = torch.randint(1000, 30000, (count, LONGEST), generator=generator)

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, rows: Any, *, pad_to: int | None = None) -> Batch:
        """Return a padded batch whose first 16 tokens are the question."""
        lengths = torch.as_tensor(self.lengths[list(rows)])
        longest = pad_to or int(lengths.max())
        place = torch.arange(longest)[None, :]
        mask = (place < lengths[:, None]).long()
        return {
            "input_ids": self.ids[list(rows), :longest] * mask,
            "attention_mask": mask,
            "segment_ids": (place >= 16).long() * mask,
            "labels": torch.full((len(lengths), 2), 20),
            "feature": torch.as_tensor(list(rows)),
        }


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that a piece of work takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def sandwich_ratio(model: LengthAdaptiveModel, batches: list[Batch]) -> float:
    """Return measured over predicted time of a full, a smallest and a sampled pass."""
    layers = model.num_layers
    full = LengthConfig.full(layers=layers, sequence_length=LONGEST)
    smallest = constant_drop(0.25, layers=layers, sequence_length=LONGEST)
    cut = (LONGEST,) * (layers // 2) + (LONGEST // 2,) * (layers - layers // 2)
    passes = (smallest, LengthConfig(cut, LONGEST))

    def full_pass(batch: Batch) -> torch.Tensor:
        logits: torch.Tensor = model(batch)
        TASK.loss(logits, batch).backward()
        return logits.detach()

    def sub_passes(batch: Batch, target: torch.Tensor) -> None:
        for lengths in passes:
            logits = model(batch, lengths)
            soft_loss(TASK, logits, target, batch, direction="forward", temperature=1).backward()

    ratios = []
    for batch in batches:
        real = batch["attention_mask"].sum(dim=1).numpy()
        costs = [mean_macs(model.arch, lengths, real) for lengths in (full, *passes)]
        whole = timed(lambda batch=batch: full_pass(batch))
        sandwich = timed(lambda batch=batch: sub_passes(batch, full_pass(batch)))
        ratios.append(sandwich / (whole * sum(costs) / costs[0]))
        model.zero_grad()
    return statistics.median(ratios)


def overhead_ratio(args: argparse.Namespace, features: FeatureSet) -> float:
    """Return the time of the training stage over that of a bare loop, same batches."""
    config = training(args)
    rows = list(step_batches(features, config, args.steps))
    ratios = []
    for _ in range(args.repeats):
        model = build_model(args.layers, args.hidden)
        bare = timed(lambda model=model: bare_loop(model, features, rows))
        ratios.append(stage_seconds(args, config, features) / bare)
    return statistics.median(ratios)


def bare_loop(model: LengthAdaptiveModel, features: FeatureSet, rows: list[list[int]]) -> None:
    """Train with nothing but PyTorch."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, weight_decay=0.0)
    for some in rows:
        batch = features.batch(some)
        optimizer.zero_grad()
        TASK.loss(model(batch), batch).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()


def stage_seconds(args: argparse.Namespace, config: FinetuneConfig, features: FeatureSet) -> float:
    """Train with the stage's loop, its checkpoint at the end included."""
    module = FinetuneModule(
        build_model(args.layers, args.hidden), config, Plan(features, args.steps, None)
    )
    with tempfile.TemporaryDirectory() as folder:
        context = StageContext.alone("benchmark", Path(folder))
        return timed(lambda: fit(module, context))


def optimizer_ratio(args: argparse.Namespace) -> float:
    """Return the time of a step of PyTorch's default AdamW over that of the stages'."""
    model = build_model(args.layers, args.hidden)
    model.hf.requires_grad_(True)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    features: Any = RandomFeatures(1)
    module = FinetuneModule(model, training(args), Plan(features, args.steps, None))
    ours: torch.optim.Optimizer = module.configure_optimizers()["optimizer"]
    theirs = torch.optim.AdamW(model.parameters(), lr=1e-5)
    ratios = []
    for _ in range(args.steps):
        ratios.append(timed(lambda: theirs.step()) / timed(lambda: ours.step()))
    return statistics.median(ratios)


def attention_ratio(model: LengthAdaptiveModel, batches: list[Batch]) -> float:
    """Return the time of a bfloat16 pass whose attention is in bfloat16 over that of ours."""

    def narrow(query: Tensor, key: Tensor, value: Tensor, *, valid: Tensor, dropout: float) -> Any:
        mask = None if valid is None else valid[:, None, None, :]
        return F.scaled_dot_product_attention(query, key, value, mask, dropout)

    def step(batch: Batch) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(batch)
        TASK.loss(logits.float(), batch).backward()
        model.zero_grad()

    ratios = []
    for batch in batches:
        with patch.object(adaptive, "fused_attention", narrow):
            theirs = timed(lambda batch=batch: step(batch))
        ratios.append(theirs / timed(lambda batch=batch: step(batch)))
    return statistics.median(ratios)


def training(args: argparse.Namespace) -> FinetuneConfig:
    """Return the configuration of a short training."""
    return FinetuneConfig(
        seed=0,
        epochs=1,
        max_steps=args.steps,
        batch_size=args.batch_size,
        learning_rate=1e-5,
        warmup_ratio=0.0,
        weight_decay=0.0,
        gradient_clip=1.0,
        checkpoint_minutes=60,
    )


def main() -> None:
    """Print the four ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    torch.set_num_threads(args.threads)
    features: Any = RandomFeatures(args.batch_size * args.steps)
    model = build_model(args.layers, args.hidden)
    starts = range(0, len(features), args.batch_size)
    batches = [features.batch(range(start, start + args.batch_size)) for start in starts]
    bucketed = [
        features.batch(some) for some in step_batches(features, training(args), args.steps)
    ]
    sandwich_ratio(model, batches[:2])
    print(f"sandwich step, measured / predicted by MACs: {sandwich_ratio(model, batches):.3f}x")
    print(f"stage step / bare PyTorch step:              {overhead_ratio(args, features):.3f}x")
    print(f"default AdamW step / stage's:                {optimizer_ratio(args):.3f}x")
    print(f"attention in bfloat16 / ours:                {attention_ratio(model, bucketed):.3f}x")


if __name__ == "__main__":
    main()
