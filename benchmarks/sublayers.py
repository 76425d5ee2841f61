"""Whether a convolution can take the place of attention, without pre-training.

python benchmarks/sublayers.py CHECKPOINT --data glue --subset sst2 --steps 1000

Each sub-layer learns, at each layer alone, what the attention of a fine-tuned BERT writes: the
squared error of its output (after residual and LayerNorm) on the teacher's own input, padding left
out. Then it replaces the attention of one layer, or of all, and the development set is scored. It
prints a table: MACs of the sub-layer as a share of the attention's, error, score.

- `heads 1/2`, `1/4`: the most important heads, with the teacher's weights at the start.
- `separable k`: NAS-BERT (arXiv 2105.14444), twice a depthwise convolution of width k, a dense
  layer and GELU.
- `dynamic 9`: LV-BERT (arXiv 2106.11740), a gated input and weights of 9 neighbors that each
  position and head computes; padding is set to zero before each convolution.
- `nothing`: the residual and LayerNorm alone.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.bert.modeling_bert import BertAttention

from quala.checkpoint import Checkpoint, load_with_data, predict
from quala.compress.prune.structured import sort_width, taylor_importance
from quala.data.batches import BatchPlan, StepBatches
from quala.data.features import Batch
from quala.data.spec import DataSpec


class Heads(nn.Module):
    """The first heads of an attention."""

    def __init__(self, attention: BertAttention, heads: int):
        super().__init__()
        self.heads = heads
        size = attention.self.attention_head_size * heads
        for name in ("query", "key", "value"):
            whole = getattr(attention.self, name)
            part = nn.Linear(whole.in_features, size)
            part.weight.data = whole.weight[:size].clone()
            part.bias.data = whole.bias[:size].clone()
            setattr(self, name, part)
        whole = attention.output.dense
        self.out = nn.Linear(size, whole.out_features)
        self.out.weight.data = whole.weight[:, :size].clone()
        self.out.bias.data = whole.bias.clone()

    def forward(self, hidden: Tensor, valid: Tensor) -> Tensor:
        query, key, value = (
            part(hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=valid[:, None, None])
        return self.out(context.transpose(1, 2).flatten(2))

    def macs(self, tokens: int) -> float:
        """Per token."""
        return 4 * self.out.weight.numel() + 2 * tokens * self.out.in_features


class Separable(nn.Module):
    """NAS-BERT's convolution."""

    def __init__(self, hidden: int, width: int):
        super().__init__()
        self.depthwise = nn.ModuleList(
            nn.Conv1d(hidden, hidden, width, padding=width // 2, groups=hidden) for _ in range(2)
        )
        self.dense = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(2))

    def forward(self, hidden: Tensor, valid: Tensor) -> Tensor:
        for depthwise, dense in zip(self.depthwise, self.dense, strict=True):
            hidden = hidden * valid[..., None]
            hidden = F.gelu(dense(depthwise(hidden.transpose(1, 2)).transpose(1, 2)))
        return hidden

    def macs(self, tokens: int) -> float:
        """Per token."""
        return sum(one.weight.numel() for one in [*self.depthwise, *self.dense])


class Dynamic(nn.Module):
    """LV-BERT's dynamic convolution."""

    def __init__(self, hidden: int, heads: int, width: int = 9):
        super().__init__()
        self.heads, self.width = heads, width
        self.value, self.gate = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.depthwise = nn.Conv1d(hidden, hidden, width, padding=width // 2, groups=hidden)
        self.pointwise = nn.Linear(hidden, hidden)
        self.kernel, self.out = nn.Linear(hidden, heads * width), nn.Linear(hidden, hidden)

    def forward(self, hidden: Tensor, valid: Tensor) -> Tensor:
        value = self.value(hidden) * self.gate(hidden).sigmoid() * valid[..., None]
        mixed = self.pointwise(self.depthwise(value.transpose(1, 2)).transpose(1, 2))
        kernel = self.kernel(mixed).unflatten(-1, (self.heads, 1, self.width)).softmax(-1)
        half = self.width // 2
        windows = F.pad(value, (0, 0, half, half)).unfold(1, self.width, 1)  # (B, n, H, width)
        windows = windows.unflatten(2, (self.heads, -1))
        return self.out((windows * kernel).sum(-1).flatten(2))

    def macs(self, tokens: int) -> float:
        """Per token."""
        weights = sum(one.weight.numel() for one in self.children())
        return weights + self.width * self.value.out_features


class Nothing(nn.Module):
    """No sub-layer."""

    def forward(self, hidden: Tensor, valid: Tensor) -> Tensor:
        return torch.zeros_like(hidden)

    def macs(self, tokens: int) -> float:
        """Per token."""
        return 0.0


class Replaced(nn.Module):
    """A sub-layer with its residual and LayerNorm, called as BERT calls its attention."""

    def __init__(self, attention: BertAttention, inner: nn.Module):
        super().__init__()
        self.inner, self.norm = inner, copy.deepcopy(attention.output.LayerNorm)
        self.valid: Tensor | None = None

    def forward(self, hidden: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        assert self.valid is not None
        output: Tensor = self.norm(hidden + self.inner(hidden, self.valid))
        return output, None


def kinds(attention: BertAttention) -> dict[str, nn.Module]:
    """Return every sub-layer that is compared."""
    heads = attention.self.num_attention_heads
    hidden = attention.output.dense.out_features
    return {
        "heads 1/2": Heads(attention, heads // 2),
        "heads 1/4": Heads(attention, heads // 4),
        "separable 3": Separable(hidden, 3),
        "separable 7": Separable(hidden, 7),
        "dynamic 9": Dynamic(hidden, heads),
        "nothing": Nothing(),
    }


def inputs_of(batch: Batch) -> dict[str, Tensor]:
    """Return BERT's inputs."""
    return {
        "input_ids": batch["input_ids"],
        "attention_mask": batch["attention_mask"],
        "token_type_ids": batch["segment_ids"],
    }


class Seen:
    """The input and output of each attention of the teacher in its last pass."""

    def __init__(self, attentions: list[BertAttention]):
        self.pairs: list[tuple[Tensor, Tensor]] = [(torch.empty(0),) * 2] * len(attentions)
        for place, attention in enumerate(attentions):
            attention.register_forward_hook(self.keeper(place))

    def keeper(self, place: int) -> Any:
        """Return the hook of one layer."""

        def keep(module: nn.Module, given: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
            self.pairs[place] = (given[0].detach(), output[0].detach())

        return keep


def train(
    opened: Checkpoint, subs: list[dict[str, Replaced]], settings: argparse.Namespace
) -> list[dict[str, float]]:
    """Train every sub-layer at every layer; return the mean error of the last tenth of steps."""
    hf, features = opened.model.hf, opened.data.train.features
    seen = Seen([layer.attention for layer in hf.bert.encoder.layer])
    optimizer = torch.optim.AdamW(
        [one for layer in subs for sub in layer.values() for one in sub.parameters()],
        lr=settings.rate,
        weight_decay=0.0,
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, settings.steps)
    plan = BatchPlan(seed=settings.seed, batch_size=settings.batch, bucketed=True)
    batches = StepBatches(features.lengths, plan, total_steps=settings.steps)
    errors: list[dict[str, list[float]]] = [{name: [] for name in layer} for layer in subs]
    for step, rows in enumerate(batches):
        batch = features.batch(rows, pad_to=None)
        valid = batch["attention_mask"].bool()
        with torch.no_grad():
            hf.bert(**inputs_of(batch))
        losses = []
        for place, (layer, (given, wanted)) in enumerate(zip(subs, seen.pairs, strict=True)):
            for name, sub in layer.items():
                sub.valid = valid
                loss = (sub(given)[0] - wanted)[valid].square().mean()
                losses.append(loss)
                if step >= 0.9 * settings.steps:
                    errors[place][name].append(float(loss.detach()))
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()
        schedule.step()
    return [{name: statistics.mean(values) for name, values in one.items()} for one in errors]


def score(opened: Checkpoint, chosen: dict[int, Replaced]) -> float:
    """Return the development set's score with the chosen layers' attention replaced."""
    model = copy.deepcopy(opened.model)
    layers = model.hf.bert.encoder.layer
    for place, sub in chosen.items():
        layers[place].attention = sub

    def call(batch: Batch) -> Tensor:
        for sub in chosen.values():
            sub.valid = batch["attention_mask"].bool()
        logits: Tensor = model.hf(**inputs_of(batch)).logits
        return logits

    model.forward = call
    outputs = predict(model, opened.data.test.features, batch_size=64, pad_to=None)
    return next(iter(opened.data.score(opened.data.test, outputs).values()))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--subset", default="sst2")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    spec = DataSpec(
        task="glue", path=settings.data, subset=settings.subset, max_length=128,
        max_train=16000, search_size=500, selection_size=500,
    )  # fmt: skip
    opened = load_with_data(settings.checkpoint, spec)
    hf, features = opened.model.hf.eval(), opened.data.train.features
    batches = [features.batch(range(at, at + 8), pad_to=None) for at in range(0, 256, 8)]
    model = opened.model
    importance = taylor_importance(hf, batches, lambda one: model.task.loss(model(one), one))
    opened.model.hf = hf = sort_width(hf, importance)
    whole = score(opened, {})
    subs = [
        {name: Replaced(layer.attention, inner) for name, inner in kinds(layer.attention).items()}
        for layer in hf.bert.encoder.layer
    ]
    tokens = round(float(features.lengths.mean()))
    attention = hf.bert.encoder.layer[0].attention
    full = Heads(attention, attention.self.num_attention_heads).macs(tokens)
    errors = train(opened, subs, settings)
    print(f"{tokens} tokens on average; the whole model: {whole:.2f}")
    print("| sub-layer | MACs | error by layer | score, one layer replaced | all replaced |")
    print("| --- | --- | --- | --- | --- |")
    for name in subs[0]:
        share = subs[0][name].inner.macs(tokens) / full
        error = " ".join(f"{layer[name]:.3f}" for layer in errors)
        single = [score(opened, {place: layer[name]}) for place, layer in enumerate(subs)]
        every = score(opened, {place: layer[name] for place, layer in enumerate(subs)})
        ones = " ".join(f"{value:.1f}" for value in single)
        print(f"| {name} | {share:.0%} | {error} | {ones} | {every:.2f} |", flush=True)


if __name__ == "__main__":
    main()
