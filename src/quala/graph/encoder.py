"""A length-adaptive model as one ONNX graph whose lengths are an input."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import onnx
from onnx import TensorProto
from torch import Tensor, nn

from quala.compress.structure import check_sizes
from quala.data.task import Span
from quala.data.task_embed import Embedding
from quala.errors import QualaError
from quala.graph.kernels import integer_softmax
from quala.graph.layers import (
    Part,
    activation,
    array,
    embedding,
    layer_norm,
    linear,
    linears,
    product,
)
from quala.lengths import MIN_TOKENS
from quala.models.adaptive import LOWEST, LengthAdaptiveModel
from quala.models.experts import Experts, blocks_of
from quala.models.families import Block
from quala.models.significance import GraphView, is_first, onnx_softmax
from quala.onnx_builder import (
    BEYOND,
    BIASED,
    CONTEXT,
    DROP,
    ENTRY,
    HIDDEN,
    INPUTS,
    KEPT,
    KEY,
    QUERY,
    VALUE,
    Cut,
    GraphBuilder,
)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Names of the tensors of the tokens present; `answers` restore the dropped ones.

    For embeddings these are the sum (B, H) of the hidden states of dropped tokens.
    """

    hidden: str  # (B, m, H)
    positions: str  # (B, m) places in the input
    valid: str  # (B, m) bool
    question: str  # (B, m) bool
    answers: str  # (B, n + 1, K or H), the last place for fillers, cut off at the end
    related: str | None = None  # what `Family.relate_graph` made of the places, if not themselves


# Element types in the order of the fields of `Tokens`.
KINDS: tuple[int, ...] = (
    TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL, TensorProto.BOOL, TensorProto.FLOAT,
    TensorProto.INT32,
)  # fmt: skip


def build_graph(model: LengthAdaptiveModel, *, sequence_length: int) -> onnx.ModelProto:
    """Return the graph of a model in `natural` semantics.

    Inputs: input_ids, attention_mask and segment_ids (B, n), and lengths (layers,) on the scale of
    `sequence_length`, all int64. Output: logits (B, n, K) for a task with outputs per token, else
    (B, K); K is the width for embeddings. A layer that keeps every token ranks none. Sub-networks
    can be cut out of the graph of an elastic model (`cut_layers`). Raises QualaError for
    `reference` semantics, and for elastic models that cannot be cut.
    """
    if model.semantics != "natural":
        raise QualaError(
            "An export needs `natural` semantics, got `reference`; "
            "`stage.export.enabled=false` leaves it out."
        )
    if model.structures:
        check_sizes(model.hf)
    return _Exporter(model, sequence_length).graph()


class _Exporter:
    def __init__(self, model: LengthAdaptiveModel, sequence_length: int) -> None:
        self.model = model
        self.sequence_length = sequence_length
        self.spans = model.task.per_token
        self.embeds = model.task if isinstance(model.task, Embedding) else None
        self._head_size = model.arch.hidden // model.arch.heads
        self._softmax = onnx_softmax if model.softmax is None else integer_softmax
        self._elastic = bool(model.structures)
        self.g = GraphBuilder()

    def graph(self) -> onnx.ModelProto:
        g, arch = self.g, self.model.arch
        real = g("ReduceSum", "attention_mask", g.constant([1], np.int64), keepdims=1)  # (B, 1)
        tokens, before = self._begin(), real
        for layer in range(self.model.num_layers):
            kept = self._kept(real, layer)
            tokens = self._layer(tokens, layer, before, kept)
            before = kept
        logits = self._finish(self._entered(tokens, self.model.num_layers))
        g.nodes.append(onnx.helper.make_node("Identity", [logits], ["logits"], name="logits"))
        row: list[str | int] = ["batch", "tokens"]
        shape: list[str | int] = [*row, arch.outputs] if self.spans else ["batch", arch.outputs]
        words = dict.fromkeys(INPUTS[:3], (TensorProto.INT64, row))
        lengths: dict[str, tuple[int, list[str | int]]] = {
            "lengths": (TensorProto.INT64, [arch.layers])
        }
        return g.model(
            inputs=words | lengths,
            outputs={"logits": (TensorProto.FLOAT, shape)},
            doc=f"lengths are tokens kept by each layer of {self.sequence_length}",
        )

    def _kept(self, real: str, layer: int) -> str:
        """Return max(min(2, n), ceil(length n / sequence length)), (B, 1)."""
        g = self.g
        length = g("Gather", "lengths", g.constant(layer, np.int64))
        scale = g.constant(self.sequence_length, np.int64)
        ceiling = g.constant(self.sequence_length - 1, np.int64)
        share = g("Div", g("Add", g("Mul", length, real), ceiling), scale)
        least = g("Min", real, g.constant(MIN_TOKENS, np.int64))
        return g("Max", share, least)

    def _begin(self) -> Tokens:
        g = self.g
        shape = g("Shape", "input_ids")
        tokens = g("Gather", shape, g.constant(1, np.int64))
        places = g("Range", g.constant(0, np.int64), tokens, g.constant(1, np.int64))  # (n,)
        positions = g("Expand", g("Unsqueeze", places, g.constant([0], np.int64)), shape)
        valid = g("Cast", "attention_mask", to=TensorProto.BOOL)
        first = g("Equal", "segment_ids", g.constant(0, np.int64))
        one = g.constant([1], np.int64)
        rows = g("Slice", shape, g.constant([0], np.int64), one)
        outputs = self.model.arch.outputs if self.spans else 2  # unused where none is restored
        if self.model.restores_hidden:
            outputs = self.model.arch.hidden
        sizes = [rows, g("Reshape", g("Add", tokens, one), one), g.constant([outputs], np.int64)]
        if self.embeds is not None:
            sizes = [rows, g.constant([self.model.arch.hidden], np.int64)]
        size = g("Concat", *sizes, axis=0)
        answers = g("Expand", g.constant(0.0, np.float32), size)
        hidden, question = self._embed(places), g("And", first, valid)
        related = None
        if self.model.family.places(self.model.hf):
            related = self._related(g, g("Unsqueeze", places, g.constant([0], np.int64)))
        return Tokens(hidden, positions, valid, question, answers, related)

    def _related(self, g: GraphBuilder, positions: str) -> str | None:
        related = self.model.family.relate_graph(g, self.model.hf, positions)
        return None if related == positions else related

    def _embed(self, places: str) -> str:
        g, model = self.g, self.model
        parts = model.family.embeddings(model.hf)
        rows = embedding(g, "input_ids", parts.words)
        if parts.padding is not None:
            # Tokens have the positions padding + 1, padding + 2, ..., `<pad>` written in a text
            # the position of padding.
            padding = g.constant(parts.padding, np.int64)
            word = g("Not", g("Equal", "input_ids", padding))
            counted = g("Cast", word, to=TensorProto.INT64)
            count = g("CumSum", counted, g.constant(1, np.int64))
            places = g("Add", g("Mul", count, counted), padding)
        if parts.positions is not None:
            rows = g("Add", rows, embedding(g, places, parts.positions))
        if parts.types is not None:
            several = model.arch.type_vocabulary > 1
            segments = "segment_ids" if several else g.constant([[0]], np.int64)
            rows = g("Add", rows, embedding(g, segments, parts.types))
        hidden = layer_norm(g, rows, parts.norm)
        return hidden if parts.projection is None else linear(g, hidden, parts.projection)

    def _layer(self, tokens: Tokens, layer: int, before: str, kept: str) -> Tokens:
        g, model = self.g, self.model
        block = model.family.block(model.family.layers(model.hf)[layer])
        if not isinstance(block.attention_norm, nn.Identity):  # ModernBERT's first layer stays
            tokens = self._entered(tokens, layer)
        inputs = tokens.hidden
        if block.norms_first:
            inputs = self._normed(inputs, block.attention_norm)
        query, key, value = self._projections(inputs, block, layer)
        hf, places = model.hf, tokens.related or tokens.positions
        query, key = model.family.place_graph(g, hf, layer, query, key, places)
        bias = model.family.bias_graph(g, hf, layer, query, key, places)
        context = self._attention(query, key, value, bias, tokens.valid, layer)
        out = linear(g, context, block.attention_out, self._heads(layer, 0))
        hidden = g("Add", out, tokens.hidden)
        if not block.norms_first:
            hidden = layer_norm(g, hidden, block.attention_norm)
        view = GraphView(
            query, key, tokens.valid, tokens.question, hidden, self._ranking_span, bias,
            self._softmax,
        )  # fmt: skip
        after = self._drop(
            replace(tokens, hidden=hidden), tokens.hidden, view, layer, before, kept
        )
        if isinstance(block.ffn_in, Experts):
            return replace(after, hidden=self._routed(after, block, layer))
        return replace(after, hidden=self._whole_fed(after.hidden, block, layer))

    def _routed(self, tokens: Tokens, block: Block, layer: int) -> str:
        """Feed the rows of each expert through it, and write them where they came from."""
        g, ids = self.g, self.g("GatherElements", "input_ids", tokens.positions, axis=1)
        table = g.constant(array(cast("Tensor", block.ffn_in.table)))
        chosen = g("Cast", g("Gather", table, ids), to=TensorProto.INT32)
        made = tokens.hidden
        for number, one in enumerate(blocks_of(block)):
            mine = g("Equal", chosen, g.constant(number, np.int32))
            places = g("Transpose", g("NonZero", mine), perm=[1, 0])  # (rows, 2)
            fed = self._whole_fed(g("GatherND", tokens.hidden, places), one, layer)
            made = g("ScatterND", made, places, fed)
        return made

    def _whole_fed(self, hidden: str, block: Block, layer: int) -> str:
        """Return hidden states after the feed-forward, with its norm and sum."""
        g = self.g
        if block.norms_first:
            fed = self._fed(self._normed(hidden, block.ffn_norm), block, layer)
            return g("Add", fed, hidden)
        return layer_norm(g, g("Add", self._fed(hidden, block, layer), hidden), block.ffn_norm)

    def _entered(self, tokens: Tokens, layer: int) -> Tokens:
        if not self._elastic:
            return tokens
        return replace(tokens, hidden=self.g("Identity", tokens.hidden, name=ENTRY.format(layer)))

    def _heads(
        self, layer: int, axis: int, *, blocks: int = 1, size: int | None = None
    ) -> Cut | None:
        free = self._elastic and not self.model.family.fixed_heads
        return Cut(layer, "heads", axis, blocks, size or self._head_size) if free else None

    def _neurons(self, layer: int, axis: int, *, blocks: int = 1) -> Cut | None:
        return Cut(layer, "neurons", axis, blocks) if self._elastic else None

    def _normed(self, hidden: str, norm: nn.Module) -> str:
        return hidden if isinstance(norm, nn.Identity) else layer_norm(self.g, hidden, norm)

    def _fed(self, hidden: str, block: Block, layer: int) -> str:
        g, gated = self.g, self.model.family.facts.gated
        inner = linear(g, hidden, block.ffn_in, self._neurons(layer, 1, blocks=1 + gated))
        if gated:
            inner, gate = g.many("Split", inner, outputs=2, num_outputs=2, axis=-1)
            inner = g("Mul", activation(g, inner, block.activation), gate)
        else:
            inner = activation(g, inner, block.activation)
        return linear(g, inner, block.ffn_out, self._neurons(layer, 0))

    def _projections(self, hidden: str, block: Block, layer: int) -> tuple[str, str, str]:
        """Return the scaled query, key and value, each (B, heads, n, d)."""
        g, heads = self.g, self.model.arch.sizes[layer].heads
        size = self._head_size
        scale = self.model.family.scale(self.model.hf, size)
        split = g.constant([0, 0, heads, size], np.int64, cut=self._heads(layer, -1, size=1))
        cut = self._heads(layer, 1)
        if self.model.family.facts.packed:
            factors = np.repeat(np.array([scale, 1, 1], np.float32), heads * size)
            packed = Part(block.query, factors, self._heads(layer, 1, blocks=3))
            rows = product(g, hidden, packed)
            made = g.many("Split", rows, outputs=3, num_outputs=3, axis=-1)
        else:
            parts = [Part(block.query, scale, cut)]
            parts += [Part(one, cut=cut) for one in (block.key, block.value)]
            made = linears(g, hidden, parts)
        query, key, value = (
            g("Transpose", g("Reshape", rows, split, name=name.format(layer)), perm=[0, 2, 1, 3])
            for name, rows in zip((QUERY, KEY, VALUE), made, strict=True)
        )
        return query, key, value

    def _attention(
        self,
        query: str,
        key: str,
        value: str,
        bias: str | None,
        valid: str,
        layer: int,
    ) -> str:
        g = self.g
        logits = g("MatMul", query, g("Transpose", key, perm=[0, 1, 3, 2]))
        if bias is not None:
            logits = g("Add", logits, bias)
        padding = g("Where", valid, g.constant(0.0, np.float32), g.constant(LOWEST, np.float32))
        padding = g("Unsqueeze", padding, g.constant([1, 2], np.int64))
        weights = self._softmax(g, g("Add", logits, padding, name=BIASED.format(layer)))
        context = g("Transpose", g("MatMul", weights, value), perm=[0, 2, 1, 3])
        heads = self.model.arch.sizes[layer].heads
        shape = [0, 0, heads * self._head_size]
        width = g.constant(shape, np.int64, cut=self._heads(layer, -1))
        # Attention of this name becomes one node. Of rotated queries that node would be wrong, and
        # with a bias of the logits it is slower than these (ONNX Runtime 1.31, MPNet: 1.2 times).
        plain = self.model.softmax is None and not self.model.family.places(self.model.hf)
        return g("Reshape", context, width, name=CONTEXT.format(layer) if plain else None)

    def _drop(
        self, tokens: Tokens, inputs: str, view: GraphView, layer: int, before: str, kept: str
    ) -> Tokens:
        """Drop tokens where `kept` is less than `before` for any example."""
        g = self.g
        fewer = g("Cast", g("Less", kept, before), to=TensorProto.INT64)
        some = g("Cast", g("ReduceMax", fewer, keepdims=0), to=TensorProto.BOOL)
        # Always true. OpenVINO gives wrong numbers for this `If` (2026.4), and does not know this
        # operator: it refuses the whole graph. Graphs for given lengths have neither.
        some = g("And", some, g("OptionalHasElement", "input_ids"))
        then, other = g.branch(), g.branch()
        dropped = self._dropped(then, tokens, inputs, view, kept)
        fields = [field for field in Tokens.__slots__ if getattr(tokens, field) is not None]
        names = [KEPT.format(layer, field) for field in fields]
        branches = []
        for branch, result, tag in ((then, dropped, "drop"), (other, tokens, "keep")):
            values = [getattr(result, field) for field in fields]
            outputs = [f"{name}_{tag}" for name in names]
            for value, output in zip(values, outputs, strict=True):
                branch.nodes.append(onnx.helper.make_node("Identity", [value], [output]))
            kinds = dict(zip(outputs, KINDS, strict=False))  # the last field may be absent
            branches.append(branch.proto(f"{tag}_{layer}", kinds))
        node = onnx.helper.make_node(
            "If",
            [some],
            names,
            name=DROP.format(layer),
            then_branch=branches[0],
            else_branch=branches[1],
        )
        g.nodes.append(node)
        return Tokens(*names)

    def _dropped(
        self, g: GraphBuilder, tokens: Tokens, inputs: str, view: GraphView, kept: str
    ) -> Tokens:
        strategy = self.model.significance
        ranked = strategy.onnx(g, view)
        if self.model.task.keeps_first:
            first = is_first(g, ranked)
            ranked = g("Where", first, g.constant(np.inf, np.float32), ranked)
        ranked = g("Where", tokens.valid, ranked, g.constant(-np.inf, np.float32))
        width = g("ReduceMax", kept, keepdims=0)
        one = g.constant([1], np.int64)
        width = g("Reshape", width, one)
        _, index = g.many("TopK", ranked, width, outputs=2, axis=1)  # best first, (B, m)
        places = g("Range", g.constant(0, np.int64), g("Squeeze", width), g.constant(1, np.int64))
        taken = g("Less", places, kept)  # (B, m): an example that keeps fewer ends in fillers
        if strategy.needs_text_order:  # fillers last
            beyond = g.constant(BEYOND, np.int64)
            places = g("Where", taken, index, g("Add", index, beyond))
            places, order = g.many("TopK", places, width, outputs=2, axis=1, largest=0)
            index = g("GatherElements", index, order, axis=1)
            taken = g("Less", places, beyond)
        answers = tokens.answers
        if self.spans:  # those of all tokens present; later writes replace those that are kept
            restored = inputs if self.model.restores_hidden else self._head(g, inputs)
            answers = self._write(g, tokens, restored)
        rows = g("Unsqueeze", index, g.constant([-1], np.int64))  # (B, m, 1)
        if self.embeds is not None and self.embeds.pooling != "cls":
            ended = self._ended(g, inputs)
            kept_sum = self._sum(g, g("GatherND", ended, rows, batch_dims=1), taken)
            lost = g("Sub", self._sum(g, ended, tokens.valid), kept_sum)
            answers = g("Add", answers, lost)
        left = Tokens(
            hidden=g("GatherND", tokens.hidden, rows, batch_dims=1),
            positions=g("GatherElements", tokens.positions, index, axis=1),
            valid=taken,
            question=g("And", g("GatherElements", tokens.question, index, axis=1), taken),
            answers=answers,
        )
        return replace(left, related=self._related(g, left.positions))

    def _ranking_span(self, g: GraphBuilder, hidden: str) -> str:
        """Add the head that tokens are ranked by: without no answer, at the first token."""
        logits = self._head(g, hidden)
        task = self.model.task
        if not (isinstance(task, Span) and task.null):
            return logits
        first = g("Unsqueeze", is_first(g, hidden), g.constant([-1], np.int64))  # (n, 1)
        return g("Where", first, g.constant(LOWEST, np.float32), logits)

    def _head(self, g: GraphBuilder, hidden: str) -> str:
        head = self.model.family.token_head(self.model.hf)
        if head.before is not None:
            hidden = layer_norm(g, hidden, head.before)
        if head.dense is not None:
            hidden = g(head.activation.capitalize(), linear(g, hidden, head.dense))
        if head.norm is not None:
            hidden = layer_norm(g, hidden, head.norm)
        return linear(g, hidden, head.out)

    def _write(self, g: GraphBuilder, tokens: Tokens, logits: str) -> str:
        size = g("Shape", tokens.answers)
        spare = g("Sub", g("Gather", size, g.constant(1, np.int64)), g.constant(1, np.int64))
        places = g("Where", tokens.valid, tokens.positions, spare)
        places = g(
            "Expand", g("Unsqueeze", places, g.constant([-1], np.int64)), g("Shape", logits)
        )
        return g("ScatterElements", tokens.answers, places, logits, axis=1)

    def _finish(self, tokens: Tokens) -> str:
        g = self.g
        if self.embeds is not None:
            return self._embedding(self.embeds, tokens)
        if not self.spans:
            return self._sentence(tokens)
        late, hidden = self.model.restores_hidden, tokens.hidden
        written = self._write(g, tokens, hidden if late else self._head(g, hidden))
        zero, one = g.constant([0], np.int64), g.constant([1], np.int64)
        restored = g("Slice", written, zero, g.constant([-1], np.int64), one)
        return self._head(g, restored) if late else restored

    def _sentence(self, tokens: Tokens) -> str:
        g, hidden = self.g, tokens.hidden
        head = self.model.family.sentence_head(self.model.hf)
        if head.before is not None:
            hidden = layer_norm(g, hidden, head.before)
        if head.mean:
            pooled = self._mean(hidden, tokens.valid)
        else:
            pooled = g("Gather", hidden, g.constant(0, np.int64), axis=1)  # (B, H)
        pooled = g(head.activation.capitalize(), linear(g, pooled, head.dense))
        if head.norm is not None:
            pooled = layer_norm(g, pooled, head.norm)
        return linear(g, pooled, head.out)

    def _embedding(self, task: Embedding, tokens: Tokens) -> str:
        g = self.g
        hidden = g("Identity", self._ended(g, tokens.hidden), name=HIDDEN)
        if task.pooling == "cls":
            pooled = g("Gather", hidden, g.constant(0, np.int64), axis=1)  # (B, H)
        else:
            total = g("Add", self._sum(g, hidden, tokens.valid), tokens.answers)
            count = g("ReduceSum", "attention_mask", g.constant([1], np.int64), keepdims=1)
            pooled = g("Div", total, g("Cast", count, to=TensorProto.FLOAT))
        if not task.normalize:
            return pooled
        length = g("ReduceL2", pooled, g.constant([-1], np.int64), keepdims=1)
        return g("Div", pooled, g("Max", length, g.constant(1e-12, np.float32)))

    def _ended(self, g: GraphBuilder, hidden: str) -> str:
        norm = self.model.family.last_norm(self.model.hf)
        return hidden if norm is None else layer_norm(g, hidden, norm)

    def _sum(self, g: GraphBuilder, hidden: str, valid: str) -> str:
        """Return the sum (B, H) of the real tokens."""
        real = g("Unsqueeze", g("Cast", valid, to=TensorProto.FLOAT), g.constant([-1], np.int64))
        return g("ReduceSum", g("Mul", hidden, real), g.constant([1], np.int64), keepdims=0)

    def _mean(self, hidden: str, valid: str) -> str:
        """Return the mean (B, H) of the real tokens."""
        g, tokens = self.g, self.g.constant([1], np.int64)
        real = g("Unsqueeze", g("Cast", valid, to=TensorProto.FLOAT), g.constant([-1], np.int64))
        total = g("ReduceSum", g("Mul", hidden, real), tokens, keepdims=0)
        return g("Div", total, g("ReduceSum", real, tokens, keepdims=0))
