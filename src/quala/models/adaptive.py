"""The length-adaptive model: a Hugging Face encoder that drops tokens layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from quala.architecture import ELASTIC
from quala.cost import architecture_of
from quala.data.features import Batch
from quala.data.task import Span, Task
from quala.data.task_embed import Embedding
from quala.errors import QualaError, unknown
from quala.lengths import Layers, LengthConfig, read_layers
from quala.models.experts import Experts, feed_routed
from quala.models.families import Block, family_of, sum_of
from quala.models.selection import (
    Drop,
    State,
    Trace,
    gather_tokens,
    restore,
    select,
)
from quala.models.significance import View, row_softmax
from quala.models.significance import significance as significance_named


def fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    valid: Tensor | None,
    dropout: float,
    bias: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Return the context (B, heads, n, d); `valid` (B, n) marks the keys, None when all are.

    `bias` (1 or B, 1 or heads, n, n) is added to the products, `scale` is 1 / sqrt(d) if None.
    """
    if query.dtype == torch.bfloat16 and query.device.type == "cpu":
        # Where bfloat16 halves a GPU's time, it doubles that of the CPU's kernel.
        with torch.autocast("cpu", enabled=False):
            wide = (part.float() for part in (query, key, value))
            return fused_attention(*wide, valid=valid, bias=bias, scale=scale, dropout=dropout).to(
                query.dtype
            )
    # A mask, even one that hides nothing, costs the fastest kernel.
    mask = None if valid is None else valid[:, None, None, :]  # (B, 1, 1, n)
    if bias is not None:
        bias = bias.to(query.dtype)
        mask = bias if mask is None else bias.masked_fill(~mask, -torch.inf)
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout, scale=scale
    )


def published_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    valid: Tensor | None,
    dropout: float,
    bias: Tensor | None = None,
    scale: float | None = None,
    softmax: Callable[[Tensor], Tensor] = row_softmax,
) -> tuple[Tensor, Tensor]:
    """Return the context (B, heads, n, d) and the column sums (B, n) of its probabilities.

    As published: rows of padding count too, and in training the sums are taken after dropout.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    logits = (query * scale) @ key.transpose(-1, -2)  # (B, heads, n, n)
    if bias is not None:
        logits = logits + bias
    if valid is not None:
        logits = logits.masked_fill(~valid[:, None, None, :], -torch.inf)
    probabilities = F.dropout(softmax(logits), p=dropout)
    return probabilities @ value, probabilities.detach().sum(dim=(1, 2))


LOWEST = -3.0e38
"""Near the lowest float32; minus infinity in all places of a row gives NaN."""
Semantics = Literal["natural", "reference"]
KeepCounts = list[list[int] | None]

_NO_LAYERS: frozenset[int] = frozenset()


class LengthAdaptiveModel(nn.Module):
    """Run a Hugging Face model with any length configuration (arXiv 2010.07003).

    Each layer computes the attention of the tokens present, drops the least significant ones, and
    applies the feed-forward to the others. The logits of a dropped token come from its hidden
    state before the layer that dropped it.

    `natural` semantics: lengths are shares of each example's real tokens, padding neither counts
    nor stays, tokens keep their order, layers that drop nothing cost nothing extra.
    `reference` semantics: as published; lengths are absolute on inputs padded to the sequence
    length, every row counts, tokens are in the order of their scores.

    `hf` owns every parameter; without a `task` it is question answering. Raises QualaError for
    unsupported models, names and combinations.
    """

    def __init__(
        self,
        hf: PreTrainedModel,
        *,
        task: Task | None = None,
        significance: str = "question",
        semantics: Semantics = "natural",
    ) -> None:
        super().__init__()
        if semantics not in get_args(Semantics):
            raise unknown("semantics", semantics, get_args(Semantics))
        strategy = significance_named(significance)
        if semantics == "reference" and not strategy.is_published:
            raise QualaError(
                f"`reference` semantics rank tokens by `column_sum`, got `{significance}`."
            )
        self.task: Task = task or Span()
        if strategy.needs_span_head and not isinstance(self.task, Span):
            raise QualaError(
                f"`{significance}` significance needs question answering, got {self.task.kind}."
            )
        self.family = family_of(hf)
        self.family.check(hf.config)
        self.hf = hf
        self.significance = strategy
        self.semantics: Semantics = semantics
        self.arch = replace(
            architecture_of(hf.config.to_dict()),
            outputs=int(hf.config.num_labels or 2),
            head="span" if self.task.per_token else "sentence",
        )
        if isinstance(self.task, Embedding):
            self.arch = replace(self.arch, outputs=self.arch.hidden, head="none")

    @property
    def restores_hidden(self) -> bool:
        """Whether a dropped token's hidden state is restored rather than its logits.

        So a head with a hidden layer of its own runs once for each token.
        """
        return self.task.per_token and self.family.token_head(self.hf).dense is not None

    @property
    def softmax(self) -> Callable[[Tensor], Tensor] | None:
        """The integer softmax that `replace_kernels` put into `hf`; None for PyTorch's."""
        found: Callable[[Tensor], Tensor] | None = getattr(self.hf, "attention_softmax", None)
        return found

    def with_network(self, hf: PreTrainedModel) -> LengthAdaptiveModel:
        """Return a model of another network that does the task and ranks tokens as this one."""
        ranking, semantics = self.significance.name, self.semantics
        return LengthAdaptiveModel(hf, task=self.task, significance=ranking, semantics=semantics)

    @property
    def structures(self) -> list[Layers]:
        """The sub-networks that the model was trained for, all of it first; none: no others."""
        names = getattr(self.hf.config, ELASTIC, None) or []
        return [read_layers(name, layers=self.num_layers) if name else () for name in names]

    @property
    def num_layers(self) -> int:
        """Number of encoder layers."""
        return len(self.family.layers(self.hf))

    def forward(
        self,
        batch: Batch,
        lengths: LengthConfig | None = None,
        *,
        skip_layers: frozenset[int] = _NO_LAYERS,
    ) -> Tensor:
        """Return logits: (B, n, outputs) for a task with outputs per token, else (B, outputs).

        Embeddings are (B, H).

        No `lengths` means that nothing is dropped; `skip_layers` are identities (LayerDrop).
        """
        counts: KeepCounts = [None] * self.num_layers
        state = self.begin(batch)
        if lengths is not None:
            counts = self.keep_counts(batch, lengths, skip_layers=skip_layers)
        for layer, keep in enumerate(counts):
            if layer not in skip_layers:
                state = self.attend(state, layer, scored=keep is not None)
                state = self.narrow(state, layer, keep)
        return self.finish(state)

    def forward_exits(
        self, batch: Batch, *, skip_layers: frozenset[int] = _NO_LAYERS
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the logits at full length, and the span head's logits after each attention.

        The latter are (B, n, 2) for each layer that is not skipped; the significance `span` ranks
        by them. Question answering only.
        """
        state, exits = self.begin(batch), []
        for layer in range(self.num_layers):
            if layer not in skip_layers:
                state = self.attend(state, layer, scored=False)
                exits.append(self.family.tokens(self.hf, state.hidden))
                state = self.narrow(state, layer, None)
        return self.finish(state), exits

    def trace(self, batch: Batch) -> Trace:
        """Run at full length and return every intermediate."""
        state = self.begin(batch)
        hidden, projections = [state.hidden], []
        for layer in range(self.num_layers):
            block = self._block(layer)
            projections.append(self._project(block, state.hidden))
            attended = self._attend(state, layer, block, projections[-1])
            state = self.narrow(attended, layer, None)
            hidden.append(state.hidden)
        queries, keys, values = zip(*projections, strict=True)
        mask = batch["attention_mask"].bool()
        return Trace(self.finish(state), tuple(hidden), queries, keys, values, mask)

    def begin(self, batch: Batch) -> State:
        """Embed a batch.

        Raises QualaError for inputs longer than the model's positions and for empty examples.
        """
        ids, mask = batch["input_ids"], batch["attention_mask"].bool()  # (B, n)
        question = (batch["segment_ids"] == 0) & mask
        if ids.shape[1] > self.arch.longest:
            raise QualaError(
                f"The model reads at most {self.arch.longest} tokens, got {ids.shape[1]}."
            )
        # One transfer to the host for all counts.
        real, asked = torch.stack([mask.sum(dim=1), question.sum(dim=1)]).tolist()
        if min(real) == 0:
            raise QualaError("Every example needs at least one token, got one without.")
        padded = min(real) < ids.shape[1]
        positions = related = None
        if self.family.places(self.hf):
            positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
            related = self.family.relate(self.hf, positions)
        return State(
            hidden=self.family.embed(self.hf, ids, batch["segment_ids"]),
            valid=mask if padded else None,
            question=question,
            question_rows=max(1, *asked),
            ids=ids if self.arch.routed else None,
            positions=positions,
            related=related,
            present=tuple(real) if self.semantics == "natural" else (ids.shape[1],) * len(real),
            real=tuple(real),
        )

    def attend(self, state: State, layer: int, scored: bool) -> State:
        """Run the attention block of `layer`, and score its tokens if `scored`."""
        block = self._block(layer)
        projections = self._project(block, state.hidden)
        return self._attend(state, layer, block, projections, scored=scored)

    def narrow(self, state: State, layer: int, keep: Sequence[int] | None) -> State:
        """Keep `keep[b]` tokens of example b (None: all of them) and run the feed-forward.

        Raises QualaError for counts that the example cannot keep, and after an `attend` without
        scores.
        """
        return replace(self.feed(self.drop(state, keep), layer), inputs=None, scores=None)

    def feed(self, state: State, layer: int) -> State:
        """Run the feed-forward of `layer`: token by token, so it may also come before `drop`."""
        block, hidden = self._block(layer), state.hidden
        if state.ids is not None and isinstance(block.ffn_in, Experts):
            return replace(state, hidden=feed_routed(block, state.ids, hidden, self._fed))
        return replace(state, hidden=self._fed(block, hidden))

    def _fed(self, block: Block, hidden: Tensor) -> Tensor:
        if block.norms_first:
            return hidden + self.family.feed(block, block.ffn_norm(hidden))
        normed: Tensor = block.ffn_norm(self.family.feed(block, hidden) + hidden)
        return normed

    def drop(self, state: State, keep: Sequence[int] | None) -> State:
        """Keep the `keep[b]` most significant tokens of example b; None keeps all of them.

        Raises QualaError as `narrow` does.
        """
        kept = state.present if keep is None else tuple(keep)
        if kept == state.present:
            return state
        if state.scores is None or state.inputs is None:
            raise QualaError("A layer that drops tokens needs `attend` with `scored=True`.")
        if any(not 1 <= few <= many for few, many in zip(kept, state.present, strict=True)):
            raise QualaError(f"Examples of {state.present} tokens cannot keep {kept}.")
        index, valid, real = select(
            state.scores,
            state.valid,
            keep=kept,
            natural=self.semantics == "natural",
            protect_first=self.task.keeps_first,
        )
        question = gather_tokens(state.question, index)
        values, dropped = None, state.dropped
        if self.task.per_token:  # (B, n, outputs) or (B, n, H)
            values = state.inputs if self.restores_hidden else self._tokens(state.inputs)
        elif isinstance(self.task, Embedding) and self.task.pooling != "cls":
            inputs = self._normed(state.inputs)
            kept_sum = sum_of(gather_tokens(inputs, index), real)
            lost = sum_of(inputs, state.valid) - kept_sum  # (B, H)
            dropped = lost if dropped is None else dropped + lost
        positions = related = None
        if state.positions is not None:
            positions = gather_tokens(state.positions, index)
            related = self.family.relate(self.hf, positions)
        return replace(
            state,
            hidden=gather_tokens(state.hidden, index),
            ids=None if state.ids is None else gather_tokens(state.ids, index),
            valid=real,
            question=question if real is None else question & real,
            present=kept,
            positions=positions,
            related=related,
            drops=(*state.drops, Drop(index, valid, values)),
            dropped=dropped,
        )

    def finish(self, state: State) -> Tensor:
        """Return the logits, those of dropped tokens restored, or the embeddings."""
        if isinstance(self.task, Embedding):
            return self._embedding(self.task, state)
        if not self.task.per_token:
            return self.family.sentence(self.hf, state.hidden, state.valid)
        # The head works token by token: restoring its outputs equals restoring its inputs.
        if self.restores_hidden:
            return self._tokens(restore(state.hidden, state.drops))
        return restore(self._tokens(state.hidden), state.drops)

    def _tokens(self, hidden: Tensor) -> Tensor:
        return self.family.tokens(self.hf, hidden)

    def keep_counts(
        self,
        batch: Batch,
        lengths: LengthConfig,
        *,
        skip_layers: frozenset[int] = _NO_LAYERS,
    ) -> KeepCounts:
        """Return for each layer how many tokens each example keeps, None where none is dropped.

        Raises QualaError unless there is one length per layer, and for a batch that `reference`
        semantics need padded to the sequence length.
        """
        layers, mask = self.num_layers, batch["attention_mask"]  # (B, n)
        if lengths.layers:
            raise QualaError(f"The model runs all of its units, not those of {lengths}.")
        if len(lengths.lengths) != layers:
            raise QualaError(
                f"Expected {layers} lengths, one per layer, got {len(lengths.lengths)}."
            )
        examples, width = mask.shape
        if self.semantics == "natural":
            present = mask.sum(dim=1).tolist()
            kept = [lengths.kept(tokens) for tokens in present]
        elif width == lengths.sequence_length:
            present, kept = [width] * examples, [lengths.lengths] * examples
        else:
            raise QualaError(
                f"`reference` semantics need inputs padded to {lengths.sequence_length} tokens, "
                f"got {width}."
            )
        counts: KeepCounts = []
        for layer in range(layers):
            after = [example[layer] for example in kept]
            dropped = layer not in skip_layers and after != present
            counts.append(after if dropped else None)
            present = after if dropped else present
        return counts

    def _embedding(self, task: Embedding, state: State) -> Tensor:
        """Return the pooled hidden states, (B, H): a dropped token counts with its last one."""
        hidden = self._normed(state.hidden)
        if task.pooling == "cls":
            pooled = hidden[:, 0]
        else:
            pooled = sum_of(hidden, state.valid)
            pooled = pooled if state.dropped is None else pooled + state.dropped
            pooled = pooled / pooled.new_tensor(state.real).unsqueeze(1)
        return F.normalize(pooled, dim=-1) if task.normalize else pooled

    def _normed(self, hidden: Tensor) -> Tensor:
        norm = self.family.last_norm(self.hf)
        return hidden if norm is None else norm(hidden)

    @property
    def _head_size(self) -> int:
        return self.arch.hidden // self.arch.heads  # layers may have fewer heads, of this size

    def _block(self, layer: int) -> Block:
        return self.family.block(self.family.layers(self.hf)[layer])

    def _project(self, block: Block, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return query, key and value of the tokens, without their places."""
        if block.norms_first:
            hidden = block.attention_norm(hidden)
        query, key, value = (
            rows.unflatten(-1, (-1, self._head_size)).transpose(1, 2)  # (B, heads, n, d)
            for rows in self.family.project(block, hidden)
        )
        return query, key, value

    def _attend(
        self,
        state: State,
        layer: int,
        block: Block,
        projections: tuple[Tensor, Tensor, Tensor],
        *,
        scored: bool = False,
    ) -> State:
        query, key, value = projections
        query, key = self.family.place(self.hf, layer, query, key, state.related)
        dropout = block.attention_dropout
        options: dict[str, Any] = {
            "valid": state.valid,
            "bias": self.family.bias(self.hf, layer, query, key, state.related),
            "scale": self.family.scale(self.hf, self._head_size),
            "dropout": dropout.p if dropout.training else 0.0,
        }
        scores = None
        published = scored and self.semantics == "reference"
        kernel = self.softmax
        softmax = kernel or row_softmax
        if published or kernel:
            context, sums = published_attention(query, key, value, **options, softmax=softmax)
            scores = sums if published else None
        else:
            context = fused_attention(query, key, value, **options)
        mixed = block.attention_out(context.transpose(1, 2).flatten(2))  # (B, n, H)
        hidden = block.attention_out_dropout(mixed) + state.hidden
        if not block.norms_first:
            hidden = block.attention_norm(hidden)
        if scored and self.semantics == "natural":
            question = state.question[:, : state.question_rows]
            view = View(
                query,
                key,
                state.valid,
                question,
                hidden,
                self._ranking_span,
                bias=options["bias"],
                scale=options["scale"],
                softmax=softmax,
            )
            scores = self.significance.scores(view)
        return replace(state, hidden=hidden, inputs=state.hidden, scores=scores)

    def _ranking_span(self, hidden: Tensor) -> Tensor:
        """Return the head's logits (B, n, K) that tokens are ranked by.

        No answer, which stands at the first token, has no part in them: where it is likely, every
        token of the context would rank below the question.
        """
        logits = self.family.tokens(self.hf, hidden)
        if isinstance(self.task, Span) and self.task.null:
            first = torch.arange(logits.shape[1], device=logits.device) == 0
            logits = logits.masked_fill(first.unsqueeze(-1), LOWEST)
        return logits
